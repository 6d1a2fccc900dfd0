package reconcile

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha1" //nolint:gosec // a signature over it is one of our key all the same
	"crypto/sha256"
	_ "crypto/sha512" // for signatures
	"crypto/x509"
	"crypto/x509/pkix"
	encasn1 "encoding/asn1"
	"encoding/hex"
	"errors"
	"iter"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
)

// keyring is what makes an entry ours: the issuing keys of this CA, past and present.
type keyring struct {
	hashes  map[[32]byte]bool // SHA-256 of the SPKI
	issuers []*x509.Certificate
	// seen are issuing certificates that logs served for keys which only a journal names.
	seen []*x509.Certificate
	// authorities are the CA certificates above entries, by SHA-256: what they are to us is found out once for each.
	authorities map[[32]byte]authority
	// below has the keys of authorities that one of our keys certified.
	below map[[32]byte][32]byte // SHA-256 of the SPKI, to that of our key
	// others are the certificates for our keys that the configuration does not name, by SHA-256.
	others map[[32]byte][]byte
}

// standing is what a CA certificate above an entry is to us.
type standing uint8

const (
	foreign standing = iota
	own              // it is one that the configuration names, or its key is known from a journal alone
	another          // it is for one of our keys, and is not one that the configuration names
	beneath          // one of our keys signed it, and its key is none of ours
	unread           // it could not be read
)

// authority is a CA certificate above an entry.
type authority struct {
	standing standing
	key      [32]byte // our key: its own, or the one that signed it
}

// Bounds of what a log can make an auditor keep: CA certificates, of which a CA's own logs have a handful and the
// largest public ones some thousands; and certificates for our keys that are not ours.
const (
	maxAuthorities = 1 << 14
	maxOthers      = 64
)

// keyHash is how the bytes of an SPKI are named.
func keyHash(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

func newKeyring(issuers []*x509.Certificate) *keyring {
	k := &keyring{
		hashes: map[[32]byte]bool{}, authorities: map[[32]byte]authority{}, below: map[[32]byte][32]byte{},
		others: map[[32]byte][]byte{},
	}
	k.configure(issuers)
	return k
}

// configure takes over the issuing certificates of a configuration, and reports whether a key among them is a new one.
func (k *keyring) configure(issuers []*x509.Certificate) (fresh bool) {
	for _, c := range issuers {
		fresh = fresh || !k.hashes[keyHash(c)]
		k.hashes[keyHash(c)] = true
	}
	k.issuers = issuers
	clear(k.authorities)
	return fresh
}

// learn takes a key in that a journal names, and reports whether it is a new one.
func (k *keyring) learn(hexadecimal string) bool {
	sum, ok := digestIn(hexadecimal)
	if !ok || k.hashes[sum] {
		return false
	}
	k.hashes[sum] = true
	clear(k.authorities)
	return true
}

// certificates are the issuing certificates of ours whose keys can verify a signature.
func (k *keyring) certificates() iter.Seq[*x509.Certificate] {
	return func(yield func(*x509.Certificate) bool) {
		for _, list := range [][]*x509.Certificate{k.issuers, k.seen} {
			for _, c := range list {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// signer returns the issuing certificate of ours whose key signed a certificate; nil is none.
func (k *keyring) signer(der []byte) *x509.Certificate {
	for c := range k.certificates() {
		if signedBy(c.PublicKey, der) {
			return c
		}
	}
	return nil
}

// sighting is an entry of ours in a log, as small as it can be.
type sighting struct {
	key         [32]byte // SHA-256 of our SPKI
	tbs         [32]byte // SHA-256 of the TBSCertificate without poison and SCT list
	serial      [20]byte
	index       uint64
	timestamp   uint64   // milliseconds since 1970
	extensions  uint64   // digestOf the SCT's extensions
	final       bool     // a certificate, not a precertificate
	certificate [32]byte // SHA-256 of its DER, if final
	// below says that the entry is, or is under, a CA certificate that our key signed.
	below bool
	// other is the SHA-256 of the certificate directly above, if it is one for our key that the configuration does not
	// name.
	other [32]byte
}

// sight reports whether an entry is one of ours: our key issued it, whatever name its certificate bears, or our key
// stands further above.
//
// A precertificate names the key that issues it (RFC 6962 §3.2), and the log has verified that. A certificate is ours
// if one of our keys signed it. What stands further above is read from the chain that the log serves, each certificate
// of which counts only if our key did sign it.
func (k *keyring) sight(e *monitor.Entry) (sighting, bool) {
	s := sighting{index: e.Index, timestamp: e.Timestamp, extensions: digestOf(e.Extensions), final: !e.Precert}
	direct := false
	if e.Precert {
		direct = k.hashes[e.IssuerKeyHash]
		s.key = e.IssuerKeyHash
	}
	k.chain(e)
	for i, sum := range e.Chain {
		switch a := k.authorities[sum]; {
		case a.standing == beneath && !direct:
			s.below, s.key = true, a.key
		case a.standing == another && i == 0:
			s.other = sum
		}
	}
	if our, below := k.below[e.IssuerKeyHash]; e.Precert && below && !direct {
		s.below, s.key = true, our
	}
	if e.Precert {
		if !direct && !s.below {
			return s, false
		}
		s.tbs, s.serial = sha256.Sum256(e.Content), serialOf(e.Content)
		return s, true
	}
	if issuer := k.signer(e.Content); issuer != nil {
		s.key = keyHash(issuer)
		s.below = isAuthority(e.Content)
	} else if !s.below {
		return s, false
	}
	s.certificate = sha256.Sum256(e.Content)
	s.tbs = tbsDigest(e.Content)
	if parts, err := tbs.Split(e.Content); err == nil {
		s.serial = serialOf(parts.TBS)
	}
	return s, true
}

// tbsDigest is the SHA-256 of the TBSCertificate of a DER Certificate as a log has it, without poison and SCT list. Of
// something that cannot be taken apart it is that of the whole: our key signed it, whatever it is, and no journal will
// know it.
func tbsDigest(der []byte) [32]byte {
	bare, _, err := tbs.Unlisted(der)
	if err != nil {
		return sha256.Sum256(der)
	}
	return sha256.Sum256(bare)
}

// chain finds out what the certificates above an entry are to us, as far as the log served them. The topmost one is
// first: it may be the certificate of a key that signed the next.
func (k *keyring) chain(e *monitor.Entry) {
	if len(e.Chain) < len(e.Issuers) { // whoever made the entry left the digests out
		e.Chain = make([][32]byte, len(e.Issuers))
		for i, der := range e.Issuers {
			e.Chain[i] = sha256.Sum256(der)
		}
	}
	for i := len(e.Issuers) - 1; i >= 0; i-- {
		a, known := k.authorities[e.Chain[i]]
		if known && a.standing != unread || len(e.Issuers[i]) == 0 {
			continue
		}
		k.remember(e.Chain[i], k.assess(e.Issuers[i]))
	}
}

func (k *keyring) remember(sum [32]byte, a authority) {
	if len(k.authorities) >= maxAuthorities {
		for old, have := range k.authorities { // what is none of ours is found out anew when it turns up again
			if have.standing == foreign {
				delete(k.authorities, old)
				break
			}
		}
	}
	k.authorities[sum] = a
}

// assess finds out what a CA certificate is to us.
func (k *keyring) assess(der []byte) authority {
	spki, ok := spkiOf(der)
	if !ok {
		return authority{}
	}
	key := sha256.Sum256(spki)
	if k.hashes[key] {
		return k.assessOurs(der, key)
	}
	c := k.signer(der)
	if c == nil {
		return authority{}
	}
	our := keyHash(c)
	k.below[key] = our
	return authority{beneath, our}
}

// assessOurs tells a certificate for one of our keys that the configuration names from another one.
func (k *keyring) assessOurs(der []byte, key [32]byte) authority {
	configured := false
	for _, c := range k.issuers {
		if bytes.Equal(c.Raw, der) {
			return authority{own, key}
		}
		configured = configured || keyHash(c) == key
	}
	if configured {
		if sum := sha256.Sum256(der); len(k.others) < maxOthers {
			k.others[sum] = bytes.Clone(der)
		}
		return authority{another, key}
	}
	c, err := x509.ParseCertificate(der)
	if err == nil && !slices.ContainsFunc(k.seen, func(have *x509.Certificate) bool { return keyHash(have) == key }) {
		k.seen = append(k.seen, c)
		clear(k.authorities) // what this key signed is known only now
	}
	return authority{own, key}
}

// signedBy reports whether the key made the signature of a certificate. It reads no more of the certificate than that:
// another parser than Go's may take a certificate that Go's refuses. A hash that is broken, such as SHA-1, counts all
// the same.
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
	if k, ok := key.(ed25519.PublicKey); ok {
		return len(hashes) == 0 && ed25519.Verify(k, p.TBS, p.Signature)
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

// signatureHashes are the hashes that a signature of each algorithm may be over (RFC 3279 §2.2, RFC 4055 §5, RFC 5758
// §3, RFC 8410 §6: none). An identifier that is not listed is one that no verifier of code signatures takes.
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
