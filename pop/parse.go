package pop

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// Limits in bytes, checked before parsing. An RSA-4096 key is 800 bytes of PEM, an ML-DSA-87 key 3.6 KiB, and a signing
// request with such a key 10 KiB; the text that "openssl req -text" writes before a request is up to three times as
// long.
const (
	maxKey = 16 << 10
	maxCSR = 48 << 10
)

// parseKey returns the SubjectPublicKeyInfo and its key. The parser of the standard library refuses an EC point that is
// not on its curve, the point at infinity and a compressed point.
func parseKey(data []byte) ([]byte, crypto.PublicKey, error) {
	if len(data) > maxKey {
		return nil, nil, fmt.Errorf("public key of %d bytes; at most %d", len(data), maxKey)
	}
	if !bytes.Contains(data, []byte(pemStart)) {
		return parsePKIX(data)
	}
	block, err := pemfile.Only(data)
	if err != nil {
		return nil, nil, err
	}
	switch block.Type {
	case "PUBLIC KEY":
		return parsePKIX(block.Bytes)
	case "RSA PUBLIC KEY":
		return parsePKCS1(block.Bytes)
	}
	return nil, nil, fmt.Errorf(`PEM block is %.40q, not "PUBLIC KEY" or "RSA PUBLIC KEY"`, block.Type)
}

func parsePKIX(der []byte) ([]byte, crypto.PublicKey, error) {
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, nil, err
	}
	return bytes.Clone(der), pub, nil
}

// parsePKCS1 converts the RSAPublicKey of RFC 8017 appendix A.1.1 into the SubjectPublicKeyInfo that a certificate
// contains.
func parsePKCS1(der []byte) ([]byte, crypto.PublicKey, error) {
	pub, err := x509.ParsePKCS1PublicKey(der)
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(x509.MarshalPKCS1PublicKey(pub), der) {
		return nil, nil, errors.New("the RSA key is not in its canonical DER encoding")
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, nil, err
	}
	return spki, pub, nil
}

func parseCSR(data []byte) (*x509.CertificateRequest, error) {
	switch {
	case len(data) == 0:
		return nil, errors.New("empty signing request")
	case len(data) > maxCSR:
		return nil, fmt.Errorf("signing request of %d bytes; at most %d", len(data), maxCSR)
	}
	block, err := pemfile.Only(data)
	if err != nil {
		return nil, err
	}
	if block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, fmt.Errorf(`PEM block is %.40q, not "CERTIFICATE REQUEST"`, block.Type)
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

const pemStart = "-----BEGIN "

// canonical checks that spki is the canonical encoding of pub. The standard library accepts extra elements at the end
// of several sequences, and a bit string whose length is not a whole number of bytes.
func canonical(spki []byte, pub crypto.PublicKey) error {
	var again []byte
	var err error
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		again, err = marshalEC(k)
	case *rsa.PublicKey, ed25519.PublicKey, *mldsa.PublicKey:
		again, err = x509.MarshalPKIXPublicKey(pub)
	default:
		return fmt.Errorf("unsupported key type %T", pub)
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(again, spki) {
		return errors.New("the key is not in its canonical DER encoding")
	}
	return nil
}

// marshalEC encodes an EC key as [x509.MarshalPKIXPublicKey] does, from the constant prefix of each curve (RFC 5480
// §2): algorithm, curve, and the header of the bit string with the uncompressed point.
func marshalEC(k *ecdsa.PublicKey) ([]byte, error) {
	var start string
	switch k.Curve {
	case elliptic.P256():
		start = "\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"
	case elliptic.P384():
		start = "\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00"
	case elliptic.P521():
		start = "\x30\x81\x9b\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23\x03\x81\x86\x00"
	default:
		return nil, fmt.Errorf("unsupported curve %s", k.Curve.Params().Name)
	}
	point, err := k.Bytes()
	if err != nil {
		return nil, err
	}
	return append(append(make([]byte, 0, len(start)+len(point)), start...), point...), nil
}
