// Package identity has the content of a certificate that describes its subject: one subject alternative name (SAN) and
// the extensions below 1.3.6.1.4.1.57264.1.
//
// [Identity.Marshal] encodes an identity as X.509 extensions, [Parse] decodes the extensions of a certificate. Values
// enter a certificate unchanged, without case folding, trimming, normalization or escaping. A value that cannot be
// encoded exactly MUST be refused ([Identity.Check]).
package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/internal/printable"
)

// Kind is the type of a SAN.
type Kind uint8

// The kinds of SAN (RFC 5280 §4.2.1.6).
const (
	Email     Kind = iota + 1 // rfc822Name
	URI                       // uniformResourceIdentifier
	OtherName                 // otherName of type 1.3.6.1.4.1.57264.1.7 with a UTF8String
)

// String returns the name of the kind.
func (k Kind) String() string {
	switch k {
	case Email:
		return "email"
	case URI:
		return "URI"
	case OtherName:
		return "otherName"
	}
	return "unknown"
}

// SAN is a subject alternative name.
type SAN struct {
	Kind  Kind
	Value string
}

// Extensions has the values by arc; "" means absent. It is comparable.
type Extensions struct{ values [arcs]string }

// Set sets the value of x. An empty value removes the extension.
func (e *Extensions) Set(x Extension, value string) { e.values[x] = value }

// Get returns the value of x; "" means absent.
func (e *Extensions) Get(x Extension) string { return e.values[x] }

// Identity is the identity of a verified subject.
type Identity struct {
	// Issuer and Subject are iss and sub of the token.
	Issuer, Subject string
	// Challenge is the text that the proof of possession signs; ChallengeClaim is the claim that has the text.
	Challenge, ChallengeClaim string
	SAN                       SAN
	Extensions                Extensions
	// Custom are the extensions of the operator, in ascending order of their OIDs.
	Custom []Custom
}

// Limits on values in a certificate, in bytes.
const (
	MaxSAN       = 2048
	MaxExtension = 2048
)

// ValueError reports a value that a certificate cannot contain.
type ValueError struct {
	// Field is "san" or the name of an extension.
	Field   string
	Problem string
}

func (e *ValueError) Error() string { return e.Field + ": " + e.Problem }

// Check returns a [*ValueError] for the first value that a certificate cannot contain unchanged.
func (id *Identity) Check() error {
	if err := id.SAN.check(); err != nil {
		return err
	}
	if id.Extensions.Get(Issuer) == "" {
		return &ValueError{Issuer.String(), "is empty"}
	}
	for x := range Known() {
		if err := checkText(x.String(), id.Extensions.Get(x), MaxExtension); err != nil {
			return err
		}
	}
	for _, c := range id.Custom {
		if c.Value == "" {
			return &ValueError{c.OID.String(), "is empty"}
		}
		if err := checkText(c.OID.String(), c.Value, MaxExtension); err != nil {
			return err
		}
	}
	return nil
}

func (s SAN) check() error {
	if s.Value == "" {
		return &ValueError{"san", "is empty"}
	}
	if err := checkText("san", s.Value, MaxSAN); err != nil {
		return err
	}
	if s.Kind == OtherName {
		return nil
	}
	if s.Kind != Email && s.Kind != URI {
		return &ValueError{"san", "the SAN has no kind"}
	}
	for i := range len(s.Value) { // rfc822Name and URI are IA5String
		if s.Value[i] >= 0x80 {
			return &ValueError{"san", "has a character outside ASCII, which a name of the kind " +
				s.Kind.String() + " cannot contain"}
		}
	}
	if s.Kind == URI {
		u, err := url.Parse(s.Value)
		if err != nil || u.Scheme == "" {
			return &ValueError{"san", "is not an absolute URI"}
		}
	}
	return nil
}

func checkText(field, v string, limit int) error {
	if len(v) > limit {
		return &ValueError{field, fmt.Sprintf("has %d bytes; the limit is %d", len(v), limit)}
	}
	if !utf8.ValidString(v) {
		return &ValueError{field, "is not UTF-8"}
	}
	if r, hidden := printable.Hidden(v); hidden {
		return &ValueError{field, fmt.Sprintf("has the control, format or invisible character %U", r)}
	}
	return nil
}

// Marshal returns the concatenated DER Extension elements of the identity: the SAN, which is critical because the
// subject is empty (RFC 5280 §4.2.1.6), then the arcs in ascending order and the extensions of the operator, which are
// not critical.
func (id *Identity) Marshal() ([]byte, error) {
	if err := id.Check(); err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, 1024))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes([]byte("\x06\x03\x55\x1d\x11")) // id-ce-subjectAltName
		b.AddASN1Boolean(true)
		b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, id.SAN.add)
		})
	})
	for x := range Known() {
		v := id.Extensions.Get(x)
		if v == "" {
			continue
		}
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes([]byte(prefixDER))
			b.AddUint8(uint8(x))
			b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) {
				if x.Raw() {
					b.AddBytes([]byte(v))
					return
				}
				b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(v)) })
			})
		})
	}
	for _, c := range id.Custom {
		c.add(b)
	}
	return b.Bytes()
}

func (s SAN) add(b *cryptobyte.Builder) {
	switch s.Kind {
	case Email:
		b.AddASN1(cbasn1.Tag(1).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(s.Value)) })
	case URI:
		b.AddASN1(cbasn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(s.Value)) })
	case OtherName:
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddBytes([]byte(prefixDER))
			b.AddUint8(otherNameArc)
			b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s.Value)) })
			})
		})
	}
}

var (
	oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}
	arc    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1}
)

// Parse decodes SAN and extensions of a certificate. It ignores extensions outside the arc. Issuer and Subject come
// from the extensions; the challenge is not in a certificate and stays empty.
func Parse(cert *x509.Certificate) (Identity, error) {
	var id Identity
	for _, e := range cert.Extensions {
		switch {
		case e.Id.Equal(oidSAN):
			san, err := parseSAN(e.Value)
			if err != nil {
				return Identity{}, err
			}
			id.SAN = san
		case len(e.Id) == len(arc)+1 && arc.Equal(e.Id[:len(arc)]) && e.Id[len(arc)] < arcs:
			x := Extension(e.Id[len(arc)])
			v, err := parseValue(x, e.Value)
			if err != nil {
				return Identity{}, err
			}
			id.Extensions.Set(x, v)
		}
	}
	if id.SAN.Kind == 0 {
		return Identity{}, errors.New("certificate has no subject alternative name")
	}
	id.Issuer, id.Subject = id.Extensions.Get(Issuer), id.Extensions.Get(Subject)
	if id.Issuer == "" {
		id.Issuer = id.Extensions.Get(IssuerV1)
	}
	return id, nil
}

// MarkHandled removes a SAN that is an otherName of this package from the unhandled critical extensions of cert. Path
// validation by the standard library would otherwise refuse the certificate. Other otherNames stay unhandled.
func MarkHandled(cert *x509.Certificate) {
	id, err := Parse(cert)
	if err != nil || id.SAN.Kind != OtherName {
		return
	}
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSAN.Equal)
}

func parseSAN(der []byte) (SAN, error) {
	in := cryptobyte.String(der)
	var seq, value cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() || !seq.ReadAnyASN1(&value, &tag) {
		return SAN{}, errors.New("subject alternative name: not a SEQUENCE of names")
	}
	if !seq.Empty() {
		return SAN{}, errors.New("subject alternative name: has more than one name")
	}
	switch tag {
	case cbasn1.Tag(1).ContextSpecific():
		return SAN{Email, string(value)}, nil
	case cbasn1.Tag(6).ContextSpecific():
		return SAN{URI, string(value)}, nil
	case cbasn1.Tag(0).ContextSpecific().Constructed():
		want := append([]byte(prefixDER), otherNameArc)
		var oid []byte
		var wrapped, text cryptobyte.String
		if !value.ReadBytes(&oid, len(want)) || !bytes.Equal(oid, want) ||
			!value.ReadASN1(&wrapped, cbasn1.Tag(0).ContextSpecific().Constructed()) || !value.Empty() ||
			!wrapped.ReadASN1(&text, cbasn1.UTF8String) || !wrapped.Empty() {
			return SAN{}, errors.New("subject alternative name: otherName of another type")
		}
		return SAN{OtherName, string(text)}, nil
	}
	return SAN{}, fmt.Errorf("subject alternative name: a name of tag %d", tag&0x1f)
}

func parseValue(x Extension, der []byte) (string, error) {
	if x.Raw() {
		return string(der), nil
	}
	in := cryptobyte.String(der)
	var v cryptobyte.String
	if !in.ReadASN1(&v, cbasn1.UTF8String) || !in.Empty() {
		return "", fmt.Errorf("extension %s: not one UTF8String", x)
	}
	return string(v), nil
}
