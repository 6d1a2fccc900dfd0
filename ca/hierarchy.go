package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// HierarchyOptions are for [NewHierarchy].
type HierarchyOptions struct {
	Organization string
	Now          time.Time
	Rand         io.Reader // nil: crypto/rand
}

// Hierarchy is a root and an issuing certificate with their keys.
type Hierarchy struct {
	Chain   []*x509.Certificate // issuing certificate first, root last
	RootKey crypto.Signer
	Key     crypto.Signer
}

const (
	rootLife    = 10 * 365 * 24 * time.Hour
	issuingLife = 5 * 365 * 24 * time.Hour
)

// NewHierarchy makes a P-384 root that is valid for ten years and a P-256 issuing certificate that is valid for five
// years, has a path length of 0 and issues for code signing only.
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
	issuing := issuingTemplate(from, from.Add(issuingLife))
	issuing.Subject = pkix.Name{Organization: []string{o.Organization}, CommonName: o.Organization + " issuing"}
	if root, err = o.certify(root, &rootKey.PublicKey, issuer{root, rootKey}); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	if issuing, err = o.certify(issuing, &key.PublicKey, issuer{root, rootKey}); err != nil {
		return nil, fmt.Errorf("issuing certificate: %w", err)
	}
	return &Hierarchy{Chain: []*x509.Certificate{issuing, root}, RootKey: rootKey, Key: key}, nil
}

// issuer is the certificate and the key of an issuing CA.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (o HierarchyOptions) certify(c *x509.Certificate, key crypto.PublicKey, by issuer) (*x509.Certificate, error) {
	serial, err := rand.Int(o.Rand, new(big.Int).Lsh(big.NewInt(1), 158))
	if err != nil {
		return nil, err
	}
	c.SerialNumber = serial.SetBit(serial, 158, 1)
	der, err := x509.CreateCertificate(o.Rand, c, by.cert, key, by.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// issuingTemplate is an issuing certificate without a subject: path length 0, for code signing only.
func issuingTemplate(from, to time.Time) *x509.Certificate {
	return &x509.Certificate{
		NotBefore: from, NotAfter: to, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
}

// IntermediateOptions for [NewIntermediate].
type IntermediateOptions struct {
	// Parent is the chain of the certificate that signs, with the root last; Signer holds its key.
	Parent []*x509.Certificate
	Signer crypto.Signer
	// Subject is a certificate whose subject the new one has.
	Subject *x509.Certificate
	Life    time.Duration // it ends with the parent at the latest
	Now     time.Time
	Rand    io.Reader // nil: crypto/rand
}

// NewIntermediate makes an issuing certificate below a parent, with a new P-256 key: path length 0, for code signing
// only. The chain is checked as [New] checks it. A wrong parent is a [fault.Setting] with the path "chain" or "key".
func NewIntermediate(o IntermediateOptions) (*Hierarchy, error) {
	h := HierarchyOptions{Rand: o.Rand}
	if h.Rand == nil {
		h.Rand = rand.Reader
	}
	parent := o.Parent[0]
	if !samePublicKey(parent, o.Signer) {
		return nil, fault.BadSetting(fmt.Sprintf("the key is not the key of certificate 1 (%s)", name(parent)),
			"write the key that belongs to the chain", "key")
	}
	if err := checkOrder(o.Parent); err != nil {
		return nil, fault.BadSetting(err.Error(),
			"write one chain, the certificate of the key first, root last", "chain")
	}
	from := o.Now.UTC().Truncate(time.Second).Add(-MaxBackdate)
	if from.Before(parent.NotBefore) {
		from = parent.NotBefore
	}
	to := from.Add(o.Life)
	if to.After(parent.NotAfter) {
		to = parent.NotAfter
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), h.Rand)
	if err != nil {
		return nil, err
	}
	template := issuingTemplate(from, to)
	template.RawSubject = o.Subject.RawSubject
	c, err := h.certify(template, &key.PublicKey, issuer{parent, o.Signer})
	if err != nil {
		return nil, err
	}
	chain := append([]*x509.Certificate{c}, o.Parent...)
	if err := checkChain(chain, o.Now); err != nil {
		return nil, fault.BadSetting(err.Error(),
			"write the chain of a key that may sign issuing certificates", "chain")
	}
	return &Hierarchy{Chain: chain, Key: key}, nil
}
