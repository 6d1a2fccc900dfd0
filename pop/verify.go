package pop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/rsa"
	_ "crypto/sha512" // SHA-384 and SHA-512, which package crypto only names
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/fault"
)

// maxSignature is in bytes: more than the 4627 of ML-DSA-87, the longest signature (FIPS 204 table 2).
const maxSignature = 5 << 10

// VerifySignature checks a public key and the signature over the challenge. Its errors have the reasons KEY_MISSING,
// KEY_MALFORMED, KEY_WEAK, PROOF_INVALID and KEY_ALGORITHM_NOT_ALLOWED, checked in this order.
func (p *Policy) VerifySignature(proof Proof) (Key, error) {
	if len(proof.PublicKey) == 0 {
		return Key{}, fault.New(fault.KeyMissing, errors.New("no public key and no signing request"))
	}
	spki, pub, err := parseKey(proof.PublicKey)
	if err != nil {
		return Key{}, fault.New(fault.KeyMalformed, err)
	}
	if err := p.strong(spki, pub); err != nil {
		return Key{}, fault.New(fault.KeyWeak, err)
	}
	if err := canonical(spki, pub); err != nil {
		return Key{}, fault.New(fault.KeyMalformed, err)
	}
	hash := challengeHash(pub)
	if err := verifyChallenge(pub, hash, proof); err != nil {
		return Key{}, fault.New(fault.ProofInvalid, err, "claim", proof.ChallengeClaim)
	}
	return p.finish(spki, pub, hash)
}

// VerifyCSR checks a certificate signing request: one PEM block "CERTIFICATE REQUEST" or "NEW CERTIFICATE REQUEST".
// Subject, attributes and requested extensions are ignored. Its errors have the reasons CSR_MALFORMED, KEY_WEAK,
// PROOF_INVALID and KEY_ALGORITHM_NOT_ALLOWED, checked in this order.
func (p *Policy) VerifyCSR(pemBytes []byte) (Key, error) {
	csr, err := parseCSR(pemBytes)
	if err != nil {
		return Key{}, fault.New(fault.CSRMalformed, err)
	}
	spki, pub := csr.RawSubjectPublicKeyInfo, csr.PublicKey
	if err := p.strong(spki, pub); err != nil {
		return Key{}, fault.New(fault.KeyWeak, err)
	}
	if err := canonical(spki, pub); err != nil {
		return Key{}, fault.New(fault.CSRMalformed, err)
	}
	hash, known := csrHash(csr.SignatureAlgorithm)
	if hash == crypto.SHA1 || hash == crypto.MD5 {
		// The standard library still verifies SHA-1 signatures of signing requests. An attacker who can produce
		// collisions could move such a signature to another request.
		return Key{}, fault.New(fault.ProofInvalid,
			fmt.Errorf("signing request signed with %s", csr.SignatureAlgorithm))
	}
	if err := csr.CheckSignature(); err != nil {
		return Key{}, fault.New(fault.ProofInvalid,
			fmt.Errorf("signature of the signing request (%s): %w", csr.SignatureAlgorithm, err))
	}
	if !known {
		name := csr.SignatureAlgorithm.String()
		return Key{}, fault.New(fault.KeyAlgorithmNotAllowed, nil, "algorithm",
			name).WithPublic("unrecognized signature algorithm: %s", name)
	}
	return p.finish(spki, pub, hash)
}

// finish checks the list of permitted algorithms. As in Fulcio, this check comes last: a client with an invalid proof
// gets the error about the proof.
func (p *Policy) finish(spki []byte, pub crypto.PublicKey, h crypto.Hash) (Key, error) {
	a := ofKey(pub, h)
	if !p.permitted[a] {
		meta := []string{"algorithm", a.name()}
		// "openssl req" signs with SHA-256 by default, whatever the size of the key.
		if longer := challengeHash(pub); h != longer && p.permitted[ofKey(pub, longer)] {
			option := strings.ToLower(strings.ReplaceAll(longer.String(), "-", ""))
			meta = append(meta, "hint", fmt.Sprintf("sign the request with %s (openssl req -%s)", longer, option))
		}
		e := fault.New(fault.KeyAlgorithmNotAllowed, nil,
			meta...).WithPublic("signing algorithm not permitted: %T, %s", pub, h)
		return Key{}, e
	}
	return Key{SPKI: spki, Public: pub, Algorithm: a.name()}, nil
}

func verifyChallenge(pub crypto.PublicKey, h crypto.Hash, proof Proof) error {
	switch {
	case proof.Challenge == "":
		return errors.New("empty challenge: a signature over an empty message proves nothing")
	case len(proof.Signature) == 0:
		return errors.New("empty signature")
	case len(proof.Signature) > maxSignature:
		return fmt.Errorf("signature of %d bytes; at most %d", len(proof.Signature), maxSignature)
	}
	message := []byte(proof.Challenge)
	digest := message
	if h != 0 {
		state := h.New()
		state.Write(message)
		digest = state.Sum(nil)
	}
	ok := false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, digest, asn1Signature(k, proof.Signature))
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, h, digest, proof.Signature) == nil
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, message, proof.Signature)
	case *mldsa.PublicKey: // pure, with an empty context (RFC 9881 section 3)
		ok = mldsa.Verify(k, message, proof.Signature, nil) == nil
	}
	if !ok {
		return fmt.Errorf("signature over the challenge does not verify with the key (%T, %s)", pub, h)
	}
	return nil
}

// asn1Signature returns signature in the form of RFC 3279 §2.2.3. WebCrypto and .NET concatenate r and s, each as long
// as the order of the curve (IEEE P1363): a signature of exactly that length that is not ASN.1 is converted. Each
// signature has exactly one interpretation.
func asn1Signature(k *ecdsa.PublicKey, signature []byte) []byte {
	size := (k.Curve.Params().N.BitLen() + 7) / 8
	if len(signature) != 2*size || isSignature(signature) {
		return signature
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(signature[:size]))
		b.AddASN1BigInt(new(big.Int).SetBytes(signature[size:]))
	})
	der, err := b.Bytes()
	if err != nil {
		return signature
	}
	return der
}

// isSignature reports whether signature is an ASN.1 sequence of exactly two integers.
func isSignature(signature []byte) bool {
	in := cryptobyte.String(signature)
	var sequence cryptobyte.String
	var r, s big.Int
	return in.ReadASN1(&sequence, asn1.SEQUENCE) && in.Empty() && sequence.ReadASN1Integer(&r) &&
		sequence.ReadASN1Integer(&s) && sequence.Empty()
}

// csrHash returns the hash of a signature algorithm, and whether signing requests may use that algorithm.
func csrHash(a x509.SignatureAlgorithm) (crypto.Hash, bool) {
	switch a {
	case x509.ECDSAWithSHA256, x509.SHA256WithRSA:
		return crypto.SHA256, true
	case x509.ECDSAWithSHA384, x509.SHA384WithRSA:
		return crypto.SHA384, true
	case x509.ECDSAWithSHA512, x509.SHA512WithRSA:
		return crypto.SHA512, true
	case x509.PureEd25519, x509.MLDSA44, x509.MLDSA65, x509.MLDSA87:
		return 0, true
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1:
		return crypto.SHA1, false
	case x509.MD5WithRSA, x509.MD2WithRSA:
		return crypto.MD5, false
	}
	return 0, false
}
