package oidc

import (
	"cmp"
	"encoding/asn1"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// table is a compiled [Config]: everything that a request needs to know of it. It is immutable.
type table struct {
	exact    map[string]*row
	patterns *trie
	rows     []*row // exact issuers sorted, then patterns sorted
}

// row is one entry of the configuration.
type row struct {
	key       string // URL or pattern
	wildcard  bool
	written   bool         // the operator, not a profile, said which e-mail domains
	config    IssuerConfig // with the type and the rules of its profile filled in
	audiences []string
	lifetime  time.Duration
	lenient   bool // Fulcio's rules on tokens
	mapper    mapper
	profile   *profile // of the type ci-provider; else nil
	custom    []customTemplate
	policy    *policy // nil: everybody
	route     *route  // how its providers are reached; nil where nothing is fetched, as to explain a configuration
}

type customTemplate struct {
	oid      asn1.ObjectIdentifier
	template template
}

// Check finds what is wrong without asking anybody. Its errors are [fault.Setting] values.
func (c Config) Check() error {
	_, err := c.compile()
	return err
}

func (c Config) compile() (*table, error) {
	t := &table{exact: map[string]*row{}, patterns: &trie{}}
	var errs []error
	if len(c.Issuers)+len(c.MetaIssuers) == 0 {
		errs = append(errs, fault.BadSetting("no issuer: every token would be refused", "write at least one entry under oidc-issuers", "oidc-issuers"))
	}
	lib := library{}
	for _, name := range slices.Sorted(maps.Keys(c.Providers)) {
		p, err := parseProfile(name, c.Providers[name])
		if err != nil {
			p = nil
			errs = append(errs, fault.Under(err, "ci-issuer-metadata", name))
		}
		lib[name] = p
	}
	for _, key := range slices.Sorted(maps.Keys(c.Issuers)) {
		ic := c.Issuers[key]
		r, err := lib.compile(key, ic, ic.checkExact(key))
		errs = append(errs, fault.Under(err, "oidc-issuers", key))
		t.exact[key] = r
		t.rows = append(t.rows, r)
	}
	patterns := slices.Sorted(maps.Keys(c.MetaIssuers))
	for i, key := range patterns {
		ic := c.MetaIssuers[key]
		r, err := lib.compile(key, ic, ic.checkPattern(key))
		errs = append(errs, fault.Under(err, "meta-issuers", key))
		r.wildcard = true
		for _, other := range patterns[:i] {
			if overlap(key, other) {
				errs = append(errs, fault.BadSetting(fmt.Sprintf("overlaps with the pattern %s: one issuer could match both", other),
					"make one of them narrower", "meta-issuers", key))
			}
		}
		t.patterns.add(key, r)
		t.rows = append(t.rows, r)
	}
	errs = append(errs, t.checkEmailDomains())
	return t, errors.Join(errs...)
}

// has reports whether there is an entry with this key, a URL or a pattern.
func (t *table) has(key string) bool {
	return slices.ContainsFunc(t.rows, func(r *row) bool { return r.key == key })
}

// find returns the one row for an issuer: an exact one before a pattern; patterns do not overlap (D6, D7).
func (t *table) find(iss string) *row {
	if r, ok := t.exact[iss]; ok {
		return r
	}
	if len(iss) > 1024 {
		return nil
	}
	return t.patterns.find(iss)
}

// checkEmailDomains refuses two issuers that may speak for the same address without having said so. An issuer without a list
// may speak for every domain, so that somebody else's list would mean nothing beside it.
func (t *table) checkEmailDomains() error {
	var errs []error
	for _, a := range t.rows {
		if a.config.Type != "email" {
			continue
		}
		for i, domain := range a.config.EmailDomains {
			for _, b := range t.rows {
				if a == b || b.config.Type != "email" || a.config.SharedEmailDomains && b.config.SharedEmailDomains {
					continue
				}
				if d := b.speaksFor(domain); d != "" {
					errs = append(errs, fault.BadSetting(fmt.Sprintf("%s may be spoken for by %s too (%s)", domain, b.key, d),
						"give each issuer email-domains of its own, or say shared-email-domains: true in both", a.section(), a.key, "email-domains", fmt.Sprint(i)))
					break
				}
			}
		}
	}
	return errors.Join(errs...)
}

// speaksFor says by what an issuer of addresses may name somebody of domain; "" when it may not.
func (r *row) speaksFor(domain string) string {
	if len(r.config.EmailDomains) == 0 {
		return "it has no email-domains"
	}
	for _, d := range r.config.EmailDomains {
		if shareDomain(strings.ToLower(d), strings.ToLower(domain)) {
			return d
		}
	}
	return ""
}

func (r *row) section() string {
	if r.wildcard {
		return "meta-issuers"
	}
	return "oidc-issuers"
}

func (c IssuerConfig) checkExact(key string) error {
	if c.Issuer != "" && c.Issuer != key {
		return fault.BadSetting(fmt.Sprintf("issuer %q is not the key of its entry, %q", c.Issuer, key),
			"write the same URL in both places, or remove issuer", "issuer")
	}
	if c.IssuerURL != "" && c.IssuerURL != key {
		return fault.BadSetting(fmt.Sprintf("issuer-url %q is not the key of its entry, %q", c.IssuerURL, key), "write the same URL in both places", "issuer-url")
	}
	if strings.Contains(key, "*") {
		return fault.BadSetting("a star belongs under meta-issuers", "move the entry there")
	}
	return c.checkURL(key)
}

func (c IssuerConfig) checkPattern(key string) error {
	var errs []error
	if c.Issuer != "" && c.Issuer != key {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("issuer %q is not the key of its entry, %q", c.Issuer, key),
			"remove issuer", "issuer"))
	}
	if problem := boundless(key); problem != "" {
		errs = append(errs, fault.BadSetting(problem,
			"write the domain of the provider without a star, https://*.example.com"))
	}
	one := strings.ReplaceAll(key, "*", "0") // an issuer that matches; a star in a host makes it another one
	if u, err := url.Parse(one); !strings.HasPrefix(key, "https://") && (err != nil || u.Scheme != "http" || !hostname.IsLoopback(u.Hostname())) {
		errs = append(errs, fault.BadSetting("a pattern begins with https://", "write https://"))
	}
	if c.Insecure {
		errs = append(errs, fault.BadSetting("a pattern cannot be insecure", "write the issuer under oidc-issuers", "insecure"))
	}
	if c.Type == "spiffe" {
		errs = append(errs, fault.BadSetting("a pattern cannot have the type spiffe: every issuer that matches could name the whole trust domain", "write the issuer under oidc-issuers", "type"))
	}
	if c.DiscoveryURL != "" {
		errs = append(errs, fault.BadSetting("a pattern means many issuers, and each has a discovery document of its own", "remove it, or write the issuer under oidc-issuers", "discovery-url"))
	}
	if c.JWKSURL != "" {
		errs = append(errs, fault.BadSetting("a pattern means many issuers, and each has keys of its own",
			"remove it, or write the issuer under oidc-issuers", "jwks-url"))
	}
	if c.StaticKeys != nil {
		errs = append(errs, fault.BadSetting("a pattern means many issuers, and each has keys of its own", "write the issuers under oidc-issuers", "static-keys"))
	}
	if c.Outbound.BearerTokenFile != "" {
		errs = append(errs, fault.BadSetting("a pattern cannot send a token: every host that matches would get it", "write the issuer under oidc-issuers", "outbound", "bearer-token-file"))
	}
	return errors.Join(append(errs, c.checkURL(one))...)
}

func (c IssuerConfig) checkURL(text string) error {
	u, err := url.Parse(text)
	if err == nil && (u.User != nil || u.RawQuery != "" || u.Fragment != "") {
		return fault.BadSetting("an issuer has no user, query or fragment", "write https://HOST/PATH")
	}
	return c.checkEndpoint(text)
}

// checkEndpoint checks the URL of a document of a provider. It may have a query: some providers tell applications apart
// by it.
func (c IssuerConfig) checkEndpoint(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return fault.BadSetting(fmt.Sprintf("%q is not a URL", text), "write https://HOST/PATH")
	case u.User != nil || u.Fragment != "":
		return fault.BadSetting("the URL has a user or a fragment", "write https://HOST/PATH")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && (hostname.IsLoopback(u.Hostname()) || c.Insecure):
		return nil
	case u.Scheme == "http":
		return fault.BadSetting("plain http: anybody on the way could make tokens", "use https, or set insecure: true for this issuer")
	}
	return fault.BadSetting(fmt.Sprintf("the scheme %q is not https", u.Scheme), "write https://HOST/PATH")
}

// checkSubject checks that sub is a text that a certificate can carry, and not empty (OpenID Connect Core 1.0 §2, D11).
func (r *row) checkSubject(c claims) error {
	sub, err := c.text("sub")
	if err != nil && (!r.lenient || fault.From(err).Reason != fault.ClaimMissing) {
		return err
	}
	return checkText("sub", sub)
}

// boundless says why a pattern means hosts of everybody: a star stands for the registered domain of a host, or a part
// of it. Private entries of the public suffix list, such as github.io, belong to one provider and count as its domain.
func boundless(pattern string) string {
	_, authority, _, _ := components(pattern)
	host, _, _ := strings.Cut(authority, ":")
	labels := strings.Split(host, ".")
	suffix, icann := publicsuffix.PublicSuffix(strings.ReplaceAll(strings.ToLower(host), "*", "x"))
	for !icann && strings.Contains(suffix, ".") {
		_, parent, _ := strings.Cut(suffix, ".")
		suffix, icann = publicsuffix.PublicSuffix(parent)
	}
	own := strings.Count(suffix, ".") + 2
	if !icann { // an unlisted ending, such as internal: its domains are the operator's own
		own = 1
	}
	own = min(own, len(labels))
	for _, label := range labels[len(labels)-own:] {
		if label == "*" || strings.Contains(label, "*") && len(labels) > 1 {
			return "the star stands for the domain itself: anybody who has a domain could be the issuer"
		}
	}
	return ""
}

// compile turns an entry into a row. It returns a row also with an error, for checks across rows. known is what is wrong with
// the key of the entry.
func (l library) compile(key string, c IssuerConfig, known error) (*row, error) {
	errs := []error{known}
	add := func(problem, fix string, path ...string) {
		errs = append(errs, fault.BadSetting(problem, fix, path...))
	}
	c.IssuerURL = key
	written := len(c.EmailDomains) > 0
	if c.Profile != "" {
		if c.Type != "" && c.Type != "ci-provider" || c.CIProvider != "" {
			add("profile takes the place of type and ci-provider", "remove those", "profile")
		}
		c.Type = "ci-provider"
		if e := profiles[c.Profile].Email; e != nil {
			c.Type = "email"
			if len(c.EmailDomains) == 0 {
				c.EmailDomains = e.domains
			}
		}
	} else if len(c.Parameters) > 0 && (types[c.Type].newMapper == nil || profiles[c.Type].SAN == "") {
		add("parameters are those of a profile, and there is none", "write profile: NAME or remove them", "parameters")
	}
	r := &row{key: key, written: written, config: c, lifetime: c.MaxLifetime, lenient: c.Compat == "fulcio"}
	if r.lifetime == 0 {
		r.lifetime = defaultLifetime
	}
	r.audiences = slices.Clone(c.Audiences)
	if c.ClientID != "" {
		r.audiences = append([]string{c.ClientID}, r.audiences...)
	}
	if len(r.audiences) == 0 {
		add("client-id is missing: every token would be refused", "write the audience that tokens are made for, often sigstore", "client-id")
	}
	if slices.Contains(r.audiences, "") {
		add("an empty audience", "remove it", "audiences")
	}
	t, ok := types[c.Type]
	if !ok {
		add(fmt.Sprintf("type %q is unknown", c.Type), "write one of "+strings.Join(Types(), ", ")+"; or profile: NAME", "type")
	} else {
		var err error
		r.mapper, err = t.newMapper(c, l)
		errs = append(errs, err)
		if c.Type == "ci-provider" && err == nil {
			r.profile, _ = l.profileOf(c) // its error is the mapper's
		}
	}
	var err error
	r.custom, err = parseCustom(c.CustomExtensions)
	errs = append(errs, err, c.checkRest())
	if c.Policy != nil {
		r.policy, err = compilePolicy(*c.Policy)
		errs = append(errs, fault.Under(err, "policy"))
	}
	if joined := errors.Join(errs...); joined != nil {
		return r, joined
	}
	return r, fault.Under(r.runVectors(), "policy", "tests")
}

// checkRest checks what only contradicts itself or the type.
func (c IssuerConfig) checkRest() error {
	var errs []error
	add := func(problem, fix string, path ...string) {
		errs = append(errs, fault.BadSetting(problem, fix, path...))
	}
	only := func(set bool, kind, key string) {
		if set && c.Type != kind {
			add(key+" is for the type "+kind, "remove it or change the type", key)
		}
	}
	only(c.CIProvider != "", "ci-provider", "ci-provider")
	only(c.IssuerClaim != "", "email", "issuer-claim")
	only(c.EmailClaim != "", "email", "email-claim")
	only(c.EmailVerified != "", "email", "email-verified")
	only(len(c.EmailDomains) > 0, "email", "email-domains")
	only(c.SharedEmailDomains, "email", "shared-email-domains")
	only(len(c.MappedIssuers) > 0, "email", "mapped-issuers")
	if at := cmp.Or(c.DiscoveryURL, c.JWKSURL, c.IssuerURL); c.Outbound.BearerTokenFile != "" &&
		strings.HasPrefix(at, "http://") {
		add("a token is not sent over plain http", "use https, or remove it", "outbound", "bearer-token-file")
	}
	for key, d := range map[string]time.Duration{"max-lifetime": c.MaxLifetime, "max-age": c.MaxAge} {
		if d < 0 {
			add("a duration below zero", "write a duration such as 24h, or remove it", key)
		}
	}
	if c.Compat != "" && c.Compat != "fulcio" {
		add(fmt.Sprintf("compat %q is unknown", c.Compat), "write fulcio or remove the key", "compat")
	}
	for i, a := range c.TokenAlgorithms {
		if !slices.Contains(algorithms, a) {
			add(fmt.Sprintf("%q is not an algorithm of tokens", a), "write some of "+strings.Join(algorithms, ", "), "token-algorithms", fmt.Sprint(i))
		}
	}
	if c.CACert != "" {
		if _, err := pemfile.Roots([]byte(c.CACert)); err != nil {
			errs = append(errs, fault.BadContent(err, "write the PEM text of the CA", "ca-cert"))
		}
	}
	for key, at := range map[string]string{"discovery-url": c.DiscoveryURL, "jwks-url": c.JWKSURL} {
		if at == "" {
			continue
		}
		if c.StaticKeys != nil {
			add(key+" and static-keys contradict each other", "remove one of them", key)
		}
		errs = append(errs, fault.Under(c.checkEndpoint(at), key))
	}
	if c.StaticKeys != nil {
		errs = append(errs, fault.Under(c.StaticKeys.check(), "static-keys"))
		if c.Outbound != (OutboundConfig{}) {
			add("nothing is fetched for an issuer with static-keys", "remove outbound", "outbound")
		}
	}
	errs = append(errs, fault.Under(c.Outbound.check(c.CACert), "outbound"))
	return errors.Join(errs...)
}

func (s StaticKeysConfig) check() error {
	n := 0
	for _, v := range []string{s.JWKS, s.File, s.Dir} {
		if v != "" {
			n++
		}
	}
	if n != 1 {
		return fault.BadSetting("needs exactly one of jwks, file and dir", "write one of them")
	}
	for i, a := range s.Algorithms {
		if !slices.Contains(algorithms, a) {
			return fault.BadSetting(fmt.Sprintf("%q is not an algorithm of tokens", a), "write some of "+strings.Join(algorithms, ", "), "algorithms", fmt.Sprint(i))
		}
	}
	if s.JWKS != "" {
		if _, err := parseKeys([]byte(s.JWKS)); err != nil {
			return fault.BadSetting(err.Error(), `write {"keys": […]} with public keys`, "jwks")
		}
	}
	return nil
}

func (o OutboundConfig) check(caCert string) error {
	var errs []error
	if o.CAExclusive && o.CABundle == "" && caCert == "" {
		errs = append(errs, fault.BadSetting("needs a CA to trust", "write ca-bundle too", "ca-exclusive"))
	}
	if o.Proxy != "" && o.Proxy != "none" {
		u, err := url.Parse(o.Proxy)
		switch {
		case err != nil || u.Host == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme):
			errs = append(errs, fault.BadSetting("not the URL of a proxy", "write http://HOST:PORT, or none", "proxy"))
		case u.User != nil:
			errs = append(errs, fault.BadSetting("a password does not belong into the configuration", "put the URL into the environment variable HTTPS_PROXY and leave proxy out", "proxy"))
		}
	}
	if c := o.ClientCertificate; c != nil && (c.Certificate == "" || c.Key == "") {
		errs = append(errs, fault.BadSetting("needs certificate and key", "write both", "client-certificate"))
	}
	if o.Timeout < 0 || o.Timeout > maxFetch {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%s is not between 0 and %s", o.Timeout, maxFetch),
			fmt.Sprintf("write a duration such as 10s; a request waits for %s of it at most", maxWait), "timeout"))
	}
	return errors.Join(errs...)
}

// parseCustom compiles extensions of the operator's own, in ascending order of their OIDs.
func parseCustom(all map[string]string) ([]customTemplate, error) {
	var out []customTemplate
	var errs []error
	for _, text := range slices.Sorted(maps.Keys(all)) {
		oid, err := identity.ParseArc(text)
		if err != nil {
			errs = append(errs, fault.BadSetting(err.Error(), "write an OID under your own private enterprise number", "custom-extensions", text))
			continue
		}
		t, err := parseTemplate(all[text])
		if err == nil && len(t) == 0 {
			err = errors.New("empty")
		}
		if err != nil {
			errs = append(errs, fault.BadSetting("template: "+err.Error(), "correct the template", "custom-extensions", text))
			continue
		}
		out = append(out, customTemplate{oid, t})
	}
	slices.SortFunc(out, func(a, b customTemplate) int { return slices.Compare(a.oid, b.oid) })
	return out, errors.Join(errs...)
}

// claimOf is the claim that a field of a certificate is made of.
func (r *row) claimOf(field string, id *identity.Identity) string {
	switch {
	case field == identity.Issuer.String() || field == identity.IssuerV1.String():
		if r.config.IssuerClaim != "" {
			return strings.TrimPrefix(r.config.IssuerClaim, "$.")
		}
		return "iss"
	case field == "san" && r.profile != nil:
		return r.profile.firstClaim()
	case field == "san" && id.ChallengeClaim != "":
		return id.ChallengeClaim // what the caller knows it by
	}
	return "sub"
}

// identify maps verified claims: what the certificate will say. It is pure.
func (r *row) identify(c claims) (identity.Identity, error) {
	if err := r.checkSubject(c); err != nil {
		return identity.Identity{}, err
	}
	id, err := r.mapper(c)
	if err != nil {
		return identity.Identity{}, err
	}
	if on := r.config.LegacyExtensions; on != nil && !*on {
		for x := range identity.Known() {
			if x.Raw() {
				id.Extensions.Set(x, "")
			}
		}
	}
	for _, t := range r.custom {
		text, err := t.template.extension(values{claims: c, profile: r.profile, lenient: r.lenient})
		if err != nil {
			return identity.Identity{}, err
		}
		if text != "" {
			id.Custom = append(id.Custom, identity.Custom{OID: t.oid, Value: text})
		}
	}
	if err := id.Check(); err != nil { // what claims are refused for has been said by then; this is the last look
		var bad *identity.ValueError
		if errors.As(err, &bad) {
			err = fault.New(fault.ClaimInvalid, err, "claim", r.claimOf(bad.Field, &id))
		}
		return identity.Identity{}, err
	}
	return id, nil
}
