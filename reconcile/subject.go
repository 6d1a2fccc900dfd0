package reconcile

import (
	"bytes"
	"crypto/x509/pkix"
	encasn1 "encoding/asn1"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/tbs"
)

// bearer is what a certificate says of its subject, as far as whoever looks at a finding asks first. The texts come
// from an entry that nobody vouches for: they are escaped and clipped.
type bearer struct {
	identity string // the SANs, else the subject
	issuer   string // of the OIDC token
	by       string // the name of the issuing CA
	ca       bool   // it is a CA certificate
}

// maxIdentity is how many characters of a name are in a finding.
const maxIdentity = 512

// The extensions that are read here, as the content of their OIDs.
var (
	oidSAN         = []byte{0x55, 0x1d, 0x11}
	oidConstraints = []byte{0x55, 0x1d, 0x13}
	// Sigstore's OIDs under 1.3.6.1.4.1.57264.1: the issuer as bare text, a username, and the issuer as UTF8String.
	oidIssuerV1 = []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xbf, 0x30, 0x01, 0x01}
	oidUsername = []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xbf, 0x30, 0x01, 0x07}
	oidIssuerV2 = []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xbf, 0x30, 0x01, 0x08}
)

// bearerOf reads a TBSCertificate (RFC 5280 §4.1). What it cannot read it leaves out: Go's parser refuses what another
// one takes.
func bearerOf(body []byte) (out bearer) {
	in := cryptobyte.String(body)
	var fields, name, extensions cryptobyte.String
	if !in.ReadASN1(&fields, asn1.SEQUENCE) || !skipToSerial(&fields) || !fields.SkipASN1(asn1.INTEGER) ||
		!fields.SkipASN1(asn1.SEQUENCE) ||
		!fields.ReadASN1Element(&name, asn1.SEQUENCE) {
		return out
	}
	out.by = shown(distinguished(name))
	var subject cryptobyte.String
	if !fields.SkipASN1(asn1.SEQUENCE) || !fields.ReadASN1Element(&subject, asn1.SEQUENCE) {
		return out
	}
	for !fields.Empty() {
		var element cryptobyte.String
		var tag asn1.Tag
		if !fields.ReadAnyASN1(&element, &tag) {
			break
		}
		if tag == asn1.Tag(3).Constructed().ContextSpecific() {
			extensions = element
		}
	}
	var list cryptobyte.String
	if extensions.ReadASN1(&list, asn1.SEQUENCE) {
		for !list.Empty() && out.extension(&list) {
		}
	}
	if out.identity == "" {
		out.identity = shown(distinguished(subject))
	}
	return out
}

// extension takes in the next extension of list. It is false when that is none.
func (b *bearer) extension(list *cryptobyte.String) bool {
	var one, id, value cryptobyte.String
	if !list.ReadASN1(&one, asn1.SEQUENCE) || !one.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) ||
		!one.SkipOptionalASN1(asn1.BOOLEAN) ||
		!one.ReadASN1(&value, asn1.OCTET_STRING) {
		return false
	}
	switch {
	case bytes.Equal(id, oidSAN):
		b.identity = shown(strings.Join(generalNames(value), ", "))
	case bytes.Equal(id, oidConstraints):
		var constraints cryptobyte.String
		var ca bool
		b.ca = value.ReadASN1(&constraints, asn1.SEQUENCE) && constraints.PeekASN1Tag(asn1.BOOLEAN) &&
			constraints.ReadASN1Boolean(&ca) && ca
	case bytes.Equal(id, oidIssuerV1) && b.issuer == "":
		b.issuer = shown(string(value))
	case bytes.Equal(id, oidIssuerV2):
		var text cryptobyte.String
		if value.ReadASN1(&text, asn1.UTF8String) {
			b.issuer = shown(string(text))
		}
	}
	return true
}

// maxNames is how many names of a certificate are shown. mayfly certifies one.
const maxNames = 8

// generalNames reads a SubjectAltName (RFC 5280 §4.2.1.6) as text.
func generalNames(value cryptobyte.String) (out []string) {
	var names cryptobyte.String
	if !value.ReadASN1(&names, asn1.SEQUENCE) {
		return nil
	}
	for !names.Empty() && len(out) < maxNames {
		var name cryptobyte.String
		var tag asn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			break
		}
		switch tag {
		case asn1.Tag(0).Constructed().ContextSpecific():
			var id, wrapped, text cryptobyte.String
			if name.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) &&
				name.ReadASN1(&wrapped, asn1.Tag(0).Constructed().ContextSpecific()) &&
				bytes.Equal(id, oidUsername) && wrapped.ReadASN1(&text, asn1.UTF8String) {
				out = append(out, string(text))
				continue
			}
			out = append(out, "otherName")
		case asn1.Tag(1).ContextSpecific(), asn1.Tag(2).ContextSpecific(), asn1.Tag(6).ContextSpecific():
			out = append(out, string(name))
		case asn1.Tag(4).Constructed().ContextSpecific():
			out = append(out, distinguished(name))
		case asn1.Tag(7).ContextSpecific():
			out = append(out, net.IP(name).String())
		default:
			out = append(out, fmt.Sprintf("name of kind %d", tag&0x1f))
		}
	}
	return out
}

// distinguished is a Name as text (RFC 2253), or its bytes where it cannot be read.
func distinguished(der []byte) string {
	var name pkix.RDNSequence
	if rest, err := encasn1.Unmarshal(der, &name); err != nil || len(rest) > 0 {
		return "#" + hex.EncodeToString(der[:min(len(der), maxIdentity/2)])
	}
	return name.String()
}

// shown clips a text from outside and escapes what a terminal or a reader could take for something else.
func shown(s string) string {
	if len(s) > maxIdentity {
		cut := maxIdentity
		for cut > maxIdentity-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return printable.Escape(s)
}

// isAuthority reports whether a DER Certificate is one of a CA.
func isAuthority(der []byte) bool {
	p, err := tbs.Split(der)
	return err == nil && bearerOf(p.TBS).ca
}
