// Package pki creates CA hierarchies for tests: valid ones, and invalid ones through mutators of the templates.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// KeyType is the type of a CA key.
type KeyType string

// The types of CA keys.
const (
	P256    KeyType = "P-256"
	P384    KeyType = "P-384"
	P521    KeyType = "P-521"
	RSA2048 KeyType = "RSA-2048"
	Ed25519 KeyType = "Ed25519"
	MLDSA44 KeyType = "ML-DSA-44"
	MLDSA65 KeyType = "ML-DSA-65"
	MLDSA87 KeyType = "ML-DSA-87"
)

// Options are the options of [New]. A mutator changes a template before it is signed.
type Options struct {
	Key          KeyType   // "" is P256
	Now          time.Time // zero is time.Now()
	SelfSigned   bool      // the issuing certificate is the root
	Root         func(*x509.Certificate)
	Intermediate func(*x509.Certificate)
}

// PKI is a CA hierarchy with its keys.
type PKI struct {
	Root, Intermediate *x509.Certificate
	RootKey, Key       crypto.Signer
	Chain              []*x509.Certificate
}

// NewKey generates a key. It panics if the source of randomness fails.
func NewKey(t KeyType) crypto.Signer {
	var key crypto.Signer
	var err error
	switch t {
	case "", P256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case P521:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case RSA2048:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case Ed25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case MLDSA44:
		key, err = mldsa.GenerateKey(mldsa.MLDSA44())
	case MLDSA65:
		key, err = mldsa.GenerateKey(mldsa.MLDSA65())
	case MLDSA87:
		key, err = mldsa.GenerateKey(mldsa.MLDSA87())
	default:
		err = fmt.Errorf("unknown kind of key %q", t)
	}
	if err != nil {
		panic(err)
	}
	return key
}

// New creates a hierarchy: a root and an issuing certificate with keys of the same type.
func New(o Options) *PKI {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	from := o.Now.Add(-time.Hour)
	p := &PKI{RootKey: NewKey(o.Key)}
	root := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"test"}, CommonName: "test root"},
		NotBefore: from, NotAfter: from.Add(10 * 365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	if o.Root != nil {
		o.Root(root)
	}
	p.Root = certify(root, p.RootKey.Public(), issuer{root, p.RootKey})
	if o.SelfSigned {
		p.Intermediate, p.Key, p.Chain = p.Root, p.RootKey, []*x509.Certificate{p.Root}
		return p
	}
	p.Key = NewKey(o.Key)
	inter := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"test"}, CommonName: "test issuing"},
		NotBefore: from, NotAfter: from.Add(5 * 365 * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	if o.Intermediate != nil {
		o.Intermediate(inter)
	}
	p.Intermediate = certify(inter, p.Key.Public(), issuer{p.Root, p.RootKey})
	p.Chain = []*x509.Certificate{p.Intermediate, p.Root}
	return p
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 150))
	if err != nil {
		panic(err)
	}
	return n.Add(n, big.NewInt(1))
}

type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func certify(c *x509.Certificate, key crypto.PublicKey, by issuer) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, c, by.cert, key, by.key)
	if err != nil {
		panic(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return out
}

// ChainPEM returns the chain in PEM, issuing certificate first.
func (p *PKI) ChainPEM() []byte {
	var out []byte
	for _, c := range p.Chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// KeyPEM returns the issuing key in PEM, as PKCS#8.
func (p *PKI) KeyPEM() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// PublicPEM returns a public key in PEM, as PKIX. It panics if the type of the key is not supported.
func PublicPEM(key crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}
