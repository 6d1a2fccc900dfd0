// Package token parses ID tokens.
//
// [Parse] splits a token in compact serialization (RFC 7515 §7.1) into algorithm, key ID, payload and claims. The
// signature is not verified: no part of a [Token] may be trusted before its signature has been verified with a key of
// its issuer. [DecodeClaims] reads JSON objects from hostile input. It MUST return the same claims as every other
// strict reader of the same bytes; if readers could differ, [Token.Deviation] is set. A token MUST NOT reach a log or
// an error.
package token

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
)

// Limits on a token, in bytes.
const (
	MaxSize  = 16 << 10
	MaxKeyID = 1024
)

// Token is a JWS in compact serialization that was parsed but not verified.
type Token struct {
	Raw       string // without white space
	Algorithm string // alg of the header
	KeyID     string // kid of the header; empty if it has none
	Payload   []byte
	Claims    Claims
	// Deviation is an error for input that Fulcio accepts and RFC 7519 does not: white space, duplicate names, names
	// that differ only in case, unpaired surrogates. Nil if there is none.
	Deviation error
}

// SigningInput returns what the signature is computed over (RFC 7515 §5.1): header and payload, encoded.
func (t *Token) SigningInput() string { return t.Raw[:strings.LastIndexByte(t.Raw, '.')] }

// Parse parses a token. It accepts only the canonical base64url encoding of each part (D4). White space, such as a line
// end after the token, is dropped, as Fulcio does, and reported as a deviation.
func Parse(raw string) (*Token, error) {
	if raw == "" {
		return nil, fault.New(fault.TokenMissing, nil)
	}
	if len(raw) > MaxSize {
		return nil, fault.New(fault.TokenTooLarge, fmt.Errorf("%d bytes", len(raw)), "max", strconv.Itoa(MaxSize))
	}
	malformed := func(problem string) error { return fault.New(fault.TokenMalformed, errors.New(problem)) }
	if strings.Count(raw, ".") != 2 {
		return nil, malformed("the token does not have three parts")
	}
	var whiteSpace error
	parts := strings.Split(raw, ".")
	if strings.ContainsAny(raw, " \t\r\n") {
		if strings.ContainsAny(parts[1], " \t") {
			return nil, malformed("the payload contains a space")
		}
		whiteSpace = errors.New("the token contains white space")
		raw = strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "").Replace(raw)
		parts = strings.Split(raw, ".")
	}
	var decoded [3][]byte
	for i, p := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil || len(decoded[i]) == 0 {
			return nil, malformed("a part is not base64url")
		}
	}
	var reader objectReader
	header, deviation, err := reader.parse(decoded[0])
	if err != nil || deviation != nil {
		return nil, malformed("the header is not a JSON object")
	}
	t := &Token{Raw: raw, Payload: decoded[1]}
	if t.Claims, t.Deviation, err = reader.parse(decoded[1]); err != nil {
		return nil, malformed("the payload is not a JSON object")
	}
	t.Deviation = errors.Join(t.Deviation, whiteSpace)
	for _, name := range []string{"crit", "b64"} {
		if _, ok := header[name]; ok {
			return nil, malformed("the header has " + name)
		}
	}
	t.Algorithm, _ = header["alg"].(string)
	if t.Algorithm == "" {
		return nil, malformed("the header has no alg")
	}
	if kid, ok := header["kid"]; ok {
		if t.KeyID, ok = kid.(string); !ok || len(t.KeyID) > MaxKeyID {
			return nil, malformed("kid is not a string, or is too long")
		}
	}
	return t, nil
}
