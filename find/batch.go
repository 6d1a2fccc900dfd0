package find

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/rekor/entry"
	"github.com/mayfly-ca/mayfly/tbs"
)

// batch has the keys of the entries that one step reads.
type batch struct {
	kind   Kind
	number uint16
	keys   []keyed
	// entries is the number of entries that were read, skipped that of entries that are not in the index because they
	// are unreadable, the first one with the error unreadable.
	entries, skipped int
	unreadable       error
}

// keyed is an entry under one key.
type keyed struct {
	bucket, place []byte
	leaf          [32]byte
}

// take adds the keys of an entry.
func (b *batch) take(e *monitor.Entry) error {
	b.entries++
	content, err := contentOf(b.kind, e)
	if err != nil {
		if b.skipped++; b.unreadable == nil {
			b.unreadable = fmt.Errorf("entry %d: %w", e.Index, err)
		}
		return nil
	}
	leaf := e.LeafHash()
	add := func(bucket, key []byte) {
		b.keys = append(b.keys, keyed{bucket, place(key, b.number, e.Index), leaf})
	}
	if s := content.signed; s != nil {
		add(bucketDigest, s.Digest.Sum)
	}
	for _, c := range content.certificates {
		add(bucketSerial, serialBytes(c.SerialNumber))
		for _, name := range namesOf(c) {
			add(bucketIdentity, identityKey(name))
		}
	}
	return nil
}

// content is what an entry says.
type content struct {
	signed       *entry.Entry // nil: the entry of a certificate
	certificates []*x509.Certificate
}

func contentOf(kind Kind, e *monitor.Entry) (out content, err error) {
	if kind == Signatures {
		if out.signed, err = entry.Parse(e.Leaf()); err != nil {
			return out, err
		}
		for _, s := range out.signed.Signatures {
			if s.Certificate != nil {
				out.certificates = append(out.certificates, s.Certificate)
			}
		}
		return out, nil
	}
	der := e.Content
	if e.Precert {
		// The precertificate beside the TBSCertificate is not a part of the leaf, so that nothing proves it.
		if der, err = unsigned(e.Content); err != nil {
			return out, err
		}
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return out, err
	}
	out.certificates = []*x509.Certificate{c}
	return out, nil
}

// unsigned returns a certificate with a TBSCertificate and an empty signature, for a parser of certificates.
func unsigned(body []byte) ([]byte, error) {
	in := cryptobyte.String(body)
	var fields, algorithm cryptobyte.String
	if !in.ReadASN1(&fields, asn1.SEQUENCE) ||
		!fields.SkipOptionalASN1(asn1.Tag(0).ContextSpecific().Constructed()) || // version
		!fields.SkipASN1(asn1.INTEGER) || !fields.ReadASN1Element(&algorithm, asn1.SEQUENCE) {
		return nil, errors.New("not a TBSCertificate")
	}
	return tbs.Certificate(body, algorithm, nil)
}

// namesOf returns the identities in the subject alternative names of a certificate.
func namesOf(c *x509.Certificate) (out []string) {
	if id, err := identity.Parse(c); err == nil {
		out = append(out, id.SAN.Value)
	}
	out = append(append(out, c.EmailAddresses...), c.DNSNames...)
	for _, u := range c.URIs {
		out = append(out, u.String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// serialSize is the largest size of a serial number, in bytes (RFC 5280 §4.1.2.2).
const serialSize = 20

// serialBytes returns a serial number in 20 bytes. A longer one, which RFC 5280 forbids, is cut.
func serialBytes(n *big.Int) []byte {
	raw := n.Bytes()
	raw = raw[max(0, len(raw)-serialSize):]
	return append(make([]byte, serialSize-len(raw), serialSize), raw...)
}
