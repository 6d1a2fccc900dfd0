package oidc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/fault"
)

// Options for [New].
type Options struct {
	Now       func() time.Time // nil: time.Now
	Logger    *slog.Logger     // nil: none
	StateDir  string           // where the last good keys are kept; "": nowhere
	UserAgent string
	// Pause is called when a request begins to wait for the provider of an entry (a key of the configuration), before
	// its token is verified; resume is called when the request goes on. An error says that too many requests wait
	// already: the request then does not wait. Optional.
	Pause func(ctx context.Context, entry string) (resume func(), err error)
	// ServiceAccountDir has ca.crt and token of the pod that this process runs in; "" is where Kubernetes puts them.
	ServiceAccountDir string
}

// Verifier identifies the bearers of tokens under one configuration. It is safe for concurrent use.
type Verifier struct {
	table     *table
	providers map[string]*provider // of exact issuers
	pool      *pool
}

// New returns a verifier. It asks no provider; see [Verifier.Start]. Its errors are [fault.Setting] values.
func New(c Config, o Options) (*Verifier, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Pause == nil {
		o.Pause = func(context.Context, string) (func(), error) { return func() {}, nil }
	}
	p := newPool(o)
	v, err := p.verifier(c)
	if err != nil {
		p.stop()
	}
	return v, err
}

// With returns a verifier under another configuration that has the keys, the metrics and the background work of v. It takes
// over when its Start is called; requests that v has begun end under v.
func (v *Verifier) With(c Config) (*Verifier, error) { return v.pool.verifier(c) }

func (p *pool) verifier(c Config) (*Verifier, error) {
	t, err := c.compile()
	if err != nil {
		return nil, err
	}
	all := newAnchors()
	for _, r := range t.rows {
		if r.route, err = newRoute(r, p.o, all); err != nil {
			return nil, fault.Under(err, r.section(), r.key)
		}
	}
	v := &Verifier{table: t, providers: make(map[string]*provider, len(t.exact)), pool: p}
	for key, r := range t.exact {
		if v.providers[key], err = p.provider(key, r); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Start fetches the keys of every exact issuer and keeps them fresh, until ctx ends. It does not wait for any of them. On a
// verifier from [Verifier.With] it also ends the work for issuers that are gone; ctx must then be the one of the first Start.
func (v *Verifier) Start(ctx context.Context) {
	v.pool.start(ctx, v)
}

// Wait ends the background work of v and of every verifier that it has in common with.
func (v *Verifier) Wait() { v.pool.end() }

// Identify verifies a token, maps its claims and asks the policy. Its errors are [fault.Error] values; the decision is never nil, and
// one that comes with an error explains it and names nobody.
func (v *Verifier) Identify(ctx context.Context, raw string) (*Decision, error) {
	return v.IdentifyFrom(ctx, netip.Addr{}, raw)
}

// IdentifyFrom is Identify for a request from an address: fetches for providers that have proved nothing are shared out
// by it. The zero address is one that is not known; no share is kept for it.
func (v *Verifier) IdentifyFrom(ctx context.Context, source netip.Addr, raw string) (*Decision, error) {
	d := new(Decision)
	err := v.identify(ctx, source, raw, d)
	return d, v.count(d, err)
}

func (v *Verifier) identify(ctx context.Context, source netip.Addr, raw string, d *Decision) error {
	t, err := parseToken(raw)
	if err != nil {
		return err
	}
	iss, err := t.claims.text("iss")
	if err != nil {
		return err
	}
	r := v.table.find(iss)
	if r == nil {
		return fault.New(fault.IssuerNotTrusted, nil, "issuer", iss)
	}
	d.Entry = r.key
	if err := r.check(t, v.pool.o.Now()); err != nil {
		return err
	}
	if d.ProviderKey, err = v.verify(ctx, source, r, t); err != nil {
		return err
	}
	return r.decide(t.claims, d)
}

// providerFor returns where the keys of an issuer come from.
func (v *Verifier) providerFor(iss string, r *row) (*provider, error) {
	if !r.wildcard {
		return v.providers[iss], nil
	}
	p, err := v.pool.tenantFor(iss, r)
	if err != nil {
		return nil, fault.New(fault.ProviderUnavailable, err, "issuer", iss)
	}
	return p, nil
}

// verify verifies the signature with the issuer's keys, has go-oidc look at the token as well, and returns the thumbprint of the key.
// Audience and times were checked before, with better errors. go-oidc comes second, and not around the signature: an RSA verification needs
// seven KiB of stack, and below it there is so little room that every goroutine that serves a connection would need 32 KiB in place of 16.
func (v *Verifier) verify(ctx context.Context, source netip.Addr, r *row, t *token) (key string, err error) {
	iss, err := t.claims.text("iss")
	if err != nil {
		return "", err
	}
	p, err := v.providerFor(iss, r)
	if err != nil {
		return "", err
	}
	keys, ring, err := p.key(ctx, source, t.alg, t.kid)
	if err != nil {
		return "", err
	}
	payload, key, err := t.verifyWith(keys)
	// a provider may have replaced the key and kept its id
	if err != nil && fault.From(err).Reason == fault.SignatureInvalid {
		if newer := p.renew(ctx, source, ring); newer != nil {
			if keys, err = newer.find(iss, t.alg, t.kid); err == nil {
				payload, key, err = t.verifyWith(keys)
			}
		}
	}
	if err != nil {
		return "", err
	}
	if !bytes.Equal(payload, t.payload) {
		return "", fault.New(fault.SignatureInvalid, errors.New("the verified payload is not the parsed one"))
	}
	return key, v.second(ctx, iss, verified{t.raw, payload})
}

// second is go-oidc's look at a token. What it needs of the stack is not its caller's.
//
//go:noinline
func (v *Verifier) second(ctx context.Context, iss string, one verified) error {
	verifier := gooidc.NewVerifier(iss, one, &gooidc.Config{
		SkipClientIDCheck: true, SupportedSigningAlgs: algorithms, SkipExpiryCheck: true, Now: v.pool.o.Now,
	})
	if _, err := verifier.Verify(ctx, one.raw); err != nil {
		return fault.New(fault.TokenMalformed, err)
	}
	return nil
}

// IssuerInfo is what clients may know of a row.
type IssuerInfo struct {
	URL                                                              string // or the pattern
	Wildcard                                                         bool
	Audience, ChallengeClaim, SPIFFETrustDomain, Type, SubjectDomain string
	SkipEmailVerification                                            bool
}

// Issuers lists the rows: exact issuers sorted, then patterns sorted.
func (v *Verifier) Issuers() []IssuerInfo {
	out := make([]IssuerInfo, 0, len(v.table.rows))
	for _, r := range v.table.rows {
		out = append(out, r.info())
	}
	return out
}

func (r *row) info() IssuerInfo {
	c := r.config
	return IssuerInfo{
		URL: r.key, Wildcard: r.wildcard, Audience: r.audiences[0], ChallengeClaim: r.challenge(), SPIFFETrustDomain: c.SPIFFETrustDomain,
		Type: c.Type, SubjectDomain: c.SubjectDomain, SkipEmailVerification: c.SkipEmailVerification,
	}
}

// challenge is the claim that a proof of possession is verified over, whatever the file says: clients are told the truth.
func (r *row) challenge() string {
	if r.config.EmailClaim != "" {
		return r.config.EmailClaim
	}
	return types[r.config.Type].challenge
}

// Status is whether an exact issuer's keys can be had.
type Status struct {
	Issuer  string
	OK      bool   // the last fetch succeeded, or there was none and the keys are at hand
	Cause   string // why not OK
	Warning string // what tokens are verified with meanwhile
	Since   time.Time
	Fetched time.Time // of the keys at hand; zero: none
}

// Pools is the state of the fetches, by class of provider.
func (v *Verifier) Pools() []PoolStatus { return v.pool.slots.status() }

// Status lists the exact issuers, sorted.
func (v *Verifier) Status() []Status {
	var out []Status
	for _, key := range slices.Sorted(maps.Keys(v.providers)) {
		out = append(out, v.providers[key].status())
	}
	return out
}

// metrics of a line of verifiers. The labels issuer and rule are keys and names of the configuration, or empty; reason is
// from the closed table.
type metrics struct {
	tokens  *prometheus.CounterVec
	fetches *prometheus.CounterVec
	rules   *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_oidc_tokens_total", Help: "Tokens by entry of the configuration and reason of refusal; empty is accepted.",
		}, []string{"issuer", "reason"}),
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_oidc_fetches_total", Help: "Fetches of keys, by entry of the configuration and result.",
		}, []string{"issuer", "result"}),
		rules: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_oidc_policy_total", Help: "Decisions of policies, by the rule that decided: allowed, refused, or would_refuse for a rule in shadow mode.",
		}, []string{"issuer", "rule", "verdict"}),
	}
}

// Collectors returns the metrics of the verifier and of those that it has in common with.
func (v *Verifier) Collectors() []prometheus.Collector {
	m := v.pool.metrics
	return []prometheus.Collector{m.tokens, m.fetches, m.rules, v.pool.slots, keyAges{v.pool}}
}

// keyAges tells when the keys of exact issuers were fetched: an alarm on their age comes before they cease to count.
type keyAges struct{ pool *pool }

var fetchedDesc = prometheus.NewDesc("mayfly_oidc_keys_fetched_timestamp_seconds",
	"When the keys that tokens of an entry are verified with were fetched, in seconds since 1970.",
	[]string{"issuer"}, nil)

// Describe implements [prometheus.Collector].
func (keyAges) Describe(out chan<- *prometheus.Desc) { out <- fetchedDesc }

// Collect implements [prometheus.Collector].
func (k keyAges) Collect(out chan<- prometheus.Metric) {
	var all []*provider
	k.pool.mu.Lock()
	for _, e := range k.pool.exact {
		if e.cancel != nil { // of the configuration in force
			all = append(all, e.provider)
		}
	}
	k.pool.mu.Unlock()
	for _, one := range all {
		if ring := one.ring.Load(); ring != nil {
			out <- prometheus.MustNewConstMetric(fetchedDesc, prometheus.GaugeValue,
				float64(ring.fetched.UnixMilli())/1000, one.entry)
		}
	}
}

// forget drops the series of an entry that is gone.
func (m *metrics) forget(key string) {
	for _, vec := range []*prometheus.CounterVec{m.tokens, m.fetches, m.rules} {
		vec.DeletePartialMatch(prometheus.Labels{"issuer": key})
	}
}

// count notes what became of a token. d has an entry as soon as one applied.
func (v *Verifier) count(d *Decision, err error) error {
	m, reason := v.pool.metrics, ""
	if err != nil {
		reason = string(fault.From(err).Reason)
	}
	m.tokens.WithLabelValues(d.Entry, reason).Inc()
	switch {
	case d.Rule != "" && reason == string(fault.PolicyDenied):
		m.rules.WithLabelValues(d.Entry, d.Rule, "refused").Inc()
	case d.Rule != "":
		m.rules.WithLabelValues(d.Entry, d.Rule, "allowed").Inc()
	}
	if d.Shadow != "" {
		m.rules.WithLabelValues(d.Entry, d.Shadow, "would_refuse").Inc()
	}
	return err
}
