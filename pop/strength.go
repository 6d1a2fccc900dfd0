package pop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
)

// strong checks that pub has an accepted type and size, has no known weakness, and is not a key of the CA.
func (p *Policy) strong(spki []byte, pub crypto.PublicKey) error {
	var err error
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		err = strongCurve(k)
	case *rsa.PublicKey:
		err = p.rsa.check(k)
	case ed25519.PublicKey:
		err = strongEd25519(k)
	case *mldsa.PublicKey: // every encoding of the right length is a key, and no key is known to be weak (FIPS 204)
	default:
		err = fmt.Errorf("unsupported key type %T", pub)
	}
	if err != nil {
		return err
	}
	if p.forbidden[sha256.Sum256(spki)] {
		return errors.New("the public key is a key of the CA, its logs or its listeners")
	}
	return nil
}

// strongCurve checks the curve only. The order of each of the three curves is prime, so every point other than infinity
// has full order. The parser has already checked that the point is on the curve and is not infinity.
func strongCurve(k *ecdsa.PublicKey) error {
	switch k.Curve {
	case elliptic.P256(), elliptic.P384(), elliptic.P521():
		return nil
	}
	return fmt.Errorf("curve %s; P-256, P-384 and P-521 are accepted", k.Curve.Params().Name)
}

// strongEd25519 refuses the eight points whose order divides 8, in every encoding that a lenient decoder accepts for
// them, and every other encoding with a coordinate that is not reduced. Signatures can be forged for a key of small
// order.
func strongEd25519(k ed25519.PublicKey) error {
	if len(k) != ed25519.PublicKeySize {
		return fmt.Errorf("Ed25519 key of %d bytes", len(k))
	}
	y := [ed25519.PublicKeySize]byte(k)
	y[31] &= 0x7f // clear the sign of x: the negation of a small-order point also has small order
	if notReduced(y) {
		return errors.New("Ed25519 coordinate is not reduced modulo the prime")
	}
	if smallOrderY[y] {
		return errors.New("Ed25519 point of small order")
	}
	return nil
}

// notReduced reports whether the little-endian y, of 255 bits, is at least 2^255 - 19 (RFC 8032 section 5.1.3 step 1).
func notReduced(y [32]byte) bool {
	if y[31] != 0x7f || y[0] < 0xed {
		return false
	}
	for _, b := range y[1:31] {
		if b != 0xff {
			return false
		}
	}
	return true
}
