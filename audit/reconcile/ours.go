package reconcile

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/ctlog/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
)

// keyring is what makes an entry ours: the issuing keys of this CA, past and present.
type keyring struct {
	hashes  map[[32]byte]bool // SHA-256 of the SPKI
	issuers []*x509.Certificate
}

// keyHash is how the bytes of an SPKI are named.
func keyHash(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

func newKeyring(issuers []*x509.Certificate) *keyring {
	k := &keyring{hashes: map[[32]byte]bool{}, issuers: issuers}
	for _, c := range issuers {
		k.hashes[keyHash(c)] = true
	}
	return k
}

// learn takes a key in that a journal names, and reports whether it is a new one.
func (k *keyring) learn(hexadecimal string) bool {
	var sum [32]byte
	if n, err := hex.Decode(sum[:], []byte(hexadecimal)); err != nil || n != len(sum) || len(hexadecimal) != 2*len(sum) || k.hashes[sum] {
		return false
	}
	k.hashes[sum] = true
	return true
}

// sighting is an entry of ours in a log, as small as it can be.
type sighting struct {
	key         [32]byte // SHA-256 of the issuing SPKI
	tbs         [32]byte // SHA-256 of the TBSCertificate without poison and SCT list
	serial      [20]byte
	index       uint64
	timestamp   uint64   // milliseconds since 1970
	extensions  uint64   // digestOf the SCT's extensions
	final       bool     // a certificate, not a precertificate
	certificate [32]byte // SHA-256 of its DER, if final
}

// sight reports whether an entry is one of ours. A precertificate says so itself, and the log has verified it. A certificate
// is ours if one of our issuing keys signed it.
func (k *keyring) sight(e *monitor.Entry) (sighting, bool) {
	s := sighting{index: e.Index, timestamp: e.Timestamp, extensions: digestOf(e.Extensions)}
	if e.Precert {
		if !k.hashes[e.IssuerKeyHash] {
			return s, false
		}
		s.key, s.tbs, s.serial = e.IssuerKeyHash, sha256.Sum256(e.Content), serialOf(e.Content)
		return s, true
	}
	issuer := k.signed(e)
	if issuer == nil {
		return s, false
	}
	s.key, s.final, s.certificate = keyHash(issuer), true, sha256.Sum256(e.Content)
	bare, _, err := tbs.Unlisted(e.Content)
	if err != nil { // our key signed it, whatever it is: no journal will know it
		s.tbs = s.certificate
		return s, true
	}
	s.tbs, s.serial = sha256.Sum256(bare), serialOf(bare)
	return s, true
}

// signed returns the issuing certificate of ours that signed the certificate e, or nil: one that the configuration names, or one that a journal
// names and whose certificate the log serves.
func (k *keyring) signed(e *monitor.Entry) *x509.Certificate {
	issuer, ok := issuerOf(e.Content)
	if !ok {
		return nil
	}
	candidates := k.issuers
	if len(e.Issuers) > 0 {
		if c, err := x509.ParseCertificate(e.Issuers[0]); err == nil && k.hashes[keyHash(c)] {
			candidates = append(candidates[:len(candidates):len(candidates)], c)
		}
	}
	var leaf *x509.Certificate
	for _, c := range candidates {
		named := bytes.Equal(c.RawSubject, issuer)
		if !named && len(c.SubjectKeyId) > 0 && !bytes.Contains(e.Content, c.SubjectKeyId) {
			continue
		}
		if leaf == nil {
			var err error
			if leaf, err = x509.ParseCertificate(e.Content); err != nil {
				return nil // no verifier reads it either
			}
		}
		if c.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil {
			return c
		}
	}
	return nil
}

// issuerOf returns the raw issuer name of a DER Certificate (RFC 5280 §4.1).
func issuerOf(der []byte) ([]byte, bool) {
	in := cryptobyte.String(der)
	var certificate, body, issuer cryptobyte.String
	if !in.ReadASN1(&certificate, asn1.SEQUENCE) || !certificate.ReadASN1(&body, asn1.SEQUENCE) || !skipToSerial(&body) ||
		!body.SkipASN1(asn1.INTEGER) || !body.SkipASN1(asn1.SEQUENCE) || !body.ReadASN1Element(&issuer, asn1.SEQUENCE) {
		return nil, false
	}
	return issuer, true
}

func skipToSerial(body *cryptobyte.String) bool {
	return body.SkipOptionalASN1(asn1.Tag(0).Constructed().ContextSpecific())
}

// serialOf returns the serial number of a TBSCertificate, right-aligned as a journal writes it; zero where there is none.
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

// parseSerial reads a serial number as a journal has it.
func parseSerial(text string) (out [20]byte, err error) {
	if len(text) > 2*len(out) {
		return out, errors.New("a serial number of more than 20 bytes")
	}
	if len(text)%2 == 1 {
		text = "0" + text
	}
	raw, err := hex.DecodeString(text)
	copy(out[len(out)-len(raw):], raw)
	return out, err
}

// digestOf makes extensions comparable: 0 for none, else the first eight bytes of their SHA-256.
func digestOf(extensions []byte) uint64 {
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
