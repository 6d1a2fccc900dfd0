// Package file is the key backend for a private key in a PEM file.
//
// It MUST NOT put any byte of the key or the password into an error.
package file

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// Settings name a key in a file.
type Settings struct {
	// Chain is the path of the chain in PEM: issuing certificate first, root last.
	Chain string `yaml:"chain" path:"read"`
	// Key is the path of the private key in PEM: PKCS#8, SEC 1 or PKCS#1, encrypted or not. The old encryption of
	// OpenSSL (DEK-Info) is read with a warning.
	Key string `yaml:"key" path:"secret"`
	// Password is the secret that decrypts the key. When omitted: the key is not encrypted.
	Password *secret.Source `yaml:"password"`
}

// Check implements [signer.Backend].
func (s *Settings) Check() error {
	var errs []error
	if s.Chain == "" {
		errs = append(errs, fault.BadSetting("chain is missing",
			"write the path of the chain in PEM, issuing certificate first, root last", "chain"))
	}
	if s.Key == "" {
		errs = append(errs, fault.BadSetting("key is missing", "write the path of the private key in PEM", "key"))
	}
	if p := s.Password; p != nil && (p.Env == "") == (p.File == "") {
		errs = append(errs, fault.BadSetting("a password has both env and file",
			"write {env: NAME} or {file: PATH}", "password"))
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
	text, err := pemfile.Read(s.Key)
	if err != nil {
		return nil, fault.BadFile(s.Key, err, "key")
	}
	password, err := s.Password.Read()
	if err = fault.Under(err, "password"); err != nil {
		return nil, err
	}
	key, err := ParseKey(KeyOptions{Key: text, Password: password, Warn: func(problem, fix string) {
		o.Warn(fault.BadSetting(problem, fix, "key").In(s.Key))
	}})
	if err != nil {
		return nil, fault.BadContent(err, "write the path of the CA's private key in PEM", "key").In(s.Key)
	}
	return &signer.Key{Signer: key}, nil
}

// KeyOptions for [ParseKey].
type KeyOptions struct {
	// Key is one private key in PEM: PKCS#8 (RFC 5958), PKCS#8 encrypted with a password, SEC 1 (RFC 5915) or PKCS#1
	// (RFC 8017). The last two may have OpenSSL's old encryption with PEM headers (RFC 1421).
	Key []byte
	// Password decrypts an encrypted key; it is ignored for an unencrypted key.
	Password []byte
	// Warn is called with a problem of a key that works, and with the remedy. Optional.
	Warn func(problem, fix string)
}

// ParseKey returns the key as a signer. Its errors are [*pemfile.Error] values; they say what to do.
func ParseKey(o KeyOptions) (crypto.Signer, error) {
	if o.Warn == nil {
		o.Warn = func(string, string) {}
	}
	block, err := only(o.Key)
	if err != nil {
		return nil, err
	}
	fail := func(problem, fix string) error { return &pemfile.Error{Line: block.Line, Problem: problem, Fix: fix} }
	var key crypto.PrivateKey
	der := block.Bytes
	legacy := block.Headers["DEK-Info"] != ""
	switch encrypted := legacy || strings.HasPrefix(block.Type, "ENCRYPTED "); {
	case encrypted && len(o.Password) == 0:
		return nil, fail("the private key is encrypted", "set its password")
	case !encrypted && len(o.Password) > 0:
		o.Warn("a password is set, but the private key is not encrypted",
			pkcs8+", or remove the password")
	}
	if legacy {
		o.Warn("the private key is encrypted in the old PEM form (DEK-Info), which has a weak key "+
			"derivation and no integrity", pkcs8)
		//nolint:staticcheck // deprecated for its weakness, of which the operator is warned; Fulcio reads such files
		der, err = x509.DecryptPEMBlock(&pem.Block{Type: block.Type, Headers: block.Headers, Bytes: block.Bytes},
			o.Password)
	}
	if err == nil {
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(der)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(der)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(der)
		case "ENCRYPTED PRIVATE KEY":
			text := pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der})
			key, err = cryptoutils.UnmarshalPEMToPrivateKey(text, cryptoutils.StaticPasswordFunc(o.Password))
		default:
			return nil, fail(fmt.Sprintf("private keys of the type %.40q are not supported", block.Type),
				"convert it with \"openssl pkcs8 -topk8\"")
		}
	}
	switch private, ok := key.(crypto.Signer); {
	case err != nil && (legacy || block.Type == "ENCRYPTED PRIVATE KEY"): // the cause may quote bytes of the key
		return nil, fail("the private key cannot be decrypted: wrong password or damaged file",
			"set the password that the key was encrypted with")
	case err != nil:
		return nil, fail("the private key cannot be parsed: the file is damaged, or contains another type of key",
			"restore the file")
	case !ok:
		return nil, fail(fmt.Sprintf("a key of type %T cannot sign", key), "use an ECDSA, RSA or Ed25519 key")
	default:
		return private, nil
	}
}

const pkcs8 = "encrypt it with \"openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out NEW\""

// only returns the single private key block. Elliptic-curve tools write an EC PARAMETERS block before it; certificates
// are not keys.
func only(data []byte) (pemfile.Block, error) {
	blocks, err := pemfile.Decode(data)
	if err != nil {
		return pemfile.Block{}, err
	}
	var found *pemfile.Block
	for i, b := range blocks {
		fail := func(problem, fix string) (pemfile.Block, error) {
			return pemfile.Block{}, &pemfile.Error{Line: b.Line, Problem: problem, Fix: fix}
		}
		switch {
		case b.Type == "EC PARAMETERS":
		case !strings.HasSuffix(b.Type, "PRIVATE KEY"):
			return fail(fmt.Sprintf("found a block %.40q instead of a private key", b.Type),
				"write the path of a file that contains only the private key")
		case found != nil:
			return fail("more than one private key", "keep the key that belongs to the certificate")
		default:
			found = &blocks[i]
		}
	}
	if found == nil {
		return pemfile.Block{}, &pemfile.Error{
			Problem: "the file contains no private key in PEM",
			Fix:     "write the path of a file that contains the private key",
		}
	}
	return *found, nil
}
