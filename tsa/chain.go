package tsa

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"
)

// CheckChain checks the chain of a timestamp authority, the authority's certificate first and the root last: the
// requirements of [CheckCertificate], and the path from the certificate to the root at a time.
func CheckChain(chain []*x509.Certificate, at time.Time) error {
	if len(chain) < 2 {
		return errors.New("the chain has no certificate above that of the authority")
	}
	if err := CheckCertificate(chain[0]); err != nil {
		return fmt.Errorf("%s: %w", chain[0].Subject, err)
	}
	if err := VerifyPath(chain, at); err != nil {
		return fmt.Errorf("%s: %w", chain[0].Subject, err)
	}
	_, err := hashFor(chain[0].PublicKey)
	return err
}

// CheckCertificate returns the first requirement of RFC 3161 §2.3 and of verifiers that the certificate of a timestamp
// authority does not meet.
func CheckCertificate(c *x509.Certificate) error {
	switch {
	case len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageTimeStamping || len(c.UnknownExtKeyUsage) > 0:
		return errors.New("its extended key usage is not timeStamping alone")
	case !criticalUsage(c):
		return errors.New("its extended key usage is not critical")
	case c.IsCA:
		return errors.New("it is a CA certificate")
	case c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("its key usage lacks digitalSignature")
	}
	return nil
}

var oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}

func criticalUsage(c *x509.Certificate) bool {
	for _, x := range c.Extensions {
		if x.Id.Equal(oidExtKeyUsage) {
			return x.Critical
		}
	}
	return false
}

// VerifyPath verifies the path from the certificate of a timestamp authority to the root, at a time.
func VerifyPath(chain []*x509.Certificate, at time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	for _, c := range chain[1 : len(chain)-1] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping},
	})
	return err
}

const minRSA = 2048 // bits

// hashFor returns the hash for signatures with a key: the one with the strength of the curve (RFC 5753 §7.1.4), or
// SHA-256 for RSA. Other keys are refused, because tools that verify timestamps do not know them.
func hashFor(key crypto.PublicKey) (crypto.Hash, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return crypto.SHA256, nil
		case elliptic.P384():
			return crypto.SHA384, nil
		case elliptic.P521():
			return crypto.SHA512, nil
		}
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA {
			return 0, fmt.Errorf("an RSA key of %d bits is too short for timestamps; use 3072 or more", k.N.BitLen())
		}
		return crypto.SHA256, nil
	}
	return 0, fmt.Errorf("a key of type %T cannot be used for timestamps, because few verifiers know such signatures; "+
		"use ECDSA with P-256, P-384 or P-521, or RSA", key)
}
