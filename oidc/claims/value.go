package claims

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// values are the input of templates: claims, and the defaults of a profile.
type values struct {
	claims  token.Claims
	profile *profile // nil: no defaults
	lenient bool     // compat: fulcio is set
}

// get returns a value as text; ok is false if there is no claim and no default of this name. A claim that is null is
// absent. If no claim may override the default of this name, a claim with another value is an error: a certificate
// never contains a value that differs from the token's.
func (v values) get(name string) (p part, ok bool, err error) {
	c := v.claims[name]
	if v.profile == nil {
		return v.claim(name, c)
	}
	d, isDefault := v.profile.defaults[name]
	if !isDefault {
		return v.claim(name, c)
	}
	if c == nil {
		_, fixed := v.fixedDefault(name)
		if fixed {
			name = ""
		}
		return part{text: d, claim: name, isDefault: !fixed}, true, nil
	}
	p, _, err = v.claim(name, c)
	if _, fixed := v.fixedDefault(name); err == nil && fixed {
		if p.text != d {
			err = invalidClaim(name, "differs from the operator's default of that name")
		}
		p.claim = ""
	}
	return p, true, err
}

func (v values) claim(name string, c any) (part, bool, error) {
	if c == nil {
		return part{}, false, nil
	}
	text, err := claimText(name, c)
	return part{text: text, claim: name}, true, err
}

// fixedDefault returns the default of name if no claim may override it.
func (v values) fixedDefault(name string) (string, bool) {
	if v.profile == nil {
		return "", false
	}
	d, ok := v.profile.defaults[name]
	return d, ok && !v.profile.overridden[name] && (!v.lenient || v.profile.parameters[name])
}

// nullable reports whether the provider documents the claim as one that may be null or absent.
func (v values) nullable(name string) bool {
	return v.profile != nil && slices.Contains(v.profile.optional, name)
}

// claimText formats a claim: a string unchanged, a number in decimals without exponent, true or false. A list or an
// object is an error.
func claimText(name string, v any) (string, error) {
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case json.Number:
		var ok bool
		if text, ok = decimal(v.String()); !ok {
			return "", invalidClaim(name, "a number with too many digits")
		}
	case bool:
		text = strconv.FormatBool(v)
	case []any:
		return "", invalidClaim(name, "a list, not a string")
	default:
		return "", invalidClaim(name, "an object, not a string")
	}
	return text, checkText(name, text)
}

// checkText refuses text that a certificate cannot contain, and invisible characters (A17). The error names the claim.
func checkText(claim, text string) error {
	if len(text) > maxRendered {
		return invalidClaim(claim, fmt.Sprintf("has %d bytes; the limit is %d", len(text), maxRendered))
	}
	if r, hidden := printable.Hidden(text); hidden {
		return invalidClaim(claim, fmt.Sprintf("has the character %U, which is invisible", r))
	}
	return nil
}

// decimal formats a JSON number exactly and without exponent; equal numbers give the same text, such as 100, 1e2 and
// 100.0. ok is false if the result would be too long.
func decimal(s string) (out string, ok bool) {
	if len(s) < 19 && s != "-0" && !strings.ContainsAny(s, "eE.") {
		return s, true
	}
	s, minus := strings.CutPrefix(s, "-")
	exponent := 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		n, err := strconv.Atoi(s[i+1:])
		if err != nil || n > maxRendered || n < -maxRendered {
			return "", false
		}
		s, exponent = s[:i], n
	}
	whole, fraction, _ := strings.Cut(s, ".")
	digits := whole + fraction
	point := len(whole) + exponent // position of the decimal point in digits
	if len(digits) > maxRendered {
		return "", false
	}
	if point > len(digits) {
		digits += strings.Repeat("0", point-len(digits))
	}
	if point < 0 {
		digits, point = strings.Repeat("0", -point)+digits, 0
	}
	whole, fraction = strings.TrimLeft(digits[:point], "0"), strings.TrimRight(digits[point:], "0")
	if whole == "" {
		whole = "0"
	}
	if fraction != "" {
		whole += "." + fraction
	}
	if minus && whole != "0" {
		whole = "-" + whole
	}
	return whole, len(whole) <= maxRendered
}
