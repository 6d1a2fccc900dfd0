package kms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/rsa"
	"fmt"
)

// scheme is a signature scheme. Each service has its own name for it.
type scheme string

const (
	ecdsa256 scheme = "ECDSA with SHA-256"
	ecdsa384 scheme = "ECDSA with SHA-384"
	ecdsa512 scheme = "ECDSA with SHA-512"
	pkcs256  scheme = "RSA PKCS #1 v1.5 with SHA-256"
	pkcs384  scheme = "RSA PKCS #1 v1.5 with SHA-384"
	pkcs512  scheme = "RSA PKCS #1 v1.5 with SHA-512"
	pss256   scheme = "RSA-PSS with SHA-256"
	pss384   scheme = "RSA-PSS with SHA-384"
	pss512   scheme = "RSA-PSS with SHA-512"
	edwards  scheme = "Ed25519"
	mldsa44  scheme = "ML-DSA-44"
	mldsa65  scheme = "ML-DSA-65"
	mldsa87  scheme = "ML-DSA-87"
)

// schemeOf returns the scheme of a signature by a key with these options. For a combination that no service supports,
// it returns a scheme that is in no table.
func schemeOf(public crypto.PublicKey, opts crypto.SignerOpts) scheme {
	hash := opts.HashFunc()
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return scheme(fmt.Sprintf("ECDSA with %s", hash))
	case *rsa.PublicKey:
		if _, ok := opts.(*rsa.PSSOptions); ok {
			return scheme(fmt.Sprintf("RSA-PSS with %s", hash))
		}
		return scheme(fmt.Sprintf("RSA PKCS #1 v1.5 with %s", hash))
	case ed25519.PublicKey:
		if hash == 0 {
			return edwards
		}
	case *mldsa.PublicKey:
		if hash == 0 {
			return scheme(key.Parameters().String())
		}
	}
	return scheme(fmt.Sprintf("%T with %s", public, hash))
}

// notThere says that a service does not support the requested scheme.
func notThere(want scheme) error { return fmt.Errorf("the service cannot sign with %s", want) }
