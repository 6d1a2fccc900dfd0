package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// Claims are the members of a payload. The values are string, json.Number, bool, nil, []any or map[string]any.
type Claims map[string]any

// DecodeClaims reads claims from JSON by the rules for a payload. A deviation is an error.
func DecodeClaims(data []byte) (Claims, error) {
	c, deviation, err := parseObject(data)
	if err = errors.Join(err, deviation); err != nil {
		return nil, err
	}
	return c, nil
}

// ConvertClaims converts claims from a configuration file to the types of claims in a token.
func ConvertClaims(all map[string]any) (Claims, error) {
	data, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	return DecodeClaims(data)
}

// Text returns a string claim. A claim that is absent, null or empty is reported as missing; a claim of another type is
// reported as invalid.
func (c Claims) Text(name string) (string, error) {
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

// Time returns a NumericDate claim (RFC 7519 §2); ok is false if the claim is absent.
func (c Claims) Time(name string) (t time.Time, ok bool, err error) {
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

// Audiences returns aud, which is a string or a list of strings (RFC 7519 §4.1.3).
func (c Claims) Audiences() []string {
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
