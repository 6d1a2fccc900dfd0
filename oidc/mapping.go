package oidc

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
)

// base is what every type has: issuer and subject, from the token itself (D16).
func base(c claims) (identity.Identity, error) {
	iss, err := c.text("iss")
	if err != nil {
		return identity.Identity{}, err
	}
	id := identity.Identity{Issuer: iss}
	id.Extensions.Set(identity.IssuerV1, iss)
	id.Extensions.Set(identity.Issuer, iss)
	if sub, ok := c["sub"].(string); ok && sub != "" {
		id.Subject = sub
		id.Extensions.Set(identity.Subject, sub)
	}
	return id, nil
}

// newEmailMapper maps the claim email, which the provider must have verified.
func newEmailMapper(r IssuerConfig, _ Config) (mapper, error) {
	var path []string
	if r.IssuerClaim != "" {
		var err error
		if path, err = parsePath(r.IssuerClaim); err != nil {
			return nil, err
		}
	}
	return func(c claims) (identity.Identity, error) {
		id, err := base(c)
		if err != nil {
			return id, err
		}
		email, err := c.text("email")
		if err != nil {
			return id, err
		}
		verified, err := truth(c["email_verified"])
		if err != nil {
			return id, fault.New(fault.ClaimInvalid, err, "claim", "email_verified")
		}
		if !verified && !r.SkipEmailVerification {
			return id, fault.New(fault.EmailUnverified, nil)
		}
		if !emailAddress(email) {
			return id, fault.New(fault.ClaimInvalid, errors.New("email is not an address"), "claim", "email")
		}
		if path != nil {
			if id, err = r.mapIssuer(id, c, path); err != nil {
				return id, err
			}
		}
		id.SAN = identity.SAN{Kind: identity.Email, Value: email}
		id.Challenge, id.ChallengeClaim = email, "email"
		return id, nil
	}, nil
}

// mapIssuer replaces the issuer that is certified by the one that a federating provider names (D17).
func (r IssuerConfig) mapIssuer(id identity.Identity, c claims, path []string) (identity.Identity, error) {
	var v any = map[string]any(c)
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	iss, ok := v.(string)
	if !ok || iss == "" {
		return id, fault.New(fault.ClaimMissing, nil, "claim", strings.Join(path, "."))
	}
	if len(r.MappedIssuers) > 0 && !slices.Contains(r.MappedIssuers, iss) {
		return id, fault.New(fault.IdentityNotAllowed, nil, "claim", strings.Join(path, "."))
	}
	id.Extensions.Set(identity.IssuerV1, iss)
	id.Extensions.Set(identity.Issuer, iss)
	return id, nil
}

// parsePath reads the JSONPath of an issuer claim: $.name, $.name.name.
func parsePath(s string) ([]string, error) {
	rest, ok := strings.CutPrefix(s, "$.")
	path := strings.Split(rest, ".")
	if !ok || slices.Contains(path, "") || strings.ContainsAny(rest, "[]*?@() \"'") {
		return nil, fmt.Errorf("issuer-claim %q is not a path of names", s)
	}
	return path, nil
}

// truth reads email_verified: a boolean, or one of the words that some providers send. Absent is false.
func truth(v any) (bool, error) {
	switch v {
	case nil, false, "false", "False":
		return false, nil
	case true, "true", "True":
		return true, nil
	}
	return false, errors.New("not a boolean")
}

// emailAddress reports whether s is an address of the usual form: a dot-atom, @, and a domain name of two or more labels
// whose last one is not a number (RFC 5321 §4.1.2, without quoted strings and address literals). Characters beyond ASCII
// pass here; a certificate cannot carry them, and says so.
func emailAddress(s string) bool {
	at := strings.LastIndexByte(s, '@')
	if at < 1 || len(s) > 320 {
		return false
	}
	for _, atom := range strings.Split(s[:at], ".") {
		if atom == "" || strings.ContainsAny(atom, " \t\r\n\"(),:;<>@[\\]") {
			return false
		}
	}
	labels := strings.Split(s[at+1:], ".")
	if len(labels) < 2 {
		return false
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for _, c := range l {
			if c < 0x80 && !starByte(byte(c)) {
				return false
			}
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// profile is a parsed [ProviderConfig].
type profile struct {
	defaults   map[string]string
	claims     map[string]bool // nil: every default may be overridden by a token
	san        template
	extensions map[identity.Extension]template
}

func parseProfile(c ProviderConfig) (*profile, error) {
	p := &profile{defaults: c.Defaults, extensions: map[identity.Extension]template{}}
	if len(c.Claims) > 0 {
		p.claims = map[string]bool{}
		for _, name := range c.Claims {
			p.claims[name] = true
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(c.Extensions)) {
		x, ok := extensionNamed(name)
		if !ok {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("extension %q is unknown", name), "see the list of extensions in docs/config.md", "extension-templates", name))
			continue
		}
		t, err := parseTemplate(c.Extensions[name])
		if err != nil {
			errs = append(errs, fault.BadSetting("template: "+err.Error(), "correct the template", "extension-templates", name))
			continue
		}
		if x != identity.Issuer && x != identity.Subject && x != identity.IssuerV1 && len(t) > 0 { // those are the token's own
			p.extensions[x] = t
		}
	}
	var err error
	if p.san, err = parseTemplate(c.SAN); err != nil {
		errs = append(errs, fault.BadSetting("template: "+err.Error(), "correct the template", "subject-alternative-name-template"))
	} else if len(p.san) == 0 {
		errs = append(errs, fault.BadSetting("no template for the name in the certificate", "write a template that gives a URI", "subject-alternative-name-template"))
	}
	return p, errors.Join(errs...)
}

// extensionNamed finds an extension by either spelling; the JSON one in any case, as Fulcio reads it.
func extensionNamed(name string) (identity.Extension, bool) {
	if x, ok := identity.ByName(name); ok {
		return x, true
	}
	for x := range identity.Known() {
		if k := x.JSONKey(); k != "" && strings.EqualFold(k, name) {
			return x, true
		}
	}
	return 0, false
}

// newCIMapper maps claims through the templates of a profile.
func newCIMapper(r IssuerConfig, all Config) (mapper, error) {
	p, err := parseProfile(all.Providers[r.CIProvider])
	if err != nil {
		return nil, err
	}
	return func(c claims) (identity.Identity, error) {
		id, err := base(c)
		if err != nil {
			return id, err
		}
		if id.Challenge, err = c.text("sub"); err != nil {
			return id, err
		}
		id.ChallengeClaim = "sub"
		values := p.values(c)
		san, err := p.san.render(values)
		if err != nil {
			return id, unrendered(err)
		}
		u, err := url.Parse(san)
		if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil {
			return id, fault.New(fault.ClaimInvalid, errors.New("the name's template gives no URI"), "claim", "san")
		}
		id.SAN = identity.SAN{Kind: identity.URI, Value: u.String()}
		for x := range identity.Known() {
			t, ok := p.extensions[x]
			if !ok {
				continue
			}
			v, err := t.render(values)
			if err != nil {
				return id, unrendered(err)
			}
			id.Extensions.Set(x, v)
		}
		return id, nil
	}, nil
}

// values are the defaults, overlaid by the claims that may.
func (p *profile) values(c claims) map[string]string {
	out := make(map[string]string, len(p.defaults)+len(c))
	maps.Copy(out, p.defaults)
	for name, v := range c {
		if v == nil {
			continue
		}
		if _, isDefault := p.defaults[name]; isDefault && p.claims != nil && !p.claims[name] {
			continue
		}
		out[name] = words(v)
	}
	return out
}

// words prints a claim: numbers in decimals without exponent, lists and objects in brackets.
func words(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return decimal(v.String())
	case nil:
		return "<nil>"
	case []any:
		parts := make([]string, len(v))
		for i, one := range v {
			parts[i] = words(one)
		}
		return "[" + strings.Join(parts, " ") + "]"
	case map[string]any:
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, k+":"+words(v[k]))
		}
		return "map[" + strings.Join(parts, " ") + "]"
	}
	return fmt.Sprint(v)
}

// decimal writes a JSON number without exponent. One with hundreds of digits stays as it is, and is too long soon enough.
func decimal(s string) string {
	i := strings.IndexAny(s, "eE")
	if i < 0 {
		return s
	}
	if exp := strings.TrimLeft(s[i+1:], "+-0"); len(exp) > 2 {
		return s
	}
	f, ok := new(big.Rat).SetString(s)
	if !ok {
		return s
	}
	if f.IsInt() {
		return f.Num().String()
	}
	return strings.TrimRight(f.FloatString(120), "0")
}

func unrendered(err error) error {
	var m *missingError
	if errors.As(err, &m) {
		return fault.New(fault.ClaimMissing, err, "claim", m.claim)
	}
	return fault.New(fault.ClaimInvalid, err, "claim", "template")
}
