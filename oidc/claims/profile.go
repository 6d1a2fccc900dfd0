package claims

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// profile is a parsed [ProfileConfig].
type profile struct {
	defaults   map[string]string
	overridden map[string]bool // the defaults that a token's claim of the same name overrides
	san        template
	extensions []profileExtension // in the order of a certificate
	under      string             // what the URI must begin with; "": anything
	segments   []string           // claims that stand between two slashes of the URI
	// the defaults that are parameters of a shipped profile, which no claim changes, also not with compat: fulcio
	parameters map[string]bool
	// claims that the provider documents as null or absent at times: their extensions are left out then
	optional []string
	names    names  // the forms of san
	free     string // the claim of san that may contain what stands beside it; "": the last one
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
		claimed = claimedDefaults(name, c)
	}
	for _, name := range claimed {
		p.overridden[name] = true
	}
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
	} else if err := p.findNames(false); err != nil {
		errs = append(errs, err)
	}
	return p, errors.Join(errs...)
}

// findNames lists the forms of the name and finds the claim in it that may contain what stands beside it: the only one
// that may have a slash, or else the last one.
func (p *profile) findNames(lenient bool) error {
	var err error
	if p.names, err = p.san.names(values{profile: p, lenient: lenient}); err != nil {
		return fault.BadSetting("template: "+err.Error(), "use fewer conditions", "subject-alternative-name-template")
	}
	for _, f := range p.names.forms {
		for i := 1; i < len(f.parts) && !lenient; i++ {
			if f.parts[i].claim != "" && f.parts[i-1].claim != "" {
				return fault.BadSetting(fmt.Sprintf("template: the claims %s and %s follow one another: where one "+
					"ends could not be told",
					f.parts[i-1].claim, f.parts[i].claim), "write a text between them, such as /",
					"subject-alternative-name-template")
			}
		}
	}
	p.free = ""
	if len(p.names.forms) == 1 {
		var open []string
		for i, one := range p.names.forms[0].parts {
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

// FixedDefaults lists the defaults of the profile of this name that Fulcio lets a claim override and mayfly does not, and
// about which the file says nothing; sorted.
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

// claimedDefaults are the defaults that stand for optional claims although a profile does not list them: empty ones, and those
// that the shipped profile of the same name lists. The others, addresses mostly, are the operator's: no token changes them.
func claimedDefaults(name string, c ProfileConfig) []string {
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

// Library holds the parsed profiles of ci-issuer-metadata by name. A profile with an error is nil.
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

// profileOf returns the profile of an issuer of the type ci-provider: a shipped one, or one of the file's own.
func (l Library) profileOf(r entry) (*profile, error) {
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
func newCIMapper(r entry, l Library) (mapFunc, error) {
	lenient := r.Lenient()
	if r.CIProvider == "" && r.Profile == "" { // Fulcio starts with such an entry, and refuses each of its tokens
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
		return nil, nil // its own error is reported already
	}
	if lenient {
		own := *p
		if p = &own; p.findNames(true) != nil {
			return nil, nil //nolint:nilerr,nilnil // reported for the profile
		}
	}
	return func(c token.Claims) (identity.Identity, error) {
		id, err := bySubject(c)
		if err != nil {
			return id, err
		}
		v := values{claims: c, profile: p, lenient: lenient}
		if id.SAN, err = p.name(v); err != nil {
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

// name makes the URI that is certified (D13, D15).
func (p *profile) name(v values) (identity.SAN, error) {
	parts, err := p.san.parts(v)
	if err != nil {
		return identity.SAN{}, unrendered(err, "sub")
	}
	if len(parts) == 0 || len(parts) == 1 && parts[0].text == "" {
		return identity.SAN{}, fault.New(fault.ClaimMissing, errors.New("the template of the name gives nothing"),
			"claim", p.firstClaim())
	}
	rules := uriRules{lenient: v.lenient, segments: p.segments, free: p.free, under: p.under}
	if p.names.ambiguous {
		rules.segments = p.names.claims()
	}
	uri, err := rules.build(parts)
	if err == nil {
		err = p.names.check(uri, parts)
	}
	return identity.SAN{Kind: identity.URI, Value: uri}, err
}

// firstClaim is the claim that the name is made of, where an error needs one.
func (p *profile) firstClaim() string {
	for r := range p.san.refs {
		return r.claim
	}
	return "sub"
}

// extension renders a template of an extension. What is made of several texts and begins as a URI obeys the rules of
// the name, and keeps its bytes.
func (t template) extension(v values) (string, error) {
	// most are a claim as it is, whose length has been checked
	if len(t) == 1 && t[0].value != nil && t[0].value.op == opClaim {
		p, err := t.claim(v)
		if err != nil {
			err = unrendered(err, "sub")
		}
		return p.text, err
	}
	parts, err := t.parts(v)
	if err != nil {
		return "", unrendered(err, "sub")
	}
	text := concatenated(parts)
	if !v.lenient && len(parts) > 1 && webAddress(text) &&
		slices.ContainsFunc(parts, func(p part) bool { return p.claim != "" && !p.setting }) {
		text, err = uriRules{verbatim: true}.build(parts)
	}
	if err == nil && len(text) > maxRendered {
		err = fault.New(fault.ClaimInvalid, fmt.Errorf("a template gives %d bytes; the limit is %d", len(text),
			maxRendered), "claim", longest(parts))
	}
	return text, err
}

// webAddress reports whether s begins as a URI with an authority.
func webAddress(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	return ok && schemeText(strings.ToLower(scheme))
}

// longest is the claim with the longest text.
func longest(parts []part) string {
	claim, n := "sub", 0
	for _, p := range parts {
		if p.claim != "" && len(p.text) > n {
			claim, n = p.claim, len(p.text)
		}
	}
	return claim
}

// values are what templates read: claims, and the defaults of a profile.
type values struct {
	claims  token.Claims
	profile *profile // nil: no defaults
	lenient bool     // compat: fulcio
}

// get returns a value as text; ok is false when neither a claim nor a default has the name. A claim that is null is
// absent. A claim with the name of a default that no claim may change has that value or is an error: another name than
// the token says is never certified.
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
		_, fixed := v.setting(name)
		if fixed {
			name = ""
		}
		return part{text: d, claim: name, setting: !fixed}, true, nil
	}
	p, _, err = v.claim(name, c)
	if _, fixed := v.setting(name); err == nil && fixed {
		if p.text != d {
			err = badPart(name, "is not the operator's setting of that name")
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

// setting returns the default of name if no claim changes it.
func (v values) setting(name string) (string, bool) {
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

// claimText prints a claim: a text as it is, a number in decimals without exponent, true or false. A list or an object
// has no text.
func claimText(name string, v any) (string, error) {
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case json.Number:
		var ok bool
		if text, ok = decimal(v.String()); !ok {
			return "", badPart(name, "a number with too many digits")
		}
	case bool:
		text = strconv.FormatBool(v)
	case []any:
		return "", badPart(name, "a list, not a text")
	default:
		return "", badPart(name, "an object, not a text")
	}
	return text, checkText(name, text)
}

// checkText refuses what a certificate cannot carry, or what a reader of it cannot see (A17), under the name of the
// claim.
func checkText(claim, text string) error {
	if len(text) > maxRendered {
		return badPart(claim, fmt.Sprintf("has %d bytes; the limit is %d", len(text), maxRendered))
	}
	if r, hidden := printable.Hidden(text); hidden {
		return badPart(claim, fmt.Sprintf("has the character %U, which cannot be seen", r))
	}
	return nil
}

// decimal writes a JSON number exactly, without exponent, and in one way: 100, 1e2 and 100.0 are one number. ok is
// false for a number that would be too long.
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
	point := len(whole) + exponent // where the decimal point stands in digits
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

// unrendered is what the caller is told of a template that gives nothing.
func unrendered(err error, claim string) error {
	var m *missingError
	if errors.As(err, &m) {
		return fault.New(fault.ClaimMissing, err, "claim", m.claim)
	}
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	return fault.New(fault.ClaimInvalid, err, "claim", claim)
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
	Config ProfileConfig
}

// Profiles lists the shipped profiles, sorted.
func Profiles() []ProfileInfo {
	var out []ProfileInfo
	for _, name := range slices.Sorted(maps.Keys(profiles)) {
		s := profiles[name]
		i := ProfileInfo{Name: name, Summary: s.Summary, Issuers: s.Issuers, Parameters: map[string]string{}, Config: s.ProfileConfig}
		i.Config.Segments, i.Config.Under = s.Segments, s.under(s.Defaults)
		for _, p := range s.Parameters {
			i.Parameters[p] = s.Defaults[p]
		}
		if p, err := parseProfile(name, s.ProfileConfig); err == nil && s.SAN != "" {
			i.Claims = p.requiredClaims()
		} else {
			i.Claims = s.Needs
		}
		out = append(out, i)
	}
	return out
}

// requiredClaims lists the claims without which a profile gives no identity, sorted.
func (p *profile) requiredClaims() []string {
	all := map[string]bool{"sub": true}
	note := func(r ref) {
		if _, isDefault := p.defaults[r.claim]; !isDefault && !r.optional && !slices.Contains(p.optional, r.claim) {
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
