package oidc

import (
	"encoding/hex"
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

// profile is a parsed [ProviderConfig].
type profile struct {
	defaults   map[string]string
	overridden map[string]bool // the defaults that a token's claim of the same name overrides
	san        template
	extensions []profileExtension // in the order of a certificate
	under      string             // what the URI must begin with; "": anything
	segments   []string           // claims that stand between two slashes of the URI
	escaped    bool               // the provider escapes what it makes URIs from; else it does not (D13)
}

type profileExtension struct {
	extension identity.Extension
	template  template
}

func parseProfile(name string, c ProviderConfig) (*profile, error) {
	p := &profile{defaults: c.Defaults, overridden: map[string]bool{}, under: c.Under, segments: c.Segments}
	if c.Segments == nil {
		p.segments = profiles[name].Segments
	}
	claimed := c.Claims
	if claimed == nil {
		claimed = claimedDefaults(name, c)
	}
	for _, name := range claimed {
		p.overridden[name] = true
	}
	var errs []error
	parsed := map[identity.Extension]template{}
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
			parsed[x] = t
		}
	}
	for x := range identity.Known() {
		if t, ok := parsed[x]; ok {
			p.extensions = append(p.extensions, profileExtension{x, t})
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

// claimedDefaults are the defaults that stand for optional claims although a profile does not list them: empty ones, and those
// that the shipped profile of the same name lists. The others, addresses mostly, are the operator's: no token changes them.
func claimedDefaults(name string, c ProviderConfig) []string {
	var out []string
	shipped := profiles[name].Claims
	for d, v := range c.Defaults {
		if v == "" || slices.Contains(shipped, d) {
			out = append(out, d)
		}
	}
	return out
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

// library has the parsed profiles of a file. One with an error is nil.
type library map[string]*profile

// profileOf returns the profile of an issuer of the type ci-provider: a shipped one, or one of the file's own.
func (l library) profileOf(r IssuerConfig) (*profile, error) {
	if r.Profile != "" {
		return shippedProfile(r)
	}
	p, ok := l[r.CIProvider]
	if !ok {
		fix := "add the entry or correct the name"
		if _, shipped := profiles[r.CIProvider]; shipped {
			fix = "add the entry, or write profile: " + r.CIProvider + " for the one that mayfly ships"
		}
		return nil, fault.BadSetting(fmt.Sprintf("ci-provider %q has no entry under ci-issuer-metadata", r.CIProvider), fix, "ci-provider")
	}
	return p, nil
}

// newCIMapper maps claims through the templates of a profile.
func newCIMapper(r IssuerConfig, l library) (mapper, error) {
	p, err := l.profileOf(r)
	if err != nil {
		return nil, err
	}
	lenient := r.Compat == "fulcio"
	return func(c claims) (identity.Identity, error) {
		id, err := bySubject(c)
		if err != nil {
			return id, err
		}
		v := values{claims: c, profile: p}
		if id.SAN, err = p.name(v, lenient); err != nil {
			return id, err
		}
		for _, x := range p.extensions {
			text, err := x.template.render(v)
			if err != nil {
				return id, unrendered(err, x.extension.String())
			}
			id.Extensions.Set(x.extension, text)
		}
		return id, nil
	}, nil
}

// name renders the URI. What it is made of must be there and must not lead elsewhere (D15).
func (p *profile) name(v values, lenient bool) (identity.SAN, error) {
	if !lenient {
		for r := range p.san.refs {
			if _, fixed := p.defaults[r.claim]; fixed && !p.overridden[r.claim] {
				continue
			}
			switch s, ok := v.get(r.claim); {
			case ok && s == "":
				return identity.SAN{}, fault.New(fault.ClaimMissing, errors.New("empty"), "claim", r.claim)
			case ok && (dotted(s) || strings.HasPrefix(s, "/") || strings.Contains(s, "/") && slices.Contains(p.segments, r.claim) || twofold(s, p.escaped)):
				return identity.SAN{}, fault.New(fault.ClaimInvalid, errors.New("leads out of its path"), "claim", r.claim)
			}
		}
	}
	text, err := p.san.render(v)
	if err != nil {
		return identity.SAN{}, unrendered(err, "san")
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Host == "" && u.Opaque == "" || u.User != nil {
		return identity.SAN{}, fault.New(fault.ClaimInvalid, fmt.Errorf("the name's template gives %.200q, which is no URI", text), "claim", "san")
	}
	if p.under != "" && !strings.HasPrefix(u.String(), p.under) {
		return identity.SAN{}, fault.New(fault.IdentityNotAllowed, fmt.Errorf("the name is not under %s", p.under), "claim", "san")
	}
	return identity.SAN{Kind: identity.URI, Value: u.String()}, nil
}

// twofold reports whether s is not the only text that makes its URI. What a URI cannot hold is percent-encoded there (RFC 3986
// §2.1), so that of é and %C3%A9 only one may pass: the second for providers that escape, the first for all others.
func twofold(s string, escapes bool) bool {
	for i := range len(s) {
		switch {
		case escapes && unfit(s[i]):
			return true
		case !escapes && s[i] == '%' && i+2 < len(s):
			if b, err := hex.DecodeString(s[i+1 : i+3]); err == nil && unfit(b[0]) {
				return true
			}
		}
	}
	return false
}

// unfit reports whether a byte is percent-encoded when a path is written.
func unfit(c byte) bool { return c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}", c) >= 0 }

// values are what templates read: claims, and the defaults of a profile.
type values struct {
	claims  claims
	profile *profile // nil: no defaults
}

// get returns a value as text; ok is false when neither a claim nor a default has the name. A claim that is null is absent.
func (v values) get(name string) (text string, ok bool) {
	if v.profile != nil {
		if d, isDefault := v.profile.defaults[name]; isDefault {
			if c := v.claims[name]; c != nil && v.profile.overridden[name] {
				return words(c), true
			}
			return d, true
		}
	}
	c := v.claims[name]
	if c == nil {
		return "", false
	}
	return words(c), true
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
	if !strings.ContainsAny(s, "eE.") {
		return s
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 && len(strings.TrimLeft(s[i+1:], "+-0")) > 2 {
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

// unrendered is what the caller is told of a template that gives nothing.
func unrendered(err error, what string) error {
	var m *missingError
	if errors.As(err, &m) {
		return fault.New(fault.ClaimMissing, err, "claim", m.claim)
	}
	return fault.New(fault.ClaimInvalid, err, "claim", what)
}

// ProfileInfo is a profile that mayfly ships.
type ProfileInfo struct {
	Name    string
	Summary string
	// Issuers for which the defaults of the parameters hold; others must set them.
	Issuers []string
	// Parameters with their defaults; one without default must be set.
	Parameters map[string]string
	// Claims that a token must have.
	Claims []string
	// Config is the profile as a file would have it; empty where tokens are mapped by e-mail address.
	Config ProviderConfig
}

// Profiles lists the shipped profiles, sorted.
func Profiles() []ProfileInfo {
	var out []ProfileInfo
	for _, name := range slices.Sorted(maps.Keys(profiles)) {
		s := profiles[name]
		i := ProfileInfo{Name: name, Summary: s.Summary, Issuers: s.Issuers, Parameters: map[string]string{}, Config: s.ProviderConfig}
		i.Config.Segments, i.Config.Under = s.Segments, s.under(s.Defaults)
		for _, p := range s.Parameters {
			i.Parameters[p] = s.Defaults[p]
		}
		if p, err := parseProfile(name, s.ProviderConfig); err == nil && s.SAN != "" {
			i.Claims = p.needs()
		} else {
			i.Claims = s.Needs
		}
		out = append(out, i)
	}
	return out
}

// needs lists the claims without which a profile gives no identity, sorted.
func (p *profile) needs() []string {
	all := map[string]bool{"sub": true}
	note := func(r ref) {
		if _, isDefault := p.defaults[r.claim]; !isDefault && !r.optional {
			all[r.claim] = true
		}
	}
	for r := range p.san.refs {
		note(r)
	}
	for _, x := range p.extensions {
		for r := range x.template.refs {
			note(r)
		}
	}
	return slices.Sorted(maps.Keys(all))
}
