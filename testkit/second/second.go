// Package second verifies ML-DSA certificates with another implementation than the product's: circl's parser of
// public keys and its ML-DSA. It uses nothing of crypto/mldsa.
package second

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/cloudflare/circl/pki"
	_ "github.com/cloudflare/circl/sign/mldsa/mldsa44" // registered in pki
	_ "github.com/cloudflare/circl/sign/mldsa/mldsa65"
	_ "github.com/cloudflare/circl/sign/mldsa/mldsa87"
)

// CheckSignature verifies the ML-DSA signature of a DER certificate with the key in the SubjectPublicKeyInfo of its
// issuer (RFC 9881): pure, with an empty context, the same algorithm in the certificate twice and in the key.
func CheckSignature(certificate, issuerSPKI []byte) error {
	key, err := pki.UnmarshalPKIXPublicKey(issuerSPKI)
	if err != nil {
		return fmt.Errorf("the key of the issuer: %w", err)
	}
	var c struct {
		TBS       asn1.RawValue
		Algorithm struct{ ID asn1.ObjectIdentifier }
		Signature asn1.BitString
	}
	if rest, err := asn1.Unmarshal(certificate, &c); err != nil || len(rest) > 0 {
		return fmt.Errorf("not a certificate: %w", err)
	}
	parsed, err := x509.ParseCertificate(certificate) // it compares the two AlgorithmIdentifiers
	if err != nil {
		return err
	}
	if scheme := pki.SchemeByOid(c.Algorithm.ID); scheme == nil || scheme.Name() != key.Scheme().Name() {
		return fmt.Errorf("the certificate is signed with %s, and the key is of %s", c.Algorithm.ID,
			key.Scheme().Name())
	}
	if !key.Scheme().Verify(key, c.TBS.FullBytes, c.Signature.Bytes, nil) {
		return fmt.Errorf("the signature of serial number %x does not verify", parsed.SerialNumber)
	}
	return nil
}

// CheckKey parses a SubjectPublicKeyInfo with an ML-DSA key, and writes it again: the bytes must be the same.
func CheckKey(spki []byte) error {
	key, err := pki.UnmarshalPKIXPublicKey(spki)
	if err != nil {
		return err
	}
	again, err := pki.MarshalPKIXPublicKey(key)
	if err != nil {
		return err
	}
	if string(again) != string(spki) {
		return errors.New("another encoding of the same key")
	}
	return nil
}
