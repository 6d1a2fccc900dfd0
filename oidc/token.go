package oidc

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// Bounds on a token.
const (
	maxToken = 16 << 10
	maxKeyID = 1024
	maxDepth = 16

	leeway          = time.Minute // for nbf and iat
	lenientLeeway   = 5 * time.Minute
	defaultLifetime = 24 * time.Hour
)

// claims are the payload of a token: strings, json.Number, bool, nil, []any and map[string]any.
type claims map[string]any

// token is a JWS in compact serialization, taken apart and not verified.
type token struct {
	raw     string
	alg     string
	kid     string
	payload []byte
	claims  claims
	// what Fulcio would let pass: white space, names twice, or equal but for their case, or half a surrogate pair
	unclean error
}

// parseToken takes a token apart (RFC 7515 §7.1). It accepts the compact serialization only, in its one canonical
// spelling (D4), but for white space, such as a line end behind it: Fulcio drops it, and so does this function, with a
// note in unclean.
func parseToken(raw string) (*token, error) {
	if raw == "" {
		return nil, fault.New(fault.TokenMissing, nil)
	}
	if len(raw) > maxToken {
		return nil, fault.New(fault.TokenTooLarge, fmt.Errorf("%d bytes", len(raw)), "max", strconv.Itoa(maxToken))
	}
	malformed := func(what string) error { return fault.New(fault.TokenMalformed, errors.New(what)) }
	if strings.Count(raw, ".") != 2 {
		return nil, malformed("not three parts")
	}
	var spaced error
	parts := strings.Split(raw, ".")
	if strings.ContainsAny(raw, " \t\r\n") {
		if strings.ContainsAny(parts[1], " \t") {
			return nil, malformed("a space in the payload")
		}
		spaced = errors.New("white space in the token")
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
	header, unclean, err := parseObject(decoded[0])
	if err != nil || unclean != nil {
		return nil, malformed("the header is not a JSON object")
	}
	t := &token{raw: raw, payload: decoded[1]}
	if t.claims, t.unclean, err = parseObject(decoded[1]); err != nil {
		return nil, malformed("the payload is not a JSON object")
	}
	t.unclean = errors.Join(t.unclean, spaced)
	for _, name := range []string{"crit", "b64"} {
		if _, ok := header[name]; ok {
			return nil, malformed("the header has " + name)
		}
	}
	t.alg, _ = header["alg"].(string)
	if t.alg == "" {
		return nil, malformed("the header has no alg")
	}
	if kid, ok := header["kid"]; ok {
		if t.kid, ok = kid.(string); !ok || len(t.kid) > maxKeyID {
			return nil, malformed("kid is not a short string")
		}
	}
	return t, nil
}

// text returns a string claim. An absent, null or empty one is missing; another type is invalid.
func (c claims) text(name string) (string, error) {
	switch v := c[name].(type) {
	case nil:
		return "", fault.New(fault.ClaimMissing, fmt.Errorf("%s is absent", name), "claim", name)
	case string:
		if v == "" {
			return "", fault.New(fault.ClaimMissing, fmt.Errorf("%s is empty", name), "claim", name)
		}
		return v, nil
	}
	return "", fault.New(fault.ClaimInvalid, fmt.Errorf("%s is not a string", name), "claim", name)
}

// at returns a NumericDate claim (RFC 7519 §2); ok is false when it is absent.
func (c claims) at(name string) (t time.Time, ok bool, err error) {
	v, ok := c[name]
	if !ok || v == nil {
		return time.Time{}, false, nil
	}
	n, isNumber := v.(json.Number)
	f, err := n.Float64()
	if !isNumber || err != nil || f < 0 || f > 1e11 {
		return time.Time{}, false, fault.New(fault.ClaimInvalid, fmt.Errorf("%s is not a time", name), "claim", name)
	}
	return time.Unix(int64(f), 0), true, nil
}

// audiences returns aud, which is a string or a list of strings (RFC 7519 §4.1.3).
func (c claims) audiences() []string {
	switch v := c["aud"].(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, one := range v {
			if s, ok := one.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}
