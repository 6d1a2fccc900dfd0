// Package tink is the key backend for a key in an encrypted Tink keyset: a file in JSON that tinkey or a Tink library
// wrote, encrypted by a key-encryption key in a key management service. Fulcio's tinkca reads the same files.
//
// The service is called once, when the key is opened. After that, the key is in the memory of this process, like a key
// of ca/signer/file: the CA does not need the service while it runs, and anyone who can read the file and decrypt with
// the key-encryption key has the CA key. Only the primary key of the keyset is used, ECDSA or Ed25519. The prefix and
// the encoding of Tink's signatures are not used, because they have no meaning in certificates.
//
// The build tag notink leaves the backend out. Its settings are then refused with an error that names the tag. Errors
// MUST NOT contain any byte of the file or of the decrypted keyset.
package tink

import (
	"context"
	"errors"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// Settings name an encrypted keyset and the key that decrypts it.
type Settings struct {
	// Chain is the path of the chain in PEM: issuing certificate first, root last.
	Chain string `yaml:"chain" path:"read"`
	// Key is the path of the encrypted keyset in JSON.
	Key string `yaml:"key" path:"secret"`
	// KEK is the URI of the key-encryption key: aws-kms://ARN,
	// gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K, hashivault://KEY or openbao://KEY.
	KEK string `yaml:"kek"`
	// Limits are the bounds on the calls of the service.
	Limits remote.Limits `yaml:"limits"`
	// Vault says how HashiCorp Vault or OpenBao is reached. When omitted: by environment variables, as with ca.kms.
	Vault *kms.Vault `yaml:"vault"`
}

func (s *Settings) kek() kms.KEK { return kms.KEK{URI: s.KEK, Limits: s.Limits, Vault: s.Vault} }

// Check implements [signer.Backend].
func (s *Settings) Check() error {
	if parse == nil {
		return fault.BadSetting("this build does not include Tink", "use a build without the tag notink")
	}
	var errs []error
	if s.Chain == "" {
		errs = append(errs, fault.BadSetting("chain is missing",
			"write the path of the chain in PEM, issuing certificate first, root last", "chain"))
	}
	if s.Key == "" {
		errs = append(errs, fault.BadSetting("key is missing", "write the path of the encrypted keyset in JSON", "key"))
	}
	if s.KEK == "" {
		return errors.Join(append(errs, fault.BadSetting("kek is missing",
			"write the URI of the key that the keyset is encrypted with, such as aws-kms://ARN", "kek"))...)
	}
	return errors.Join(append(errs, s.kek().Check())...)
}

// Temporary implements [signer.Backend].
func (*Settings) Temporary() bool { return false }

// ChainFile implements [signer.Backend].
func (s *Settings) ChainFile() string { return s.Chain }

// Attest implements [signer.Attester].
func (s *Settings) Attest(context.Context) (signer.Attestation, error) {
	return signer.Attestation{
		Exportable: signer.ExportYes,
		Reason:     "it is a file: whoever can read it, and may decrypt with " + s.KEK + ", has the key",
	}, nil
}

// Open reads the keyset, and decrypts it with the service.
func (s *Settings) Open(ctx context.Context, _ signer.Options) (*signer.Key, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	data, err := input.Read(nil, s.Key)
	if err != nil {
		return nil, fault.BadFile(s.Key, err, "key")
	}
	var guard *remote.Guard
	key, err := parse(data, func(ciphertext []byte) (plaintext []byte, err error) {
		plaintext, guard, err = s.kek().Decrypt(ctx, ciphertext)
		return plaintext, err
	})
	if _, ok := errors.AsType[*pemfile.Error](err); ok {
		return nil, fault.BadContent(err, "", "key").In(s.Key)
	}
	if err != nil {
		return nil, err
	}
	return &signer.Key{Signer: key, Collectors: guard.Collectors()}, nil
}

// maxKeyset bounds an encrypted keyset, in bytes. A keyset with one key has less than 1 KiB, and AWS KMS encrypts at
// most 4 KiB.
const maxKeyset = 64 << 10
