// Package device is a key backend for the test of the seam. The key service is a folder: the key can be used while the
// folder has a file "on", and each release is counted in the file "released".
package device

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/fault"
)

// Settings name a key of the service.
type Settings struct {
	// Chain is the path of the chain in PEM.
	Chain string `yaml:"chain" path:"read"`
	// Key is the path of the handle of the key.
	Key string `yaml:"key" path:"secret"`
}

// Check implements [signer.Backend].
func (s *Settings) Check() error {
	if s.Chain == "" || s.Key == "" {
		return fault.BadSetting("chain or key is missing", "write both", "key")
	}
	return nil
}

// Temporary implements [signer.Backend].
func (*Settings) Temporary() bool { return false }

// ChainFile implements [signer.Backend].
func (s *Settings) ChainFile() string { return s.Chain }

// Open implements [signer.Backend].
func (s *Settings) Open(context.Context, signer.Options) (*signer.Key, error) {
	text, err := os.ReadFile(s.Key)
	if err != nil {
		return nil, fault.BadFile(s.Key, err, "key")
	}
	der, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fault.BadSetting("is no handle", "write hexadecimal digits", "key").In(s.Key)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fault.BadSetting("is no handle of a key", "write another one", "key").In(s.Key)
	}
	folder := filepath.Dir(s.Key)
	return &signer.Key{
		Signer: handle{parsed.(crypto.Signer)},
		Probe: func(context.Context) error {
			if _, err := os.Stat(filepath.Join(folder, "on")); err != nil {
				return errors.New("the device is off")
			}
			return nil
		},
		Release: func() error {
			f, err := os.OpenFile(filepath.Join(folder, "released"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			_, err = f.WriteString("x")
			return errors.Join(err, f.Close())
		},
	}, nil
}

// handle is a signer of a type that the CA does not know.
type handle struct{ inner crypto.Signer }

func (h handle) Public() crypto.PublicKey { return h.inner.Public() }

func (h handle) Sign(random io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	return h.inner.Sign(random, digest, o)
}
