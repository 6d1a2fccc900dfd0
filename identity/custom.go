package identity

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Custom is an extension below an arc of the operator: a DER UTF8String, not critical.
type Custom struct {
	OID   asn1.ObjectIdentifier // from [ParseArc]
	Value string                // never empty
}

// enterprises is the arc of the private enterprise numbers (RFC 1155 §3.1.4), which IANA assigns to anyone on request.
var enterprises = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1}

// reserved are the enterprise numbers whose extensions verifiers interpret: those of Sigstore and of Certificate
// Transparency.
var reserved = map[int]string{57264: "Sigstore's", 11129: "Certificate Transparency's"}

// ParseArc parses the dotted OID of an extension of the operator: below 1.3.6.1.4.1.NUMBER, at most 20 components.
func ParseArc(text string) (asn1.ObjectIdentifier, error) {
	parts := strings.Split(text, ".")
	if len(parts) < len(enterprises)+2 || len(parts) > 20 {
		return nil, errors.New("is not an OID under a private enterprise number, 1.3.6.1.4.1.NUMBER.…")
	}
	oid := make(asn1.ObjectIdentifier, len(parts))
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil || strconv.FormatUint(n, 10) != p {
			return nil, fmt.Errorf("component %q is not a number below 2147483648", p)
		}
		oid[i] = int(n) //nolint:gosec // 31 bits
	}
	if !enterprises.Equal(oid[:len(enterprises)]) {
		return nil, errors.New("is not under 1.3.6.1.4.1, the arc of private enterprise numbers")
	}
	if whose, ok := reserved[oid[len(enterprises)]]; ok {
		return nil, fmt.Errorf("is below %s arc", whose)
	}
	return oid, nil
}

func (c Custom) add(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(c.OID)
		b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddBytes(c.value()) })
	})
}

func (c Custom) value() []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(c.Value)) })
	return b.BytesOrPanic() // a value that passed Check is far below the maximum length
}

// HasValue reports whether der, the value of an extension in a certificate, is the value of c.
func (c Custom) HasValue(der []byte) bool { return bytes.Equal(der, c.value()) }
