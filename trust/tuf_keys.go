package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/youmark/pkcs8"

	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

type tufSigner = signature.Signer

func (r *Repository) keyFile(role string) string { return filepath.Join(r.o.Dir, "keys", role+".pem") }

// newKey generates a key for role. The key is written together with the root metadata that names it.
func (r *Repository) newKey(role string) (*metadata.Key, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	kind := "PRIVATE KEY"
	var der []byte
	if len(r.o.Password) > 0 {
		kind = "ENCRYPTED PRIVATE KEY"
		der, err = pkcs8.MarshalPrivateKey(key, r.o.Password, nil)
	} else {
		der, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil {
		return nil, err
	}
	if r.change.signers[role], err = signature.LoadSigner(key, crypto.SHA256); err != nil {
		return nil, err
	}
	r.change.keys[role] = pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	return metadata.KeyFromPublicKey(key.Public())
}

// hasKey reports whether the private key of role is in the directory.
func (r *Repository) hasKey(role string) bool {
	_, err := os.Stat(r.keyFile(role))
	return err == nil
}

// signersOf returns the signer for role: the new key of this change, or the key in the directory, which the root must
// name.
func (r *Repository) signersOf(role string) ([]tufSigner, error) {
	if s, ok := r.change.signers[role]; ok {
		return []tufSigner{s}, nil
	}
	s, err := r.readKey(r.keyFile(role))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the key of %s is missing; copy it to %s", role, r.keyFile(role))
	}
	if err != nil {
		return nil, err
	}
	if ok, err := r.names(role, s); err != nil || ok {
		return []tufSigner{s}, err
	}
	// Earlier versions of mayfly left the new key under this name if a crash interrupted a rotation.
	next := filepath.Join(r.o.Dir, "keys", role+".next.pem")
	if s, err := r.readKey(next); err == nil {
		if ok, err := r.names(role, s); err != nil || ok {
			return []tufSigner{s}, err
		}
	}
	return nil, fmt.Errorf("%s is not the key that the root names", r.keyFile(role))
}

// names reports whether the root names the key of s for role.
func (r *Repository) names(role string, s tufSigner) (bool, error) {
	public, err := s.PublicKey()
	if err != nil {
		return false, err
	}
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return false, err
	}
	id, err := key.ID()
	if err != nil {
		return false, err
	}
	return slices.Contains(r.root.Signed.Roles[role].KeyIDs, id), nil
}

func (r *Repository) readKey(name string) (tufSigner, error) {
	data, err := os.ReadFile(filepath.Clean(name))
	if err != nil {
		return nil, err
	}
	b, err := pemfile.Only(data, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var key crypto.PrivateKey
	if b.Type == "ENCRYPTED PRIVATE KEY" {
		if key, err = pkcs8.ParsePKCS8PrivateKey(b.Bytes, r.o.Password); err != nil {
			return nil, fmt.Errorf("%s: the password cannot decrypt it", name)
		}
	} else if key, err = x509.ParsePKCS8PrivateKey(b.Bytes); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return signature.LoadSigner(key, crypto.SHA256)
}
