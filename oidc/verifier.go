package oidc

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
)

// Options for [New].
type Options struct {
	Now       func() time.Time // nil: time.Now
	Logger    *slog.Logger     // nil: none
	StateDir  string           // where the last good keys are kept; "": nowhere
	UserAgent string
}

// Verifier identifies the bearers of tokens. It is safe for concurrent use.
type Verifier struct {
	o        Options
	exact    map[string]*row
	patterns []*row // sorted
	metrics  *metrics
	wait     sync.WaitGroup
	root     context.Context //nolint:containedctx // the life of background fetches
	stop     context.CancelFunc

	mu     sync.Mutex
	tenant map[string]*list.Element // providers under patterns, by issuer
	recent *list.List               // the same, most recent first (E8)
	busy   chan struct{}            // fetches for issuers under patterns
}

// row is one entry of the configuration.
type row struct {
	key      string // URL or pattern
	config   IssuerConfig
	wildcard bool
	lifetime time.Duration
	mapper   mapper
	provider *provider // nil under a pattern
}

const (
	maxTenants = 1024
	maxBusy    = 16
)

// New returns a verifier. It asks no provider; see [Verifier.Start].
func New(c Config, o Options) (*Verifier, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	v := &Verifier{
		o: o, exact: map[string]*row{}, metrics: newMetrics(),
		tenant: map[string]*list.Element{}, recent: list.New(), busy: make(chan struct{}, maxBusy),
	}
	v.root, v.stop = context.WithCancel(context.Background())
	for key, ic := range c.Issuers {
		r, err := newRow(key, ic, c)
		if err != nil {
			return nil, err
		}
		r.provider = v.newProvider(key, r)
		v.exact[key] = r
	}
	for _, key := range slices.Sorted(maps.Keys(c.MetaIssuers)) {
		r, err := newRow(key, c.MetaIssuers[key], c)
		if err != nil {
			return nil, err
		}
		r.wildcard = true
		v.patterns = append(v.patterns, r)
	}
	return v, nil
}

func newRow(key string, ic IssuerConfig, all Config) (*row, error) {
	r := &row{key: key, config: ic, lifetime: ic.MaxLifetime}
	if r.lifetime == 0 {
		r.lifetime = defaultLifetime
	}
	var err error
	r.mapper, err = types[ic.Type].newMapper(ic, all)
	return r, err
}

func (v *Verifier) newProvider(issuer string, r *row) *provider {
	p := &provider{
		fetcher: newFetcher(issuer, r, v.o.UserAgent), now: v.o.Now, metrics: v.metrics, label: r.key,
		misses: rate.NewLimiter(rate.Every(missEvery), missBurst), wait: &v.wait, root: v.root,
		save: func(*keyring) {},
	}
	if !r.wildcard && v.o.StateDir != "" {
		s := stateFile{dir: v.o.StateDir, issuer: issuer, log: v.o.Logger}
		if ring := s.load(); ring != nil {
			p.ring.Store(ring)
		}
		p.save = s.save
	}
	return p
}

// Start fetches the keys of every exact issuer and keeps them fresh, until ctx ends. It does not wait for any of them.
func (v *Verifier) Start(ctx context.Context) {
	for _, r := range v.exact {
		v.wait.Go(func() { v.keepFresh(ctx, r.provider) })
	}
	v.wait.Go(func() {
		<-ctx.Done()
		v.stop()
	})
}

// keepFresh looks each second whether a provider needs a fetch; the back-off after failures is the provider's own.
func (v *Verifier) keepFresh(ctx context.Context, p *provider) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	defer p.fetcher.close()
	told := ""
	for {
		if ring := p.ring.Load(); ring == nil || v.o.Now().Sub(ring.fetched) > freshFor-10*time.Second || p.status().Cause != "" {
			_ = p.refresh(ctx) // its error is in the status
		}
		if s := p.status(); s.Cause != told && ctx.Err() == nil {
			if told = s.Cause; told != "" {
				v.o.Logger.Warn("identity provider does not answer", "issuer", s.Issuer, "cause", told)
			} else {
				v.o.Logger.Info("identity provider answers again", "issuer", s.Issuer)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Wait returns when the background work has ended, after the context of [Verifier.Start] has.
func (v *Verifier) Wait() {
	v.stop()
	v.wait.Wait()
}

// Identify verifies a token and maps its claims.
func (v *Verifier) Identify(ctx context.Context, raw string) (id identity.Identity, err error) {
	t, err := parseToken(raw)
	if err != nil {
		return id, v.count("", err)
	}
	iss, err := t.claims.text("iss")
	if err != nil {
		return id, v.count("", err)
	}
	r := v.rowFor(iss)
	if r == nil {
		return id, v.count("", fault.New(fault.IssuerNotTrusted, nil, "issuer", iss))
	}
	if err := r.check(t, v.o.Now()); err != nil {
		return id, v.count(r.key, err)
	}
	p := r.provider
	if p == nil {
		p = v.tenantFor(iss, r)
	}
	if err := v.verify(ctx, p, r, t); err != nil {
		return id, v.count(r.key, err)
	}
	if id, err = r.mapper(t.claims); err != nil {
		return identity.Identity{}, v.count(r.key, err)
	}
	if err := id.Check(); err != nil {
		var bad *identity.ValueError
		if errors.As(err, &bad) {
			err = fault.New(fault.ClaimInvalid, err, "claim", bad.Field)
		}
		return identity.Identity{}, v.count(r.key, err)
	}
	return id, v.count(r.key, nil)
}

// rowFor returns the one row for an issuer: an exact one before a pattern; patterns do not overlap (D6, D7).
func (v *Verifier) rowFor(iss string) *row {
	if r, ok := v.exact[iss]; ok {
		return r
	}
	if len(iss) > 1024 {
		return nil
	}
	for _, r := range v.patterns {
		if match(r.key, iss) {
			return r
		}
	}
	return nil
}

// verify has go-oidc verify the signature with the issuer's keys. Times were checked before, with better errors.
func (v *Verifier) verify(ctx context.Context, p *provider, r *row, t *token) error {
	if !slices.Contains(algorithms, t.alg) {
		return fault.New(fault.AlgorithmNotAllowed, nil, "alg", t.alg)
	}
	set := &oneToken{provider: p, token: t}
	if r.wildcard && p.ring.Load() == nil {
		select { // one tenant's discovery must not starve the others'
		case v.busy <- struct{}{}:
			defer func() { <-v.busy }()
		default:
			return fault.New(fault.ProviderUnavailable, errors.New("too many issuers are being discovered"), "issuer", p.fetcher.issuer)
		}
	}
	verifier := gooidc.NewVerifier(p.fetcher.issuer, set, &gooidc.Config{
		ClientID: r.config.ClientID, SupportedSigningAlgs: algorithms, SkipExpiryCheck: true, Now: v.o.Now,
	})
	_, err := verifier.Verify(ctx, t.raw)
	if set.err != nil {
		return set.err
	}
	if err != nil {
		return fault.New(fault.TokenMalformed, err)
	}
	if !bytes.Equal(set.payload, t.payload) {
		return fault.New(fault.SignatureInvalid, errors.New("the verified payload is not the parsed one"))
	}
	return nil
}

// tenantFor returns the provider of an issuer under a pattern; the least recently used one makes room.
func (v *Verifier) tenantFor(iss string, r *row) *provider {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e, ok := v.tenant[iss]; ok {
		v.recent.MoveToFront(e)
		return e.Value.(*provider) //nolint:forcetypeassert // the list has nothing else
	}
	if v.recent.Len() >= maxTenants {
		last := v.recent.Back()
		old := v.recent.Remove(last).(*provider) //nolint:forcetypeassert // as above
		delete(v.tenant, old.fetcher.issuer)
		old.fetcher.close()
	}
	p := v.newProvider(iss, r)
	v.tenant[iss] = v.recent.PushFront(p)
	return p
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
	var out []IssuerInfo
	for _, key := range slices.Sorted(maps.Keys(v.exact)) {
		out = append(out, v.exact[key].info())
	}
	for _, r := range v.patterns {
		out = append(out, r.info())
	}
	return out
}

func (r *row) info() IssuerInfo {
	c := r.config
	i := IssuerInfo{
		URL: r.key, Wildcard: r.wildcard, Audience: c.ClientID, ChallengeClaim: c.ChallengeClaim, SPIFFETrustDomain: c.SPIFFETrustDomain,
		Type: c.Type, SubjectDomain: c.SubjectDomain, SkipEmailVerification: c.SkipEmailVerification,
	}
	if i.ChallengeClaim == "" {
		i.ChallengeClaim = types[c.Type].challenge
	}
	return i
}

// Status is whether an exact issuer's keys can be had.
type Status struct {
	Issuer string
	OK     bool
	Cause  string
	Since  time.Time
}

// Status lists the exact issuers, sorted.
func (v *Verifier) Status() []Status {
	var out []Status
	for _, key := range slices.Sorted(maps.Keys(v.exact)) {
		out = append(out, v.exact[key].provider.status())
	}
	return out
}

// metrics of one verifier. The label issuer is a key of the configuration, or empty; reason is from the closed table.
type metrics struct {
	tokens  *prometheus.CounterVec
	fetches *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_oidc_tokens_total", Help: "Tokens by entry of the configuration and reason of refusal; empty is accepted.",
		}, []string{"issuer", "reason"}),
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_oidc_fetches_total", Help: "Fetches of keys, by entry of the configuration and result.",
		}, []string{"issuer", "result"}),
	}
}

// Collectors returns the metrics of the verifier.
func (v *Verifier) Collectors() []prometheus.Collector {
	return []prometheus.Collector{v.metrics.tokens, v.metrics.fetches}
}

func (v *Verifier) count(key string, err error) error {
	reason := ""
	if err != nil {
		reason = string(fault.From(err).Reason)
	}
	v.metrics.tokens.WithLabelValues(key, reason).Inc()
	return err
}
