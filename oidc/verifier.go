// Package oidc turns an ID token into an identity.
//
// [Verifier.Identify] takes the token and returns a [Decision]. The steps are packages, from top to bottom: token
// (parse), issuer (find the entry that applies, check the claims that need no key), provider (verify the signature with
// the keys of the issuer), claims (map the claims to an identity), policy (decide). [Explainer] runs the same steps
// without network access and reports each.
//
// Exactly one entry of the configuration applies to a token. An identity MUST come from claims whose signature was
// verified with keys of the token's own issuer. Errors are [fault.Error] values: a fault of the token is the client's,
// an unavailable provider is not. A token MUST NOT reach a log or an error.
package oidc

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc/issuer"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// Types of other packages that the callers of this package need.
type (
	// Config is an issuer file.
	Config = issuer.Config
	// IssuerConfig is one entry of an issuer file.
	IssuerConfig = issuer.EntryConfig
	// Options for [New].
	Options = provider.Options
	// Decision is the result for a token.
	Decision = issuer.Decision
	// TokenUse is one use of a token whose number of uses is limited.
	TokenUse = issuer.TokenUse
	// Status tells whether the keys of an exact issuer are available.
	Status = provider.Status
	// ClassStatus is the state of the fetches of one class of providers.
	ClassStatus = provider.ClassStatus
)

// Verifier identifies the bearers of tokens under one configuration. It is safe for concurrent use.
type Verifier struct {
	table     *issuer.Table
	providers *provider.Set
	shared    *shared
}

// shared is the state that the verifiers of successive configurations share.
type shared struct {
	now        func() time.Time
	algorithms []string // used by go-oidc
	pool       *provider.Pool
	metrics    *metrics

	mu      sync.Mutex
	current *issuer.Table // the context of the verifier that was started last
}

// New returns a verifier. It fetches nothing; see [Verifier.Start]. Its errors are [fault.Setting] values.
func New(c Config, o Options) (*Verifier, error) {
	s := newShared(o)
	v, err := s.verifier(c)
	if err != nil {
		s.pool.Close()
	}
	return v, err
}

func newShared(o Options) *shared {
	s := &shared{now: o.Now, algorithms: token.Algorithms(), pool: provider.NewPool(o), metrics: newMetrics()}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

// With returns a verifier for another configuration that shares the keys, the metrics and the background work of v. Its
// Start makes the background work follow the new configuration; requests that began with v are finished by v.
func (v *Verifier) With(c Config) (*Verifier, error) { return v.shared.verifier(c) }

func (s *shared) verifier(c Config) (*Verifier, error) {
	table, err := c.Compile()
	if err != nil {
		return nil, err
	}
	return s.verifierOf(table)
}

func (s *shared) verifierOf(table *issuer.Table) (*Verifier, error) {
	var entries []provider.Entry
	for _, e := range table.Entries() {
		entries = append(entries, e.ProviderEntry())
	}
	providers, err := s.pool.Set(entries)
	if err != nil {
		return nil, err
	}
	return &Verifier{table: table, providers: providers, shared: s}, nil
}

// Start fetches the keys of every exact issuer and keeps them fresh, until ctx ends. It does not wait for any of them.
// On a verifier from [Verifier.With] it also ends the work for removed issuers; ctx must then be that of the first
// Start.
func (v *Verifier) Start(ctx context.Context) {
	v.providers.Start(ctx)
	v.shared.mu.Lock()
	defer v.shared.mu.Unlock()
	if v.shared.current != nil {
		for _, e := range v.shared.current.Entries() {
			if !v.table.Has(e.Key) {
				v.shared.metrics.forget(e.Key)
			}
		}
	}
	v.shared.current = v.table
}

// Wait ends the background work of v and of all verifiers that share it, and waits for it.
func (v *Verifier) Wait() { v.shared.pool.Wait() }

// Identify verifies a token, maps its claims and evaluates the policy. Its errors are [fault.Error] values. The
// decision is never nil. A decision that is returned with an error explains the error, and its identity MUST NOT be
// used.
func (v *Verifier) Identify(ctx context.Context, raw string) (*Decision, error) {
	return v.IdentifyFrom(ctx, netip.Addr{}, raw)
}

// IdentifyFrom is Identify for a request from the address client. Fetches for providers that have not served keys yet
// are limited by that address. There is no such limit for the zero address.
func (v *Verifier) IdentifyFrom(ctx context.Context, client netip.Addr, raw string) (*Decision, error) {
	d := new(Decision)
	err := v.identify(ctx, client, raw, d)
	v.shared.metrics.count(d, err)
	return d, err
}

func (v *Verifier) identify(ctx context.Context, client netip.Addr, raw string, d *Decision) error {
	t, err := token.Parse(raw)
	if err != nil {
		return err
	}
	iss, err := t.Claims.Text("iss")
	if err != nil {
		return err
	}
	entry := v.table.Find(iss)
	if entry == nil {
		return fault.New(fault.IssuerNotTrusted, nil, "issuer", iss)
	}
	d.Entry = entry.Key
	if err := entry.Check(t, v.shared.now()); err != nil {
		return err
	}
	if d.ProviderKey, err = v.providers.Verify(ctx, client, entry.Key, t); err != nil {
		return err
	}
	if err := v.crossCheck(ctx, iss, t); err != nil {
		return err
	}
	d.RateLimit, d.IdentityRateLimit = entry.Config.RateLimit, entry.Config.IdentityRateLimit
	if err := entry.Decide(t.Claims, d); err != nil {
		return err
	}
	d.Use, err = entry.Use(t)
	return err
}

// crossCheck lets go-oidc check a token whose signature was verified. Audience and times have been checked before, with
// more specific errors. go-oidc does not verify the signature: an RSA verification needs seven KiB of stack, and on top
// of go-oidc's frames every goroutine of a connection would need a stack of 32 KiB instead of 16. For the same reason
// its frames must not be part of the caller's.
//
//go:noinline
func (v *Verifier) crossCheck(ctx context.Context, iss string, t *token.Token) error {
	verifier := gooidc.NewVerifier(iss, verifiedToken{t}, &gooidc.Config{
		SkipClientIDCheck: true, SupportedSigningAlgs: v.shared.algorithms, SkipExpiryCheck: true, Now: v.shared.now,
	})
	if _, err := verifier.Verify(ctx, t.Raw); err != nil {
		return fault.New(fault.TokenMalformed, err)
	}
	return nil
}

// IssuerInfo is the part of an entry that clients may know.
type IssuerInfo struct {
	URL                                                              string // or the pattern
	Wildcard                                                         bool
	Audience, ChallengeClaim, SPIFFETrustDomain, Type, SubjectDomain string
	SkipEmailVerification                                            bool
	CountsUses                                                       bool // of tokens
}

// Issuers lists the entries: exact issuers sorted, then patterns sorted.
func (v *Verifier) Issuers() []IssuerInfo {
	entries := v.table.Entries()
	out := make([]IssuerInfo, 0, len(entries))
	for _, e := range entries {
		out = append(out, IssuerInfo{
			URL: e.Key, Wildcard: e.Pattern, Audience: e.Audiences[0], ChallengeClaim: e.Mapper.ChallengeClaim(),
			SPIFFETrustDomain: e.Config.SPIFFETrustDomain, Type: e.Config.Type, SubjectDomain: e.Config.SubjectDomain,
			SkipEmailVerification: e.Config.SkipEmailVerification, CountsUses: e.Config.CountsUses(),
		})
	}
	return out
}

// Status returns the status of the exact issuers, sorted.
func (v *Verifier) Status() []Status { return v.providers.Status() }

// Probe fetches the keys of every exact issuer once and returns the results, sorted.
func (v *Verifier) Probe(ctx context.Context) []Status { return v.providers.Probe(ctx) }

// Fetches returns the state of the fetches, by class of provider.
func (v *Verifier) Fetches() []ClassStatus { return v.shared.pool.Fetches() }

// Collectors returns the metrics of the verifier and of all verifiers that share its background work.
func (v *Verifier) Collectors() []prometheus.Collector {
	m := v.shared.metrics
	return append([]prometheus.Collector{m.tokens, m.rules}, v.shared.pool.Collectors()...)
}

// verifiedToken is the key set for go-oidc: it accepts only the one token whose signature was verified.
type verifiedToken struct{ *token.Token }

// VerifySignature implements the key set of go-oidc.
func (v verifiedToken) VerifySignature(_ context.Context, raw string) ([]byte, error) {
	if raw != v.Raw {
		return nil, errors.New("not the verified token")
	}
	return v.Payload, nil
}
