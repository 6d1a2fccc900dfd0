package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"time"
)

// HierarchyOptions are for [NewHierarchy].
type HierarchyOptions struct {
	Organization string
	Now          time.Time
	Rand         io.Reader // nil: crypto/rand
	// Timestamping makes the certificate of a timestamp authority (RFC 3161 §2.3) in place of an issuing certificate.
	Timestamping bool
}

// Hierarchy is a root and an issuing certificate, or that of a timestamp authority, with their keys.
type Hierarchy struct {
	Chain   []*x509.Certificate // the root last
	RootKey crypto.Signer
	Key     crypto.Signer
}

const (
	rootLife    = 10 * 365 * 24 * time.Hour
	issuingLife = 5 * 365 * 24 * time.Hour
)

// NewHierarchy makes a P-384 root that is valid for ten years and a P-256 issuing certificate that is valid for five
// years, has a path length of 0 and issues for code signing only. The certificate of a timestamp authority is valid for
// ten years, because the signatures with its timestamps verify as long as it does.
func NewHierarchy(o HierarchyOptions) (*Hierarchy, error) {
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P384(), o.Rand)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), o.Rand)
	if err != nil {
		return nil, err
	}
	from := o.Now.UTC().Truncate(time.Second).Add(-MaxBackdate) // so that the first certificate may be backdated, too
	root := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{o.Organization}, CommonName: o.Organization + " root"},
		NotBefore: from, NotAfter: from.Add(rootLife), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: 1,
	}
	issuing := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{o.Organization}, CommonName: o.Organization + " issuing"},
		NotBefore: from, NotAfter: from.Add(issuingLife), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	if o.Timestamping {
		root.Subject.CommonName, issuing = o.Organization+" timestamp root", o.timestamping(from)
	}
	if root, err = o.certify(root, &rootKey.PublicKey, issuer{root, rootKey}); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	if issuing, err = o.certify(issuing, &key.PublicKey, issuer{root, rootKey}); err != nil {
		return nil, fmt.Errorf("issuing certificate: %w", err)
	}
	return &Hierarchy{Chain: []*x509.Certificate{issuing, root}, RootKey: rootKey, Key: key}, nil
}

// timestamping returns the template of the certificate of a timestamp authority. Its extended key usage is critical and
// the only one (RFC 3161 §2.3).
func (o HierarchyOptions) timestamping(from time.Time) *x509.Certificate {
	usage := []byte("\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x08") // id-kp-timeStamping
	return &x509.Certificate{
		Subject: pkix.Name{
			Organization: []string{o.Organization},
			CommonName:   o.Organization + " timestamp authority",
		},
		NotBefore: from, NotAfter: from.Add(rootLife), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{
			Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage,
		}},
	}
}

// issuer is the certificate and the key of an issuing CA.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (o HierarchyOptions) certify(c *x509.Certificate, key crypto.PublicKey, by issuer) (*x509.Certificate, error) {
	serial, err := NewSerial(o.Rand)
	if err != nil {
		return nil, err
	}
	c.SerialNumber = new(big.Int).SetBytes(serial)
	der, err := x509.CreateCertificate(o.Rand, c, by.cert, key, by.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
