package reconcile

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/rsa"
	_ "crypto/sha1" //nolint:gosec // a signature over SHA-1 is a signature of the issuing key, too
	"crypto/sha256"
	_ "crypto/sha512" // for signatures
	"crypto/x509/pkix"
	encasn1 "encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/tbs"
)

// signedBy reports whether the key made the signature of a certificate. It parses no more of the certificate than the
// signature needs, because a verifier with another parser may accept a certificate that Go's parser refuses. A
// signature over a broken hash such as SHA-1 counts too.
func signedBy(key crypto.PublicKey, der []byte) bool {
	p, err := tbs.Split(der)
	if err != nil {
		return false
	}
	var algorithm pkix.AlgorithmIdentifier
	if rest, err := encasn1.Unmarshal(p.Algorithm, &algorithm); err != nil || len(rest) > 0 {
		return false
	}
	hashes, known := signatureHashes[algorithm.Algorithm.String()]
	if !known {
		return false
	}
	switch k := key.(type) {
	case ed25519.PublicKey:
		return len(hashes) == 0 && ed25519.Verify(k, p.TBS, p.Signature)
	case *mldsa.PublicKey:
		return len(hashes) == 0 && mldsa.Verify(k, p.TBS, p.Signature, nil) == nil
	}
	for _, h := range hashes {
		digest := h.New()
		digest.Write(p.TBS)
		sum := digest.Sum(nil)
		switch k := key.(type) {
		case *ecdsa.PublicKey:
			if ecdsa.VerifyASN1(k, sum, p.Signature) {
				return true
			}
		case *rsa.PublicKey:
			if rsa.VerifyPKCS1v15(k, h, sum, p.Signature) == nil ||
				rsa.VerifyPSS(k, h, sum, p.Signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil {
				return true
			}
		}
	}
	return false
}

// signatureHashes lists the hashes of each signature algorithm (RFC 3279 §2.2, RFC 4055 §5, RFC 5758 §3; RFC 8410 §6
// and RFC 9881 §2: none). No verifier of code signatures accepts an algorithm that is missing here.
var signatureHashes = map[string][]crypto.Hash{
	"1.2.840.10045.4.1":     {crypto.SHA1},
	"1.2.840.10045.4.3.1":   {crypto.SHA224},
	"1.2.840.10045.4.3.2":   {crypto.SHA256},
	"1.2.840.10045.4.3.3":   {crypto.SHA384},
	"1.2.840.10045.4.3.4":   {crypto.SHA512},
	"1.2.840.113549.1.1.5":  {crypto.SHA1},
	"1.2.840.113549.1.1.14": {crypto.SHA224},
	"1.2.840.113549.1.1.11": {crypto.SHA256},
	"1.2.840.113549.1.1.12": {crypto.SHA384},
	"1.2.840.113549.1.1.13": {crypto.SHA512},
	// RSASSA-PSS: the hash is a parameter
	"1.2.840.113549.1.1.10": {crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA1},
	"1.3.101.112":           nil,
	// ML-DSA-44, ML-DSA-65, ML-DSA-87
	"2.16.840.1.101.3.4.3.17": nil,
	"2.16.840.1.101.3.4.3.18": nil,
	"2.16.840.1.101.3.4.3.19": nil,
}

// spkiOf returns the SubjectPublicKeyInfo of a DER Certificate (RFC 5280 §4.1).
func spkiOf(der []byte) ([]byte, bool) {
	p, err := tbs.Split(der)
	if err != nil {
		return nil, false
	}
	in := cryptobyte.String(p.TBS)
	var body, spki cryptobyte.String
	if !in.ReadASN1(&body, asn1.SEQUENCE) || !skipToSerial(&body) || !body.SkipASN1(asn1.INTEGER) {
		return nil, false
	}
	for range 4 { // signature, issuer, validity, subject
		if !body.SkipASN1(asn1.SEQUENCE) {
			return nil, false
		}
	}
	return spki, body.ReadASN1Element(&spki, asn1.SEQUENCE)
}

func skipToSerial(body *cryptobyte.String) bool {
	return body.SkipOptionalASN1(asn1.Tag(0).Constructed().ContextSpecific())
}

// serialOf returns the serial number of a TBSCertificate, right-aligned; zero if there is none.
func serialOf(der []byte) (out [20]byte) {
	in := cryptobyte.String(der)
	var body, number cryptobyte.String
	if !in.ReadASN1(&body, asn1.SEQUENCE) || !skipToSerial(&body) || !body.ReadASN1(&number, asn1.INTEGER) {
		return out
	}
	number = bytes.TrimLeft(number, "\x00")
	if len(number) > len(out) {
		number = number[:len(out)]
	}
	copy(out[len(out)-len(number):], number)
	return out
}

// extensionsDigest returns the first eight bytes of the SHA-256 of an SCT's extensions; 0 if there are none.
func extensionsDigest(extensions []byte) uint64 {
	if len(extensions) == 0 {
		return 0
	}
	sum := sha256.Sum256(extensions)
	var n uint64
	for _, b := range sum[:8] {
		n = n<<8 | uint64(b)
	}
	return n
}
