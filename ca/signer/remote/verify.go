package remote

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rsa"
	_ "crypto/sha256" // linked for the hashes below
	_ "crypto/sha512"
	"errors"
	"fmt"
)

// errWrong says that a signature does not verify with the key. Its causes, another key or a damaged signature, cannot
// be told apart.
var errWrong = errors.New("the signature does not verify with the public key that was read when the key was opened: " +
	"the service signed with another key or version, signed something else, or damaged the signature")

// verify checks a signature in the same way as crypto/x509 (FIPS 186-5 §6.4, RFC 8017 §8, RFC 8032 §5.1.7, FIPS 204
// §5.3 with an empty context).
func verify(public crypto.PublicKey, r request, signature []byte) error {
	var good bool
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(key, r.digest, signature)
	case *rsa.PublicKey:
		if pss, ok := r.opts.(*rsa.PSSOptions); ok {
			good = rsa.VerifyPSS(key, pss.Hash, r.digest, signature, pss) == nil
		} else {
			good = rsa.VerifyPKCS1v15(key, r.opts.HashFunc(), r.digest, signature) == nil
		}
	case ed25519.PublicKey:
		if r.opts.HashFunc() != 0 {
			return errors.New("Ed25519 signs messages, not digests")
		}
		good = len(key) == ed25519.PublicKeySize && ed25519.Verify(key, r.digest, signature)
	case *mldsa.PublicKey:
		if r.opts.HashFunc() != 0 {
			return errors.New("ML-DSA signs messages, not digests")
		}
		good = mldsa.Verify(key, r.digest, signature, nil) == nil
	default:
		return fmt.Errorf("a key of type %T cannot be verified", public)
	}
	if !good {
		return errWrong
	}
	return nil
}

// CertificateOptions returns the options with which a key signs certificates: the hash that fits the curve, SHA-256
// with PKCS #1 v1.5 for RSA, no hash for keys that sign messages.
func CertificateOptions(public crypto.PublicKey) crypto.SignerOpts {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P384():
			return crypto.SHA384
		case elliptic.P521():
			return crypto.SHA512
		}
		return crypto.SHA256
	case *rsa.PublicKey:
		return crypto.SHA256
	}
	return crypto.Hash(0)
}

// hashed returns the input of a signer for message: its digest, or message itself if there is no hash.
func hashed(message []byte, opts crypto.SignerOpts) []byte {
	if opts.HashFunc() == 0 {
		return message
	}
	h := opts.HashFunc().New()
	h.Write(message)
	return h.Sum(nil)
}
