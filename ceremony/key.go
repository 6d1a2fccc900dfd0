package ceremony

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/youmark/pkcs8"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// algorithms are the algorithms of the keys that a ceremony can make.
var algorithms = []struct {
	name string
	make func(random io.Reader) (crypto.Signer, error)
}{
	{"ecdsa-p256", func(r io.Reader) (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), r) }},
	{"ecdsa-p384", func(r io.Reader) (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), r) }},
	{"ecdsa-p521", func(r io.Reader) (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P521(), r) }},
	{"ed25519", func(r io.Reader) (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(r)
		return key, err
	}},
	{"rsa-3072", func(r io.Reader) (crypto.Signer, error) { return rsa.GenerateKey(r, 3072) }},
	{"rsa-4096", func(r io.Reader) (crypto.Signer, error) { return rsa.GenerateKey(r, 4096) }},
	{"ml-dsa-44", mldsaKey(mldsa.MLDSA44())}, // experimental: see HasMLDSA of package ca
	{"ml-dsa-65", mldsaKey(mldsa.MLDSA65())},
	{"ml-dsa-87", mldsaKey(mldsa.MLDSA87())},
}

// mldsaKey makes a key from a random seed (RFC 9881 §6).
func mldsaKey(parameters mldsa.Parameters) func(io.Reader) (crypto.Signer, error) {
	return func(random io.Reader) (crypto.Signer, error) {
		seed := make([]byte, mldsa.PrivateKeySize)
		if _, err := io.ReadFull(random, seed); err != nil {
			return nil, err
		}
		return mldsa.NewPrivateKey(parameters, seed)
	}
}

// Algorithms returns the names of the algorithms of keys that a ceremony can make.
func Algorithms() []string {
	out := make([]string, 0, len(algorithms))
	for _, a := range algorithms {
		out = append(out, a.name)
	}
	return out
}

// GenerateKey makes a key; name is one of [Algorithms].
func GenerateKey(name string, random io.Reader) (crypto.Signer, error) {
	for _, a := range algorithms {
		if a.name == name {
			return a.make(random)
		}
	}
	return nil, fmt.Errorf("unknown algorithm %q", name)
}

// KeySource says where a key of a ceremony is, or how to make it.
type KeySource struct {
	// Table is the key backend, as below ca in mayfly.yaml.
	Table backends.Table
	// Generate is the algorithm of a key to make; Table.File has its path and password. Empty: the key exists.
	Generate string
	// Unencrypted says that the new key is written without encryption.
	Unencrypted bool
}

// Key is an open key of a ceremony.
type Key struct {
	Signer crypto.Signer
	// Statement describes the key in a transcript.
	Statement KeyStatement
	output    *Output // the file of a new key
	release   func() error
}

// KeyStatement says where a key is, without its secret.
type KeyStatement struct {
	Backend    string `json:"backend"` // file, kms, …
	Place      string `json:"place,omitempty"`
	Generated  string `json:"generated,omitempty"` // the algorithm, if the ceremony made the key
	Encrypted  bool   `json:"encrypted,omitempty"`
	Exportable string `json:"exportable"` // yes, no or unknown
	Reason     string `json:"exportable_because,omitempty"`
	// Evidence has the facts behind Exportable, by name.
	Evidence map[string]string `json:"evidence,omitempty"`
	// PublicKey is the SHA-256 of the SubjectPublicKeyInfo, in hexadecimal.
	PublicKey string `json:"public_key_sha256"`
}

// Close releases the key.
func (k *Key) Close() error {
	if k == nil || k.release == nil {
		return nil
	}
	return k.release()
}

// OpenKey opens or makes a key. It writes no file. Errors about a setting are [fault.Setting] values with a path in the
// backend's block.
func OpenKey(ctx context.Context, s KeySource, o Options) (*Key, error) {
	o.defaults()
	name, backend := s.Table.Selected()
	if backend == nil {
		return nil, errors.New("the key backend is missing; write one under ca, or name a key file")
	}
	key := &Key{Statement: KeyStatement{Backend: name, Exportable: signer.ExportUnknown}}
	if s.Generate != "" {
		if err := key.generate(s, o); err != nil {
			return nil, err
		}
	} else {
		opened, err := backend.Open(ctx, signer.Options{Warn: o.Warn})
		if err != nil {
			return nil, fault.Under(err, name)
		}
		key.Signer, key.release = opened.Signer, opened.Close
	}
	switch t := s.Table; {
	case t.File != nil:
		key.Statement.Place = t.File.Key
	case t.KMS != nil:
		key.Statement.Place = t.KMS.Key
	case t.PKCS11 != nil:
		key.Statement.Place = t.PKCS11.Key
	case t.Tink != nil:
		key.Statement.Place = t.Tink.Key
	}
	if attester, ok := backend.(signer.Attester); ok {
		a, err := attester.Attest(ctx)
		if err != nil {
			return nil, errors.Join(fault.Under(err, name), key.Close())
		}
		key.Statement.Exportable, key.Statement.Reason = a.Exportable, a.Reason
		key.Statement.Evidence = a.Evidence
	} else {
		key.Statement.Reason = "the key backend does not say"
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Signer.Public())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("a key of type %T cannot be certified; use ECDSA, RSA or Ed25519",
			key.Signer.Public()), key.Close())
	}
	sum := sha256.Sum256(spki)
	key.Statement.PublicKey = hex.EncodeToString(sum[:])
	return key, nil
}

func (k *Key) generate(s KeySource, o Options) error {
	f := s.Table.File
	if f == nil {
		return errors.New("keys are generated in files only; generate this key with the tools of its key backend")
	}
	var password []byte
	if !s.Unencrypted {
		var err error
		if password, err = o.Password(f.Password); err != nil {
			return fault.Under(err, "file", "password")
		}
		if len(password) == 0 {
			return errors.New("the key has no password; name one")
		}
	}
	var err error
	if k.Signer, err = GenerateKey(s.Generate, o.Rand); err != nil {
		return err
	}
	text, err := encodeKey(k.Signer, password, o.Iterations)
	if err != nil {
		return err
	}
	k.Statement.Generated, k.Statement.Encrypted = s.Generate, len(password) > 0
	what := "private key"
	if len(password) > 0 {
		what = "private key, encrypted"
	}
	k.output = &Output{Path: f.Key, What: what, Mode: 0o600, data: text, Secret: true}
	return nil
}

// EncodeKey encodes a private key as PKCS#8 in PEM, encrypted if there is a password (PBES2, PBKDF2 with 600,000
// iterations of HMAC-SHA-256, AES-256-CBC).
func EncodeKey(key crypto.Signer, password []byte) ([]byte, error) {
	return encodeKey(key, password, DefaultIterations)
}

func encodeKey(key crypto.Signer, password []byte, iterations int) ([]byte, error) {
	if len(password) == 0 {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
	}
	der, err := pkcs8.MarshalPrivateKey(key, password, &pkcs8.Opts{
		Cipher:  pkcs8.AES256CBC,
		KDFOpts: pkcs8.PBKDF2Opts{SaltSize: 16, IterationCount: iterations, HMACHash: crypto.SHA256},
	})
	if err != nil {
		return nil, errors.New("the private key cannot be encrypted") // the cause may quote the key
	}
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}), nil
}

// FileKey returns the source of a key in a file.
func FileKey(key, chain string, password *secret.Source) KeySource {
	return KeySource{Table: backends.Table{File: &file.Settings{Key: key, Chain: chain, Password: password}}}
}
