package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

var errSignature = errors.New("the signature does not verify")

// jws is a signature, over what, and by which algorithm.
type jws struct {
	alg       string
	input     string // what is signed: header, dot, payload, as they came (RFC 7515 §5.1)
	signature []byte
}

// verify verifies the signature over its signing input (RFC 7515 §5.2) with the algorithms of RFC 7518 §3.3 to §3.5 and
// RFC 8037 §3.1. The header was read before, once: what is verified here is what was parsed there. A key of another kind than
// alg needs verifies nothing, whoever chose it (D2).
func (s jws) verify(key crypto.PublicKey) error {
	if s.alg == "EdDSA" {
		if k, ok := key.(ed25519.PublicKey); ok && len(k) == ed25519.PublicKeySize && ed25519.Verify(k, []byte(s.input), s.signature) {
			return nil
		}
		return errSignature
	}
	hash, digest := digestFor(s.alg, []byte(s.input))
	if digest == nil {
		return errSignature
	}
	ok := false
	switch k := key.(type) {
	case *rsa.PublicKey:
		switch s.alg[:2] {
		case "RS":
			ok = rsa.VerifyPKCS1v15(k, hash, digest, s.signature) == nil
		case "PS":
			ok = rsa.VerifyPSS(k, hash, digest, s.signature, nil) == nil
		}
	case *ecdsa.PublicKey:
		ok = s.alg == curveAlgorithms[k.Curve] && verifyFixed(k, digest, s.signature)
	}
	if !ok {
		return errSignature
	}
	return nil
}

// digestFor hashes the signing input as alg says; nil for an algorithm that has no hash of its own.
func digestFor(alg string, input []byte) (crypto.Hash, []byte) {
	switch alg {
	case "RS256", "PS256", "ES256":
		sum := sha256.Sum256(input)
		return crypto.SHA256, sum[:]
	case "RS384", "PS384", "ES384":
		sum := sha512.Sum384(input)
		return crypto.SHA384, sum[:]
	case "RS512", "PS512", "ES512":
		sum := sha512.Sum512(input)
		return crypto.SHA512, sum[:]
	}
	return 0, nil
}

// verifyFixed verifies an ECDSA signature that is R and S side by side, each as long as the order of the curve (RFC 7518 §3.4).
func verifyFixed(k *ecdsa.PublicKey, digest, signature []byte) bool {
	size := (k.Curve.Params().N.BitLen() + 7) / 8
	if len(signature) != 2*size {
		return false
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, 2*size+12))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, n := range [][]byte{signature[:size], signature[size:]} {
			b.AddASN1(asn1.INTEGER, func(b *cryptobyte.Builder) { addNatural(b, n) })
		}
	})
	der, err := b.Bytes()
	return err == nil && ecdsa.VerifyASN1(k, digest, der)
}

// addNatural writes the content of a DER INTEGER that is not negative (X.690 §8.3).
func addNatural(b *cryptobyte.Builder, n []byte) {
	for len(n) > 1 && n[0] == 0 {
		n = n[1:]
	}
	if n[0] >= 0x80 {
		b.AddUint8(0)
	}
	b.AddBytes(n)
}
