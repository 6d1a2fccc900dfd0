package reconcile

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"iter"
	"slices"

	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
)

// issuerKeys are the issuing keys of the CA, past and present. They decide which log entries an audit is about.
type issuerKeys struct {
	hashes map[[32]byte]bool // SHA-256 of the SPKIs
	// configured are the issuing certificates that the configuration names.
	configured []*x509.Certificate
	// fromLogs are issuing certificates, served by logs, for keys that only a journal names.
	fromLogs []*x509.Certificate
	// caCerts are the CA certificates above log entries, by SHA-256: each is classified once.
	caCerts map[[32]byte]caCert
	// subordinates maps the key of each CA that an issuing key certified to that issuing key (SHA-256 of the SPKIs).
	subordinates map[[32]byte][32]byte
	// unknown are CA certificates for issuing keys that the configuration does not name, by SHA-256.
	unknown map[[32]byte][]byte
}

// caCert is a CA certificate above a log entry.
type caCert struct {
	relation relation
	key      [32]byte // the issuing key: the certificate's own key, or the key that signed it
}

// relation is the relation of a CA certificate to the issuing keys.
type relation uint8

const (
	unrelated   relation = iota
	known                // the configuration names it, or only a journal names its key
	unknown              // it is for an issuing key, and the configuration names another certificate for that key
	subordinate          // an issuing key signed it, and its own key is not an issuing key
	unavailable          // the log did not serve it
)

// Bounds of what logs can make an auditor keep. A private log has a handful of CA certificates, the largest public logs
// have some thousands.
const (
	maxCACerts        = 1 << 14
	maxUnknownCACerts = 64
)

// keyHash returns the SHA-256 of the certificate's SPKI.
func keyHash(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

func newIssuerKeys(issuers []*x509.Certificate) *issuerKeys {
	k := &issuerKeys{
		hashes: map[[32]byte]bool{}, caCerts: map[[32]byte]caCert{}, subordinates: map[[32]byte][32]byte{},
		unknown: map[[32]byte][]byte{},
	}
	k.configure(issuers)
	return k
}

// configure replaces the configured issuing certificates, and reports whether one of their keys is new.
func (k *issuerKeys) configure(issuers []*x509.Certificate) (added bool) {
	for _, c := range issuers {
		added = added || !k.hashes[keyHash(c)]
		k.hashes[keyHash(c)] = true
	}
	k.configured = issuers
	clear(k.caCerts)
	return added
}

// addKey adds a key that a journal names, and reports whether the key is new.
func (k *issuerKeys) addKey(hexadecimal string) bool {
	sum, ok := parseDigest(hexadecimal)
	if !ok || k.hashes[sum] {
		return false
	}
	k.hashes[sum] = true
	clear(k.caCerts)
	return true
}

// certificates are the issuing certificates whose keys can verify a signature.
func (k *issuerKeys) certificates() iter.Seq[*x509.Certificate] {
	return func(yield func(*x509.Certificate) bool) {
		for _, list := range [][]*x509.Certificate{k.configured, k.fromLogs} {
			for _, c := range list {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// signer returns the issuing certificate whose key signed a certificate; nil if there is none.
func (k *issuerKeys) signer(der []byte) *x509.Certificate {
	for c := range k.certificates() {
		if signedBy(c.PublicKey, der) {
			return c
		}
	}
	return nil
}

// matchedEntry is what an audit needs of a log entry under an issuing key, in as little memory as possible.
type matchedEntry struct {
	key         [32]byte // SHA-256 of the issuing key's SPKI
	tbs         [32]byte // SHA-256 of the TBSCertificate without poison and SCT list
	serial      [20]byte
	index       uint64
	timestamp   uint64   // milliseconds since 1970
	extensions  uint64   // extensionsDigest of the SCT's extensions
	final       bool     // a certificate, not a precertificate
	certificate [32]byte // SHA-256 of the DER certificate, if final
	// subordinate: the certificate is below a CA certificate that an issuing key signed, or is such a certificate.
	subordinate bool
	// precertSigner: the certificate is a precertificate signing certificate that an issuing key signed.
	precertSigner bool
	// unknownCA is the SHA-256 of the CA certificate directly above, if it is for an issuing key and the configuration
	// does not name it.
	unknownCA [32]byte
}

// match reports whether a log entry is under an issuing key: the key issued it, whatever the issuer name in the
// certificate, or the key is further up in its chain.
//
// A precertificate names the key that issues it (RFC 6962 §3.2), and the log has verified that. A certificate matches
// if an issuing key signed it. The CA certificates further up come from the chain that the log serves; each of them
// counts only if an issuing key signed it.
func (k *issuerKeys) match(e *monitor.Entry) (matchedEntry, bool) {
	m := matchedEntry{
		index: e.Index, timestamp: e.Timestamp, extensions: extensionsDigest(e.Extensions),
		final: !e.Precert,
	}
	direct := false
	if e.Precert {
		direct = k.hashes[e.IssuerKeyHash]
		m.key = e.IssuerKeyHash
	}
	k.classifyChain(e)
	for i, sum := range e.Chain {
		switch c := k.caCerts[sum]; {
		case c.relation == subordinate && !direct:
			m.subordinate, m.key = true, c.key
		case c.relation == unknown && i == 0:
			m.unknownCA = sum
		}
	}
	if issuing, found := k.subordinates[e.IssuerKeyHash]; e.Precert && found && !direct {
		m.subordinate, m.key = true, issuing
	}
	if e.Precert {
		if !direct && !m.subordinate {
			return m, false
		}
		m.tbs, m.serial = sha256.Sum256(e.Content), serialOf(e.Content)
		return m, true
	}
	if issuer := k.signer(e.Content); issuer != nil {
		m.key = keyHash(issuer)
		m.subordinate, m.precertSigner = caCertificate(e.Content)
		if m.subordinate && k.isConfigured(e.Content) {
			return m, false // a self-signed issuing certificate, which anybody can submit
		}
	} else if !m.subordinate {
		return m, false
	}
	m.certificate = sha256.Sum256(e.Content)
	m.tbs = tbsDigest(e.Content)
	if parts, err := tbs.Split(e.Content); err == nil {
		m.serial = serialOf(parts.TBS)
	}
	return m, true
}

// isConfigured reports whether the configuration names a certificate as an issuing one.
func (k *issuerKeys) isConfigured(der []byte) bool {
	return slices.ContainsFunc(k.configured, func(c *x509.Certificate) bool { return bytes.Equal(c.Raw, der) })
}

// tbsDigest returns the SHA-256 of the TBSCertificate of a DER certificate as a log has it, without poison and SCT
// list. If the input cannot be parsed, the digest is that of all of it: an issuing key signed it, and no journal has
// this digest.
func tbsDigest(der []byte) [32]byte {
	stripped, _, err := tbs.WithoutSCTList(der)
	if err != nil {
		return sha256.Sum256(der)
	}
	return sha256.Sum256(stripped)
}

// classifyChain classifies the CA certificates above an entry that the log served. It starts with the topmost one,
// because that may be the certificate of the key that signed the next one.
func (k *issuerKeys) classifyChain(e *monitor.Entry) {
	if len(e.Chain) < len(e.Issuers) { // the entry was built without digests
		e.Chain = make([][32]byte, len(e.Issuers))
		for i, der := range e.Issuers {
			e.Chain[i] = sha256.Sum256(der)
		}
	}
	for i := len(e.Issuers) - 1; i >= 0; i-- {
		c, found := k.caCerts[e.Chain[i]]
		if found && c.relation != unavailable || len(e.Issuers[i]) == 0 {
			continue
		}
		k.cache(e.Chain[i], k.classify(e.Issuers[i]))
	}
}

// cache stores the classification of a CA certificate. A full cache drops an unrelated certificate, which is classified
// again when it is needed.
func (k *issuerKeys) cache(sum [32]byte, c caCert) {
	if len(k.caCerts) >= maxCACerts {
		for old, have := range k.caCerts {
			if have.relation == unrelated {
				delete(k.caCerts, old)
				break
			}
		}
	}
	k.caCerts[sum] = c
}

// classify returns the relation of a CA certificate to the issuing keys.
func (k *issuerKeys) classify(der []byte) caCert {
	spki, ok := spkiOf(der)
	if !ok {
		return caCert{}
	}
	key := sha256.Sum256(spki)
	if k.hashes[key] {
		return k.classifyIssuer(der, key)
	}
	c := k.signer(der)
	if c == nil {
		return caCert{}
	}
	issuing := keyHash(c)
	k.subordinates[key] = issuing
	return caCert{subordinate, issuing}
}

// classifyIssuer distinguishes a configured certificate for an issuing key from any other.
func (k *issuerKeys) classifyIssuer(der []byte, key [32]byte) caCert {
	configured := false
	for _, c := range k.configured {
		if bytes.Equal(c.Raw, der) {
			return caCert{known, key}
		}
		configured = configured || keyHash(c) == key
	}
	if configured {
		if sum := sha256.Sum256(der); len(k.unknown) < maxUnknownCACerts {
			k.unknown[sum] = bytes.Clone(der)
		}
		return caCert{unknown, key}
	}
	c, err := x509.ParseCertificate(der)
	if err == nil && !slices.ContainsFunc(k.fromLogs,
		func(have *x509.Certificate) bool { return keyHash(have) == key }) {
		k.fromLogs = append(k.fromLogs, c)
		clear(k.caCerts) // certificates that this key signed can be recognised only now
	}
	return caCert{known, key}
}
