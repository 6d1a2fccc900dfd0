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

// subject is what a finding shows of the certificate of a log entry. The texts come from the log and are not trusted:
// they are escaped and truncated.
type subject struct {
	identity   string // the SANs, else the subject
	oidcIssuer string
	issuedBy   string // the name of the issuing CA
	isCA       bool   // it is a CA certificate
	// precertSigner: its only extended key usage is to sign precertificates (RFC 6962 §3.1)
	precertSigner bool
}

// maxIdentity is the maximum length of a name in a finding, in bytes.
const maxIdentity = 512

// The content octets of the OIDs of the extensions that are parsed here.
var (
	oidSAN         = []byte{0x55, 0x1d, 0x11}
	oidConstraints = []byte{0x55, 0x1d, 0x13}
	oidUsages      = []byte{0x55, 0x1d, 0x25}
	// Sigstore's OIDs under 1.3.6.1.4.1.57264.1: the issuer as raw text, a username, and the issuer as a UTF8String.
	oidIssuerV1 = []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xbf, 0x30, 0x01, 0x01}
	oidUsername = []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xbf, 0x30, 0x01, 0x07}
	oidIssuerV2 = []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xbf, 0x30, 0x01, 0x08}
)

// onlyPrecertSigning is the value of an extended key usage extension that has 1.3.6.1.4.1.11129.2.4.4 alone.
var onlyPrecertSigning = []byte{
	0x30, 0x0c, 0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0xd6, 0x79, 0x02, 0x04, 0x04,
}

// subjectOf parses a TBSCertificate (RFC 5280 §4.1). It omits what it cannot parse, because it must also work for
// certificates that Go's parser refuses and other parsers accept.
func subjectOf(body []byte) (out subject) {
	in := cryptobyte.String(body)
	var fields, name, extensions cryptobyte.String
	if !in.ReadASN1(&fields, asn1.SEQUENCE) || !skipToSerial(&fields) || !fields.SkipASN1(asn1.INTEGER) ||
		!fields.SkipASN1(asn1.SEQUENCE) ||
		!fields.ReadASN1Element(&name, asn1.SEQUENCE) {
		return out
	}
	out.issuedBy = sanitize(nameText(name))
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
		out.identity = sanitize(nameText(subject))
	}
	return out
}

// extension parses the next extension of list. It returns false if that fails.
func (s *subject) extension(list *cryptobyte.String) bool {
	var one, id, value cryptobyte.String
	if !list.ReadASN1(&one, asn1.SEQUENCE) || !one.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) ||
		!one.SkipOptionalASN1(asn1.BOOLEAN) ||
		!one.ReadASN1(&value, asn1.OCTET_STRING) {
		return false
	}
	switch {
	case bytes.Equal(id, oidSAN):
		s.identity = sanitize(strings.Join(generalNames(value), ", "))
	case bytes.Equal(id, oidConstraints):
		var constraints cryptobyte.String
		var ca bool
		s.isCA = value.ReadASN1(&constraints, asn1.SEQUENCE) && constraints.PeekASN1Tag(asn1.BOOLEAN) &&
			constraints.ReadASN1Boolean(&ca) && ca
	case bytes.Equal(id, oidUsages):
		s.precertSigner = bytes.Equal(value, onlyPrecertSigning)
	case bytes.Equal(id, oidIssuerV1) && s.oidcIssuer == "":
		s.oidcIssuer = sanitize(string(value))
	case bytes.Equal(id, oidIssuerV2):
		var text cryptobyte.String
		if value.ReadASN1(&text, asn1.UTF8String) {
			s.oidcIssuer = sanitize(string(text))
		}
	}
	return true
}

// maxNames is the maximum number of SANs that a finding shows. mayfly certifies one.
const maxNames = 8

// generalNames returns the names of a SubjectAltName extension (RFC 5280 §4.2.1.6) as text.
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
			out = append(out, nameText(name))
		case asn1.Tag(7).ContextSpecific():
			out = append(out, net.IP(name).String())
		default:
			out = append(out, fmt.Sprintf("name of type %d", tag&0x1f))
		}
	}
	return out
}

// nameText returns a Name as text (RFC 2253), or its bytes in hexadecimal if it cannot be parsed.
func nameText(der []byte) string {
	var name pkix.RDNSequence
	if rest, err := encasn1.Unmarshal(der, &name); err != nil || len(rest) > 0 {
		return "#" + hex.EncodeToString(der[:min(len(der), maxIdentity/2)])
	}
	return name.String()
}

// sanitize truncates an untrusted text and escapes control characters and look-alikes.
func sanitize(s string) string {
	if len(s) > maxIdentity {
		cut := maxIdentity
		for cut > maxIdentity-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return printable.Escape(s)
}

// caCertificate reports whether a DER certificate is a CA certificate, and whether it may sign precertificates alone.
func caCertificate(der []byte) (isCA, precertSigner bool) {
	p, err := tbs.Split(der)
	if err != nil {
		return false, false
	}
	of := subjectOf(p.TBS)
	return of.isCA, of.isCA && of.precertSigner
}
