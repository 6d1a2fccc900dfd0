// Package file is the key backend for a private key in a file: PEM, PKCS#12 or age.
//
// It MUST NOT put any byte of the key or the password into an error. The time and the memory that decryption takes are
// bounded, whatever parameters the file has: see maxIterations and maxScrypt.
package file

import (
	"context"
	"errors"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// Settings name a key in a file.
type Settings struct {
	// Chain is the path of the chain in PEM: issuing certificate first, root last.
	Chain string `yaml:"chain" path:"read"`
	// Key is the path of the private key: PEM (PKCS#8, SEC 1 or PKCS#1, encrypted or not), PKCS#12, or PEM encrypted
	// with age. OpenSSL's old encryption (DEK-Info) is accepted with a warning.
	Key string `yaml:"key" path:"secret"`
	// Password is the secret that decrypts the key. When omitted: the key is not encrypted, or age_identity decrypts
	// it.
	Password *secret.Source `yaml:"password"`
	// AgeIdentity is the path of a file with identities, as age-keygen writes it, for a key that is encrypted to one of
	// them.
	AgeIdentity string `yaml:"age_identity" path:"secret"`
}

// Check implements [signer.Backend].
func (s *Settings) Check() error {
	var errs []error
	if s.Chain == "" {
		errs = append(errs, fault.BadSetting("chain is missing",
			"write the path of the chain in PEM, issuing certificate first, root last", "chain"))
	}
	if s.Key == "" {
		errs = append(errs, fault.BadSetting("key is missing", "write the path of the private key", "key"))
	}
	errs = append(errs, fault.Under(s.Password.Check(), "password"))
	if s.Password != nil && s.AgeIdentity != "" {
		errs = append(errs, fault.BadSetting("both password and age_identity are set",
			"keep the one that decrypts the key", "age_identity"))
	}
	return errors.Join(errs...)
}

// Temporary implements [signer.Backend].
func (*Settings) Temporary() bool { return false }

// ChainFile implements [signer.Backend].
func (s *Settings) ChainFile() string { return s.Chain }

// Attest implements [signer.Attester].
func (s *Settings) Attest(context.Context) (signer.Attestation, error) {
	return signer.Attestation{
		Exportable: signer.ExportYes,
		Reason:     "it is a file: whoever can read it, and knows its password if it has one, has the key",
	}, nil
}

// Open reads the key. A key in the memory of this process needs neither Probe nor Release.
func (s *Settings) Open(_ context.Context, o signer.Options) (*signer.Key, error) {
	data, err := pemfile.Read(s.Key)
	if err != nil {
		return nil, fault.BadFile(s.Key, err, "key")
	}
	password, err := s.Password.Read()
	if err = fault.Under(err, "password"); err != nil {
		return nil, err
	}
	var identities []byte
	if s.AgeIdentity != "" {
		if identities, err = pemfile.Read(s.AgeIdentity); err != nil {
			return nil, fault.BadFile(s.AgeIdentity, err, "age_identity")
		}
		if err = checkIdentities(identities); err != nil {
			return nil, fault.BadContent(err, "", "age_identity").In(s.AgeIdentity)
		}
	}
	key, err := ParseKey(KeyOptions{
		Key: data, Password: password, AgeIdentities: identities,
		Warn: func(problem, fix string) { o.Warn(fault.BadSetting(problem, fix, "key").In(s.Key)) },
	})
	if err != nil {
		return nil, fault.BadContent(err, "write the path of the CA's private key", "key").In(s.Key)
	}
	return &signer.Key{Signer: key}, nil
}
