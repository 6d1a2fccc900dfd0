// Package issuer is the table of the issuers whose tokens are accepted.
//
// [Config.Compile] turns an issuer file into a [Table]: everything that a request needs from the file. A token names
// its issuer, and exactly one [Entry] MUST apply to it: an exact URL before a pattern (D6, D7). [Entry.Check] applies
// the rules on claims that need no key; [Entry.Decide] maps verified claims to an identity and evaluates the policy.
// Both are pure.
package issuer

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/oidc/claims"
	"github.com/mayfly-ca/mayfly/oidc/pattern"
	"github.com/mayfly-ca/mayfly/oidc/policy"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// Table is a compiled [Config]. It is immutable.
type Table struct {
	exact    map[string]*Entry
	patterns pattern.Trie[*Entry]
	entries  []*Entry // exact issuers sorted, then patterns sorted
}

// Entry is one entry of a table.
type Entry struct {
	Key       string      // the URL of the issuer, or the pattern
	Pattern   bool        // Key is a pattern
	Config    EntryConfig // with the type and the e-mail domains that the profile implies
	Audiences []string    // client-id, then audiences
	Mapper    *claims.Mapper
	Policy    *policy.Policy // nil: every valid token is accepted

	ownDomains bool // email-domains come from the file, not from the profile
	lifetime   time.Duration
}

// defaultLifetime is the default of max-lifetime.
const defaultLifetime = 24 * time.Hour

// Check finds mistakes without any network access. Its errors are [fault.Setting] values.
func (c Config) Check() error {
	_, err := c.Compile()
	return err
}

// Compile checks and compiles the configuration. Its errors are [fault.Setting] values.
func (c Config) Compile() (*Table, error) {
	t := &Table{exact: map[string]*Entry{}}
	var errs []error
	if len(c.Issuers)+len(c.MetaIssuers) == 0 {
		errs = append(errs, fault.BadSetting("no issuer: every token would be refused",
			"write at least one entry under oidc-issuers", "oidc-issuers"))
	}
	library, err := claims.NewLibrary(c.Providers)
	errs = append(errs, fault.Under(err, "ci-issuer-metadata"))
	for _, key := range slices.Sorted(maps.Keys(c.Issuers)) {
		e, err := compileEntry(key, c.Issuers[key], library)
		if err = errors.Join(c.Issuers[key].checkExact(key), err); err == nil {
			err = e.runTests()
		}
		errs = append(errs, fault.Under(err, "oidc-issuers", key))
		t.exact[key] = e
		t.entries = append(t.entries, e)
	}
	patterns := slices.Sorted(maps.Keys(c.MetaIssuers))
	for i, key := range patterns {
		e, err := compileEntry(key, c.MetaIssuers[key], library)
		e.Pattern = true
		if err = errors.Join(c.MetaIssuers[key].checkPattern(key), err); err == nil {
			err = e.runTests()
		}
		errs = append(errs, fault.Under(err, "meta-issuers", key))
		for _, other := range patterns[:i] {
			if pattern.Overlap(key, other) {
				errs = append(errs, fault.BadSetting(
					fmt.Sprintf("overlaps with the pattern %s: an issuer could match both", other),
					"make one of them narrower", "meta-issuers", key))
			}
		}
		t.patterns.Add(key, e)
		t.entries = append(t.entries, e)
	}
	errs = append(errs, t.checkEmailDomains(), t.checkReserved())
	return t, errors.Join(errs...)
}

// Reserved is the issuer of the tokens that the CA makes for itself. Its host is in a top-level domain without names
// (RFC 6761 §6.4). No entry of an issuer file may apply to it; see [CompileReserved].
const Reserved = "https://canary.mayfly.invalid"

// reservedDomain has the names that the CA uses for itself.
const reservedDomain = "mayfly.invalid"

// CompileReserved returns a table whose only entry is that of [Reserved].
func CompileReserved(c EntryConfig) (*Table, error) {
	library, err := claims.NewLibrary(nil)
	if err != nil {
		return nil, err
	}
	e, err := compileEntry(Reserved, c, library)
	return &Table{exact: map[string]*Entry{Reserved: e}, entries: []*Entry{e}}, err
}

// checkReserved refuses the entries that would apply to an issuer whose name the CA uses for itself.
func (t *Table) checkReserved() error {
	var errs []error
	refuse := func(e *Entry) {
		errs = append(errs, fault.BadSetting("the CA uses names in "+reservedDomain+" for itself",
			"remove the entry, or make the pattern narrower", e.Section(), e.Key))
	}
	for _, e := range t.entries {
		u, err := url.Parse(e.Key)
		if err != nil || e.Pattern {
			continue
		}
		if host := strings.ToLower(u.Hostname()); host == reservedDomain ||
			strings.HasSuffix(host, "."+reservedDomain) {
			refuse(e)
		}
	}
	if e, _ := t.patterns.Find(Reserved); e != nil {
		refuse(e)
	}
	return errors.Join(errs...)
}

// Entries lists the entries: exact issuers sorted, then patterns sorted. The caller MUST NOT change the slice.
func (t *Table) Entries() []*Entry { return t.entries }

// Find returns the entry for an issuer: an exact one before a pattern. Nil if there is none.
func (t *Table) Find(issuer string) *Entry {
	if e, ok := t.exact[issuer]; ok {
		return e
	}
	if len(issuer) > 1024 {
		return nil
	}
	e, _ := t.patterns.Find(issuer)
	return e
}

// Has reports whether there is an entry with this key, a URL or a pattern.
func (t *Table) Has(key string) bool {
	return slices.ContainsFunc(t.entries, func(e *Entry) bool { return e.Key == key })
}

// Section returns the section of the issuer file that has the entry.
func (e *Entry) Section() string {
	if e.Pattern {
		return "meta-issuers"
	}
	return "oidc-issuers"
}

// ProviderEntry returns the settings of the entry that concern the keys of its providers.
func (e *Entry) ProviderEntry() provider.Entry {
	return provider.Entry{
		Key: e.Key, Pattern: e.Pattern, Kubernetes: e.Config.Type == "kubernetes", KeysConfig: e.Config.KeysConfig,
	}
}

// checkEmailDomains refuses two issuers that may assert the same address, unless both have shared-email-domains. An
// issuer without a list may assert addresses of every domain, so the list of another issuer would have no effect.
func (t *Table) checkEmailDomains() error {
	var errs []error
	for _, a := range t.entries {
		if a.Config.Type != "email" {
			continue
		}
		for i, domain := range a.Config.EmailDomains {
			for _, b := range t.entries {
				if a == b || b.Config.Type != "email" || a.Config.SharedEmailDomains && b.Config.SharedEmailDomains {
					continue
				}
				if why := b.mayName(domain); why != "" {
					errs = append(errs, fault.BadSetting(fmt.Sprintf("%s may also assert addresses of %s (%s)",
						b.Key, domain, why),
						"give each issuer its own email-domains, or write shared-email-domains: true in both",
						a.Section(), a.Key, "email-domains", strconv.Itoa(i)))
					break
				}
			}
		}
	}
	return errors.Join(errs...)
}

// mayName returns why an issuer of the type email may assert an address of domain; empty if it may not.
func (e *Entry) mayName(domain string) string {
	if len(e.Config.EmailDomains) == 0 {
		return "it has no email-domains"
	}
	for _, d := range e.Config.EmailDomains {
		if claims.ShareDomain(strings.ToLower(d), strings.ToLower(domain)) {
			return d
		}
	}
	return ""
}

// compileEntry returns an entry even with an error, for checks across entries.
func compileEntry(key string, c EntryConfig, library claims.Library) (*Entry, error) {
	e := &Entry{Key: key, ownDomains: len(c.EmailDomains) > 0, lifetime: c.MaxLifetime}
	var errs []error
	var err error
	c.MappingConfig, err = c.MappingConfig.Resolve()
	errs = append(errs, err)
	c.IssuerURL = key
	e.Config = c
	if e.lifetime == 0 {
		e.lifetime = defaultLifetime
	}
	e.Audiences = slices.Clone(c.Audiences)
	if c.ClientID != "" {
		e.Audiences = append([]string{c.ClientID}, e.Audiences...)
	}
	e.Mapper, err = library.NewMapper(key, c.MappingConfig)
	errs = append(errs, err, c.check(e.Audiences), c.checkBudget(), c.KeysConfig.Check(key))
	if c.Policy != nil {
		e.Policy, err = policy.Compile(*c.Policy)
		errs = append(errs, fault.Under(err, "policy"))
	}
	return e, errors.Join(errs...)
}

// check checks the rules on tokens.
func (c EntryConfig) check(audiences []string) error {
	var errs []error
	add := func(problem, fix string, path ...string) {
		errs = append(errs, fault.BadSetting(problem, fix, path...))
	}
	if len(audiences) == 0 {
		add("client-id is missing: every token would be refused",
			"write the audience of the tokens, often sigstore",
			"client-id")
	}
	if slices.Contains(audiences, "") {
		add("an audience is empty", "remove it", "audiences")
	}
	for key, d := range map[string]time.Duration{"max-lifetime": c.MaxLifetime, "max-age": c.MaxAge} {
		if d < 0 {
			add("a duration is negative", "write a duration such as 24h, or remove it", key)
		}
	}
	for i, a := range c.TokenAlgorithms {
		errs = append(errs, token.AlgorithmError(a, "token-algorithms", strconv.Itoa(i)))
	}
	return errors.Join(errs...)
}

func (c EntryConfig) checkExact(key string) error {
	if c.Issuer != "" && c.Issuer != key {
		return fault.BadSetting(fmt.Sprintf("issuer %q is not the key of its entry, %q", c.Issuer, key),
			"write the same URL in both places, or remove issuer", "issuer")
	}
	if c.IssuerURL != "" && c.IssuerURL != key {
		return fault.BadSetting(fmt.Sprintf("issuer-url %q is not the key of its entry, %q", c.IssuerURL, key),
			"write the same URL in both places", "issuer-url")
	}
	if strings.Contains(key, "*") {
		return fault.BadSetting("an issuer with a star must be under meta-issuers", "move the entry there")
	}
	return c.checkURL(key)
}

func (c EntryConfig) checkPattern(key string) error {
	var errs []error
	add := func(problem, fix string, path ...string) {
		errs = append(errs, fault.BadSetting(problem, fix, path...))
	}
	if c.Issuer != "" && c.Issuer != key {
		add(fmt.Sprintf("issuer %q is not the key of its entry, %q", c.Issuer, key), "remove issuer", "issuer")
	}
	if problem := unbounded(key); problem != "" {
		add(problem, "write the domain of the provider without a star, such as https://*.example.com")
	}
	one := strings.ReplaceAll(key, "*", "0") // an issuer that matches
	u, err := url.Parse(one)
	if !strings.HasPrefix(key, "https://") && (err != nil || u.Scheme != "http" || !hostname.IsLoopback(u.Hostname())) {
		add("a pattern must begin with https://", "write https://")
	}
	if c.Insecure {
		add("a pattern cannot be insecure", "write the issuer under oidc-issuers", "insecure")
	}
	if c.Type == "spiffe" {
		add("a pattern cannot have the type spiffe: every issuer that matches could assert any name of the trust domain",
			"write the issuer under oidc-issuers", "type")
	}
	if c.DiscoveryURL != "" {
		add("a pattern matches many issuers, and each has its own discovery document",
			"remove it, or write the issuer under oidc-issuers", "discovery-url")
	}
	if c.JWKSURL != "" {
		add("a pattern matches many issuers, and each has its own keys",
			"remove it, or write the issuer under oidc-issuers", "jwks-url")
	}
	if c.StaticKeys != nil {
		add("a pattern matches many issuers, and each has its own keys", "write the issuers under oidc-issuers",
			"static-keys")
	}
	if c.Outbound.BearerTokenFile != "" {
		add("a pattern cannot send a token: every host that matches would get it",
			"write the issuer under oidc-issuers",
			"outbound", "bearer-token-file")
	}
	return errors.Join(append(errs, c.checkURL(one))...)
}

func (c EntryConfig) checkURL(text string) error {
	u, err := url.Parse(text)
	if err == nil && (u.User != nil || u.RawQuery != "" || u.Fragment != "") {
		return fault.BadSetting("an issuer has no user, query or fragment", "write https://HOST/PATH")
	}
	return provider.CheckURL(text, c.Insecure)
}

// unbounded returns why anyone could run an issuer that a pattern matches: a star matches the registered domain of the
// host, or a part of it. A private entry of the public suffix list, such as github.io, belongs to one provider and
// counts as a registered domain.
func unbounded(key string) string {
	authority, _ := splitURL(key)
	host, _, _ := strings.Cut(authority, ":")
	labels := strings.Split(host, ".")
	suffix, icann := publicsuffix.PublicSuffix(strings.ReplaceAll(strings.ToLower(host), "*", "x"))
	for !icann && strings.Contains(suffix, ".") {
		_, parent, _ := strings.Cut(suffix, ".")
		suffix, icann = publicsuffix.PublicSuffix(parent)
	}
	registered := strings.Count(suffix, ".") + 2 // labels of the registered domain
	// an unlisted suffix, such as internal: its domains belong to the operator
	if !icann {
		registered = 1
	}
	registered = min(registered, len(labels))
	for _, label := range labels[len(labels)-registered:] {
		if label == "*" || strings.Contains(label, "*") && len(labels) > 1 {
			return "the star matches the registered domain: anyone who owns a domain could run a matching issuer"
		}
	}
	return ""
}

// splitURL returns authority and path of an issuer or a pattern. net/url does not accept stars in some places.
func splitURL(s string) (authority, path string) {
	_, rest, _ := strings.Cut(s, ":")
	rest, slashes := strings.CutPrefix(rest, "//")
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i]
	}
	if !slashes {
		return "", rest
	}
	authority, path, found := strings.Cut(rest, "/")
	if found {
		path = "/" + path
	}
	return authority, path
}
