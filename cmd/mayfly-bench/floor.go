package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"time"
)

// benchFloor measures the time of the cryptography that each certificate requires: one RS256 verification (token), one
// P-256 verification (proof), two signatures with a key of the CA's type, one P-256 verification (SCT) and one
// verification of the CA's signature. The result is the minimum of several runs.
func benchFloor(caKey crypto.PublicKey) (time.Duration, error) {
	token, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return 0, err
	}
	leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, err
	}
	issuing, verify, err := keyLike(caKey)
	if err != nil {
		return 0, err
	}
	short, long := sha256.Sum256([]byte("token, proof and SCT")), sha512.Sum384([]byte("certificate"))
	tokenSig, err1 := rsa.SignPKCS1v15(nil, token, crypto.SHA256, short[:])
	leafSig, err2 := ecdsa.SignASN1(rand.Reader, leaf, short[:])
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	digest, hash := long[:], crypto.SHA384
	switch k := caKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			digest, hash = short[:], crypto.SHA256
		}
	case *rsa.PublicKey:
		digest, hash = short[:], crypto.SHA256
	case ed25519.PublicKey:
		hash = 0
	}
	best := time.Hour
	for range 8 {
		const rounds = 25
		began := time.Now()
		for range rounds {
			ok := rsa.VerifyPKCS1v15(&token.PublicKey, crypto.SHA256, short[:], tokenSig) == nil
			ok = ecdsa.VerifyASN1(&leaf.PublicKey, short[:], leafSig) && ok
			ok = ecdsa.VerifyASN1(&leaf.PublicKey, short[:], leafSig) && ok
			first, err1 := issuing.Sign(rand.Reader, digest, hash)
			_, err2 := issuing.Sign(rand.Reader, digest, hash)
			if !ok || err1 != nil || err2 != nil || !verify(digest, first) {
				return 0, errors.New("a cryptographic operation failed on this machine")
			}
		}
		best = min(best, time.Since(began)/rounds)
	}
	return best, nil
}

// keyLike generates a key of the same type as public, and returns it with a function that verifies its signatures.
func keyLike(public crypto.PublicKey) (crypto.Signer, func(digest, sig []byte) bool, error) {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		key, err := ecdsa.GenerateKey(k.Curve, rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		return key, func(d, s []byte) bool { return ecdsa.VerifyASN1(&key.PublicKey, d, s) }, nil
	case *rsa.PublicKey:
		key, err := rsa.GenerateKey(rand.Reader, k.N.BitLen())
		if err != nil {
			return nil, nil, err
		}
		return key, func(d, s []byte) bool { return rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, d, s) == nil },
			nil
	case ed25519.PublicKey:
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		return key, func(d, s []byte) bool { return ed25519.Verify(pub, d, s) }, nil
	}
	return nil, nil, fmt.Errorf("the CA has a key of type %T, which cannot be timed", public)
}
