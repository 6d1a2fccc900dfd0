package pki

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"time"
)

// Leaf signs a certificate with the issuing key outside of a CA, as after a key compromise: a precertificate (RFC 6962
// §3.1) or a final certificate. It returns the DER.
func (p *PKI) Leaf(number int64, precertificate bool) []byte {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(number), NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(9 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		EmailAddresses: []string{"rogue@example.com"},
	}
	if precertificate {
		c.ExtraExtensions = []pkix.Extension{{
			Id:       asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3},
			Critical: true, Value: asn1.NullBytes,
		}}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, p.Intermediate, NewKey(P256).Public(), p.Key)
	if err != nil {
		panic(err)
	}
	return der
}

// ChainDER returns the chain in DER, issuing certificate first.
func (p *PKI) ChainDER() [][]byte {
	var out [][]byte
	for _, c := range p.Chain {
		out = append(out, c.Raw)
	}
	return out
}
