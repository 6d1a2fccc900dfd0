package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
)

// NewKeyLike returns a new key that signs certificates with the same AlgorithmIdentifier as key: for the key of a
// precertificate signing certificate (RFC 6962 §3.2), and for a temporary signature over what is to be checked. The
// length of an RSA key is not part of the algorithm: the new key is the shortest that is allowed, which signs fastest.
func NewKeyLike(key crypto.PublicKey) (crypto.Signer, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return ecdsa.GenerateKey(k.Curve, rand.Reader)
		}
		return nil, fmt.Errorf("the curve %s is not allowed for a CA; use P-256, P-384 or P-521", k.Curve.Params().Name)
	case *rsa.PublicKey:
		return rsa.GenerateKey(rand.Reader, 2048)
	case ed25519.PublicKey:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	case *mldsa.PublicKey:
		return mldsa.GenerateKey(k.Parameters())
	}
	return nil, fmt.Errorf("a key of type %T cannot sign certificates here; use ECDSA, RSA, Ed25519 or ML-DSA", key)
}
