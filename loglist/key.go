package loglist

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"

	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// Sizes of an RSA modulus: RFC 6962 §2.1.4 sets the minimum; the maximum keeps verification cheap.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// ParseKey reads a log's key: exactly one PEM block with a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) that passes
// [CheckKey]. Text may precede the block; only white space may follow it.
func ParseKey(data []byte) (crypto.PublicKey, error) {
	key, err := pemfile.PublicKey(data)
	if err != nil {
		return nil, fmt.Errorf("log key: %w", err)
	}
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	return key, nil
}

// CheckKey returns an error unless key is ECDSA on P-256 or P-384, or RSA of 2048 to 8192 bits.
func CheckKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return fmt.Errorf("log key: curve %s is neither P-256 nor P-384", k.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("log key: RSA with %d bits; %d to %d are allowed", bits, minRSABits, maxRSABits)
		}
	default:
		return fmt.Errorf("log key: %T; a log signs with ECDSA or RSA (RFC 6962 section 2.1.4)", key)
	}
	return nil
}

// ID returns the log ID that belongs to a key: the SHA-256 of its SubjectPublicKeyInfo (RFC 6962 §3.2).
func ID(key crypto.PublicKey) ([32]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return [32]byte{}, fmt.Errorf("log key: %w", err)
	}
	return sha256.Sum256(spki), nil
}
