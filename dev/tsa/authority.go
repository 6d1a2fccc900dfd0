// Package tsa is the timestamp authority of "mayfly dev" (RFC 3161): it signs the time at which it received a digest,
// so that a signature still verifies after its certificate has expired.
//
// The time is the time of this machine. The authority MUST be used for development only: its clock is not monitored,
// and its key is in a file.
package tsa

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// life is the validity period of the authority's certificates, which must exceed that of the signatures with its
// timestamps.
const life = 20 * 365 * 24 * time.Hour

// Options are the options of [New].
type Options struct {
	Dir string           // directory of key and chain; only the owner can read the key
	Now func() time.Time // nil: time.Now
}

// Authority signs timestamps. It is safe for concurrent use.
type Authority struct {
	now   func() time.Time
	key   *ecdsa.PrivateKey
	chain []*x509.Certificate
}

// New loads the authority's key and chain, or creates them.
func New(o Options) (*Authority, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &Authority{now: o.Now}
	found, err := a.open(o.Dir)
	if err == nil && !found {
		err = a.create(o.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("timestamp authority: %w", err)
	}
	return a, nil
}

// Chain returns the signing certificate and its root.
func (a *Authority) Chain() []*x509.Certificate { return a.chain }

const (
	keyFile   = "key.pem"
	chainFile = "chain.pem"
)

// open reads key and chain. The chain is written last, so an authority without a chain has not been created yet.
func (a *Authority) open(dir string) (found bool, err error) {
	rest, err := os.ReadFile(filepath.Join(dir, chainFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, e := os.Stat(filepath.Join(dir, keyFile)); e == nil { // the key is written before the chain
			return false,
				fmt.Errorf("%w, but its key exists: restore the chain, or remove %s to create a new authority",
					err, dir)
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	key, err := os.ReadFile(filepath.Join(dir, keyFile))
	if err != nil {
		return false, fault.Cure(err, fmt.Sprintf("restore it, or remove %s to create a new authority", dir))
	}
	if a.chain, err = pemfile.Certificates(rest); err != nil {
		return false, fmt.Errorf("%s: %w, or remove %s to create a new authority",
			filepath.Join(dir, chainFile), err, dir)
	}
	b, err := pemfile.Only(key, "PRIVATE KEY")
	if err != nil {
		return false, fmt.Errorf("%s: %w, or remove %s to create a new authority",
			filepath.Join(dir, keyFile), err, dir)
	}
	if k, err := x509.ParsePKCS8PrivateKey(b.Bytes); err == nil {
		a.key, _ = k.(*ecdsa.PrivateKey)
	}
	if a.key == nil || len(a.chain) != 2 || !a.key.PublicKey.Equal(a.chain[0].PublicKey) {
		return false,
			fmt.Errorf("%s does not contain a key and its chain; restore it, or remove it to create a new authority",
				dir)
	}
	return true, nil
}

// create creates a root, whose key is discarded after one signature, and the signing certificate that it issues.
func (a *Authority) create(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	from := a.now().Add(-time.Hour).UTC().Truncate(time.Second)
	root := &x509.Certificate{
		SerialNumber: serial(), NotBefore: from, NotAfter: from.Add(life), BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageCertSign,
		Subject:  pkix.Name{Organization: []string{"mayfly dev"}, CommonName: "mayfly dev timestamp root"},
	}
	purpose, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: serial(), NotBefore: from, NotAfter: from.Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
		Subject: pkix.Name{Organization: []string{"mayfly dev"}, CommonName: "mayfly dev timestamp authority"},
		// Critical, and the only extended key usage (RFC 3161 §2.3).
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: purpose}},
	}
	var text bytes.Buffer
	a.chain = nil
	for _, c := range []struct {
		template, parent *x509.Certificate
		key              any
	}{{leaf, root, &a.key.PublicKey}, {root, root, &rootKey.PublicKey}} {
		der, err := x509.CreateCertificate(rand.Reader, c.template, c.parent, c.key, rootKey)
		if err != nil {
			return err
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		a.chain = append(a.chain, parsed)
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return err
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, keyFile),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, chainFile), text.Bytes(), 0o644)
}

// serial returns 127 random bits.
func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never returns an error
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}
