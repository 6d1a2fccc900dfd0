// Package tbs builds a TBSCertificate as bytes, adds the poison or the SCT list as the last extension, combines it with
// a signature to a certificate, and proves that a certificate corresponds to its precertificate.
//
// The bytes are assembled once (RFC 5280 §4.1). Precertificate and certificate differ only in their last extension and
// share all other bytes, so that they correspond by construction (RFC 6962 §3.1). [Correspond] nevertheless proves this
// from the finished DER, with independent code.
//
// A caller MUST pass DER for every field documented as DER: those fields are copied, not parsed.
package tbs

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Template is the content of a leaf's TBSCertificate. Profile fields (key usage, extended key usage) are fixed here.
type Template struct {
	// Serial is the big-endian serial number: 1 to 20 octets, positive (RFC 5280 §4.1.2.2). The top bit of the first
	// octet is clear and the first octet is not zero.
	Serial []byte
	// SignatureAlgorithm is the DER AlgorithmIdentifier that the CA key signs with.
	SignatureAlgorithm []byte
	// Issuer is the DER Name: the bytes of the issuing certificate's subject.
	Issuer []byte
	// NotBefore and NotAfter are written in UTC with whole seconds, as UTCTime up to 2049 (RFC 5280 §4.1.2.5).
	NotBefore, NotAfter time.Time
	// SPKI is the DER SubjectPublicKeyInfo of the key whose possession was proven.
	SPKI []byte
	// SubjectKeyID is the identifier of the key (RFC 5280 §4.2.1.2).
	SubjectKeyID []byte
	// AuthorityKeyID is the issuing certificate's subject key identifier; if it is empty, the extension is omitted.
	AuthorityKeyID []byte
	// Identity is zero or more DER Extension elements: the SAN and the identity extensions.
	Identity []byte
}

// TBS is a TBSCertificate without its last extension. Its methods return new slices.
type TBS struct {
	fields     []byte // the fields from version to subjectPublicKeyInfo
	extensions []byte // DER Extension elements except poison and SCT list
}

var (
	// critical, digitalSignature
	extKeyUsage = []byte("\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x07\x80")
	// codeSigning
	extExtKeyUsage  = []byte("\x30\x13\x06\x03\x55\x1d\x25\x04\x0c\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x03")
	oidSubjectKey   = []byte("\x06\x03\x55\x1d\x0e")
	oidAuthorityKey = []byte("\x06\x03\x55\x1d\x23")
	// RFC 6962 §3.1
	extPoison  = []byte("\x30\x13\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03\x01\x01\xff\x04\x02\x05\x00")
	oidPoison  = []byte("\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03")
	oidSCTList = []byte("\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02") // RFC 6962 §3.3
)

var (
	tagVersion    = asn1.Tag(0).ContextSpecific().Constructed()
	tagExtensions = asn1.Tag(3).ContextSpecific().Constructed()
)

// New assembles t. It returns an error for a serial number, a validity or a length that RFC 5280 forbids.
func New(t Template) (TBS, error) {
	if err := t.check(); err != nil {
		return TBS{}, err
	}
	f := cryptobyte.NewBuilder(make([]byte, 0, 512))
	f.AddASN1(tagVersion, func(b *cryptobyte.Builder) { b.AddASN1Int64(2) })
	f.AddASN1(asn1.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(t.Serial) })
	f.AddBytes(t.SignatureAlgorithm)
	f.AddBytes(t.Issuer)
	f.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addTime(b, t.NotBefore)
		addTime(b, t.NotAfter)
	})
	f.AddASN1(asn1.SEQUENCE, func(*cryptobyte.Builder) {}) // subject
	f.AddBytes(t.SPKI)
	fields, err := f.Bytes()
	if err != nil {
		return TBS{}, fmt.Errorf("assemble fields: %w", err)
	}
	e := cryptobyte.NewBuilder(make([]byte, 0, 128+len(t.Identity)))
	e.AddBytes(extKeyUsage)
	e.AddBytes(extExtKeyUsage)
	e.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(oidSubjectKey)
		b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1OctetString(t.SubjectKeyID) })
	})
	if len(t.AuthorityKeyID) > 0 {
		e.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes(oidAuthorityKey)
			b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.Tag(0).ContextSpecific(),
						func(b *cryptobyte.Builder) { b.AddBytes(t.AuthorityKeyID) })
				})
			})
		})
	}
	e.AddBytes(t.Identity)
	extensions, err := e.Bytes()
	if err != nil {
		return TBS{}, fmt.Errorf("assemble extensions: %w", err)
	}
	return TBS{fields: fields, extensions: extensions}, nil
}

func (t *Template) check() error {
	switch {
	case len(t.Serial) == 0 || len(t.Serial) > 20 || t.Serial[0] == 0 || t.Serial[0] >= 0x80:
		return errors.New("the serial number is not positive, or not 1 to 20 octets in the shortest form")
	case len(t.SignatureAlgorithm) == 0 || len(t.Issuer) == 0 || len(t.SPKI) == 0 || len(t.SubjectKeyID) == 0:
		return errors.New("signature algorithm, issuer, subject key or its identifier is empty")
	case !t.NotBefore.Before(t.NotAfter):
		return errors.New("notAfter is not after notBefore")
	case t.NotBefore.Nanosecond() != 0 || t.NotAfter.Nanosecond() != 0:
		return errors.New("the validity has a fraction of a second, which a certificate cannot express")
	}
	return nil
}

func addTime(b *cryptobyte.Builder, t time.Time) {
	if t = t.UTC(); t.Year() < 2050 {
		b.AddASN1UTCTime(t)
		return
	}
	b.AddASN1GeneralizedTime(t)
}

// WithoutSCTList returns the TBSCertificate without poison and SCT list, which a log signs (RFC 6962 §3.2).
func (t TBS) WithoutSCTList() []byte { return t.with(nil) }

// Precert returns the TBSCertificate of the precertificate, with the poison (RFC 6962 §3.1).
func (t TBS) Precert() []byte { return t.with(extPoison) }

// Final returns the TBSCertificate with scts embedded (RFC 6962 §3.3). Each element is one SCT in TLS encoding; at
// least one is required.
func (t TBS) Final(scts [][]byte) ([]byte, error) {
	list, err := MarshalSCTList(scts)
	if err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(list)+24))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(oidSCTList)
		b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1OctetString(list) })
	})
	ext, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	return t.with(ext), nil
}

func (t TBS) with(last []byte) []byte {
	list := header(asn1.SEQUENCE, len(t.extensions)+len(last))
	outer := header(tagExtensions, len(list)+len(t.extensions)+len(last))
	n := len(t.fields) + len(outer) + len(list) + len(t.extensions) + len(last)
	out := append(make([]byte, 0, n+6), header(asn1.SEQUENCE, n)...)
	out = append(out, t.fields...)
	out = append(out, outer...)
	out = append(out, list...)
	out = append(out, t.extensions...)
	return append(out, last...)
}

// header returns a DER tag and length. Lengths are far below 2^24. The function is small enough to be inlined, so that
// its result need not be allocated on the heap.
func header(tag asn1.Tag, n int) []byte {
	return appendHeader(make([]byte, 0, 5), tag, n)
}

func appendHeader(b []byte, tag asn1.Tag, n int) []byte {
	switch {
	case n < 0x80:
		return append(b, byte(tag), byte(n))
	case n < 0x100:
		return append(b, byte(tag), 0x81, byte(n))
	case n < 0x10000:
		return append(b, byte(tag), 0x82, byte(n>>8), byte(n))
	}
	return append(b, byte(tag), 0x83, byte(n>>16), byte(n>>8), byte(n))
}

// Certificate wraps a TBSCertificate, the DER AlgorithmIdentifier and the signature into a Certificate (RFC 5280 §4.1).
func Certificate(tbs, algorithm, signature []byte) ([]byte, error) {
	n := len(tbs) + len(algorithm) + 1 + len(signature)
	if n >= 1<<23 {
		return nil, fmt.Errorf("a certificate of %d bytes is too large", n)
	}
	bits := header(asn1.BIT_STRING, 1+len(signature))
	outer := header(asn1.SEQUENCE, n+len(bits))
	out := append(make([]byte, 0, len(outer)+len(bits)+n), outer...)
	out = append(out, tbs...)
	out = append(out, algorithm...)
	out = append(out, bits...)
	out = append(out, 0) // no unused bits
	return append(out, signature...), nil
}
