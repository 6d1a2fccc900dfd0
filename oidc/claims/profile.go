package claims

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// profile is a compiled [ProfileConfig].
type profile struct {
	defaults   map[string]string
	overridden map[string]bool // names of defaults that a claim of the same name overrides
	san        template
	extensions []profileExtension // in the order of the certificate
	under      string             // prefix that the URI must have; empty: any
	segments   []string           // claims that must not have a slash
	// names of defaults that are parameters of a shipped profile, which no claim overrides, even with compat: fulcio
	parameters map[string]bool
	optional   []string // see [shipped]
	forms      nameForms
	free       string // see [uriRules]
}

type profileExtension struct {
	extension identity.Extension
	template  template
}

func parseProfile(name string, c ProfileConfig) (*profile, error) {
	p := &profile{
		defaults: c.Defaults, overridden: map[string]bool{}, under: c.Under, segments: c.Segments,
		optional: profiles[name].Optional,
	}
	if c.Segments == nil {
		p.segments = profiles[name].Segments
	}
	var errs []error
	if c.IssuerName != "" && c.IssuerName != name {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("issuer-name %q is not the key of its entry, %q",
			c.IssuerName, name),
			"write the same name in both places, or remove issuer-name", "issuer-name"))
	}
	claimed := c.Claims
	if claimed == nil {
		claimed = claimDefaults(name, c)
	}
	for _, name := range claimed {
		p.overridden[name] = true
	}
	parsed := map[identity.Extension]template{}
	for _, name := range slices.Sorted(maps.Keys(c.Extensions)) {
		x, ok := extensionNamed(name)
		if !ok {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("extension %q is unknown", name),
				"see the list of extensions in docs/config.md", "extension-templates", name))
			continue
		}
		t, err := parseTemplate(c.Extensions[name])
		if err != nil {
			errs = append(errs, fault.BadSetting("template: "+err.Error(), "correct the template",
				"extension-templates",
				name))
			continue
		}
		fromToken := x == identity.Issuer || x == identity.Subject || x == identity.IssuerV1
		if !fromToken && len(t) > 0 {
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
		errs = append(errs, fault.BadSetting("template: "+err.Error(), "correct the template",
			"subject-alternative-name-template"))
	} else if len(p.san) == 0 {
		errs = append(errs, fault.BadSetting("no template for the name in the certificate",
			"write a template that gives a URI", "subject-alternative-name-template"))
	} else if err := p.findForms(false); err != nil {
		errs = append(errs, err)
	}
	return p, errors.Join(errs...)
}

// findForms lists the forms of the name and chooses the free claim: the only claim that may have a slash, or else the
// last one.
func (p *profile) findForms(lenient bool) error {
	var err error
	if p.forms, err = p.san.nameForms(values{profile: p, lenient: lenient}); err != nil {
		return fault.BadSetting("template: "+err.Error(), "use fewer conditions", "subject-alternative-name-template")
	}
	for _, f := range p.forms.all {
		for i := 1; i < len(f.parts) && !lenient; i++ {
			if f.parts[i].claim != "" && f.parts[i-1].claim != "" {
				return fault.BadSetting(fmt.Sprintf("template: the claims %s and %s are adjacent: the "+
					"end of the first would be ambiguous",
					f.parts[i-1].claim, f.parts[i].claim), "write text between them, such as /",
					"subject-alternative-name-template")
			}
		}
	}
	p.free = ""
	if len(p.forms.all) == 1 {
		var open []string
		for i, one := range p.forms.all[0].parts {
			if one.claim != "" && i > 0 && !slices.Contains(p.segments, one.claim) {
				open = append(open, one.claim)
			}
		}
		if len(open) == 1 {
			p.free = open[0]
		}
	}
	return nil
}

// FixedDefaults lists, sorted, the defaults of the profile of this name that a claim overrides in Fulcio but not in
// mayfly, unless the file has a list of such claims.
func (c ProfileConfig) FixedDefaults(name string) []string {
	if _, known := profiles[name]; known || c.Claims != nil {
		return nil
	}
	var out []string
	for _, d := range slices.Sorted(maps.Keys(c.Defaults)) {
		if c.Defaults[d] != "" {
			out = append(out, d)
		}
	}
	return out
}

// claimDefaults returns, for a profile without a list of claims, the defaults that a token may override: the empty
// ones, and those that the shipped profile of the same name lists. The others, mostly addresses, are settings of the
// operator, which no token overrides.
func claimDefaults(name string, c ProfileConfig) []string {
	var out []string
	shipped := profiles[name].Claims
	for d, v := range c.Defaults {
		if v == "" || slices.Contains(shipped, d) {
			out = append(out, d)
		}
	}
	return out
}

// extensionNamed finds an extension by its name or by its JSON key; the key is not case-sensitive, as in Fulcio.
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

// Library holds the parsed profiles of ci-issuer-metadata by name. A profile with an error has the value nil.
type Library map[string]*profile

// NewLibrary parses profiles. Its errors are [fault.Setting] values, below the name of the profile.
func NewLibrary(all map[string]ProfileConfig) (Library, error) {
	l := Library{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p, err := parseProfile(name, all[name])
		if err != nil {
			p = nil
			errs = append(errs, fault.Under(err, name))
		}
		l[name] = p
	}
	return l, errors.Join(errs...)
}

// profileOf returns the profile of an issuer of the type ci-provider: a shipped profile, or one of ci-issuer-metadata.
func (l Library) profileOf(r entry) (*profile, error) {
	if r.Profile != "" {
		return shippedProfile(r)
	}
	p, ok := l[r.CIProvider]
	if !ok {
		fix := "add the entry, or correct the name"
		if _, shipped := profiles[r.CIProvider]; shipped {
			fix = "add the entry, or write profile: " + r.CIProvider + " to use the profile that mayfly ships"
		}
		return nil, fault.BadSetting(fmt.Sprintf("ci-provider %q has no entry under ci-issuer-metadata", r.CIProvider),
			fix, "ci-provider")
	}
	return p, nil
}

// newCIMapper returns the mapping of the type ci-provider: the templates of a profile.
func newCIMapper(r entry, l Library) (mapFunc, error) {
	lenient := r.Lenient()
	if r.CIProvider == "" && r.Profile == "" { // Fulcio accepts such an entry and then refuses its tokens
		return func(token.Claims) (identity.Identity, error) {
			return identity.Identity{}, fault.New(fault.IdentityNotAllowed,
				errors.New("the entry has no ci-provider"), "claim", "iss")
		}, nil
	}
	p, err := l.profileOf(r)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, nil // NewLibrary has already returned its error
	}
	if lenient {
		own := *p
		if p = &own; p.findForms(true) != nil {
			return nil, nil //nolint:nilerr,nilnil // NewLibrary returned the error
		}
	}
	return func(c token.Claims) (identity.Identity, error) {
		id, err := baseWithSubject(c)
		if err != nil {
			return id, err
		}
		v := values{claims: c, profile: p, lenient: lenient}
		if id.SAN, err = p.buildName(v); err != nil {
			return id, err
		}
		for _, x := range p.extensions {
			text, err := x.template.extension(v)
			if err != nil {
				return id, err
			}
			id.Extensions.Set(x.extension, text)
		}
		return id, nil
	}, nil
}

// buildName renders the URI in the certificate (D13, D15).
func (p *profile) buildName(v values) (identity.SAN, error) {
	parts, err := p.san.parts(v)
	if err != nil {
		return identity.SAN{}, renderError(err)
	}
	if len(parts) == 0 || len(parts) == 1 && parts[0].text == "" {
		return identity.SAN{}, fault.New(fault.ClaimMissing,
			errors.New("the template of the name is empty for these claims"),
			"claim", p.firstClaim())
	}
	rules := uriRules{lenient: v.lenient, segments: p.segments, free: p.free, under: p.under}
	if p.forms.ambiguous {
		rules.segments = p.forms.claims()
	}
	uri, err := rules.build(parts)
	if err == nil {
		err = p.forms.check(uri, parts)
	}
	return identity.SAN{Kind: identity.URI, Value: uri}, err
}

// firstClaim returns the first claim of the name, for errors.
func (p *profile) firstClaim() string {
	for r := range p.san.refs {
		return r.claim
	}
	return "sub"
}

// extension renders the template of an extension. The rules of names also apply to a text that has several parts and
// begins like a URI, but its bytes are not encoded.
func (t template) extension(v values) (string, error) {
	// most extensions are one claim, whose length was already checked
	if len(t) == 1 && t[0].value != nil && t[0].value.op == opClaim {
		p, err := t.claim(v)
		if err != nil {
			err = renderError(err)
		}
		return p.text, err
	}
	parts, err := t.parts(v)
	if err != nil {
		return "", renderError(err)
	}
	text := concatenated(parts)
	if !v.lenient && len(parts) > 1 && hasScheme(text) &&
		slices.ContainsFunc(parts, func(p part) bool { return p.claim != "" && !p.isDefault }) {
		text, err = uriRules{verbatim: true}.build(parts)
	}
	if err == nil && len(text) > maxRendered {
		err = fault.New(fault.ClaimInvalid, fmt.Errorf("a template renders %d bytes; the limit is %d", len(text),
			maxRendered), "claim", longestClaim(parts))
	}
	return text, err
}

// hasScheme reports whether s begins like a URI with an authority.
func hasScheme(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	return ok && isScheme(strings.ToLower(scheme))
}

// longestClaim returns the claim with the longest text.
func longestClaim(parts []part) string {
	claim, n := "sub", 0
	for _, p := range parts {
		if p.claim != "" && len(p.text) > n {
			claim, n = p.claim, len(p.text)
		}
	}
	return claim
}

// renderError returns the error for the client of a template that cannot be rendered.
func renderError(err error) error {
	if missing, ok := errors.AsType[*missingError](err); ok {
		return fault.New(fault.ClaimMissing, err, "claim", missing.claim)
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	return fault.New(fault.ClaimInvalid, err, "claim", "sub")
}

// requiredClaims lists, sorted, the claims without which a profile gives no identity.
func (p *profile) requiredClaims() []string {
	all := map[string]bool{"sub": true}
	add := func(r ref) {
		if _, isDefault := p.defaults[r.claim]; !isDefault && !r.optional && !slices.Contains(p.optional, r.claim) {
			all[r.claim] = true
		}
	}
	for r := range p.san.refs {
		add(r)
	}
	for _, x := range p.extensions {
		for r := range x.template.refs {
			add(r)
		}
	}
	return slices.Sorted(maps.Keys(all))
}
