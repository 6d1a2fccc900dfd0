package server

import (
	"context"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/rate"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server/admission"
)

// Rates are the limits on how often certificates are requested. Nil: no limit.
type Rates struct {
	Source   *rate.Config // by [admission.Source]; checked before a request is read
	Issuer   *rate.Config // by entry of the issuer file, unless the entry has a limit of its own
	Identity *rate.Config // by issuer and subject, unless the entry has a limit of its own
}

// RateCounter counts requests under a rate for several servers.
type RateCounter interface {
	// Take counts a request; what says what the rate applies to. If the rate is exceeded, the request does not count,
	// and wait is the time after which it would. An error means that it could not be counted.
	Take(ctx context.Context, r rate.Config, what ...string) (wait time.Duration, err error)
}

// The names of the limits, in metrics and in the metadata of a refusal.
const (
	limitSource   = "source"
	limitIssuer   = "issuer"
	limitIdentity = "identity"
)

// The number of keys that are stored; further ones share limits. Each needs less than 100 bytes.
const (
	maxLimitedSources    = 1 << 16
	maxLimitedByIdentity = 1 << 16
	maxLimitedByIssuer   = 1 << 16
)

// rates counts requests for certificates under the limits of [Rates]. The values of a limit are a part of its keys: a
// reload that does not change them forgets no count.
type rates struct {
	now     func() time.Time
	seed    maphash.Seed
	sources *admission.Limiter[sourceKey]
	// By hash of a verifiedKey. They are apart, so that many identities leave room for the entries.
	identities, issuers *admission.Limiter[uint64]
}

type sourceKey struct {
	service string // empty: the CA
	source  admission.Source
	rate    rate.Config
}

// verifiedKey is what a limit applies to after the verification of the token.
type verifiedKey struct {
	limit, entry, issuer, subject string
	rate                          rate.Config
}

func newRates(now func() time.Time) *rates {
	return &rates{
		now: now, seed: maphash.MakeSeed(), sources: admission.NewLimiter[sourceKey](maxLimitedSources),
		identities: admission.NewLimiter[uint64](maxLimitedByIdentity),
		issuers:    admission.NewLimiter[uint64](maxLimitedByIssuer),
	}
}

// rateError is the cause of a refusal by a limit, for the log.
type rateError struct {
	limit string
	rate  rate.Config
}

func (e *rateError) Error() string {
	return fmt.Sprintf("the limit by %s is %g a second, and %d at once", e.limit, e.rate.Rate, e.rate.Burst)
}

// over returns the refusal of a request and counts it.
func (s *Server) over(by verifiedKey, wait time.Duration) *fault.Error {
	s.metrics.limited.WithLabelValues(by.limit, by.entry).Inc()
	return fault.New(fault.RateLimited, &rateError{by.limit, by.rate}, "limit", by.limit).WithRetryAfter(wait)
}

// limitSource returns RATE_LIMITED if a service, or the CA, is called too often from the source of a request. It counts
// the request, once. Trusted proxies are not limited: the address of a proxy is that of no client.
func (s *Server) limitSource(ctx context.Context, service string) error {
	st, v := s.state.Load(), arrivalIn(ctx)
	if st.core == nil || st.core.Rates.Source == nil || v == nil || v.limited || !v.client.IsValid() ||
		s.proxies.Has(v.client) {
		return nil
	}
	v.limited = true
	r := *st.core.Rates.Source
	wait := s.rates.sources.Take(sourceKey{service, v.source, r}, r, s.rates.now())
	if wait == 0 {
		return nil
	}
	s.admission.AwaitRefusal(ctx)
	return s.over(verifiedKey{limit: limitSource, rate: r}, wait)
}

// limitVerified returns RATE_LIMITED if certificates are requested too often by the identity of a verified token, or
// with tokens of its issuer entry. The identity is checked first: a request that is refused because of its identity
// does not count towards the limit of the entry.
func (s *Server) limitVerified(ctx context.Context, core *Core, d *oidc.Decision) error {
	for _, one := range [...]struct {
		key    verifiedKey
		own, r *rate.Config
	}{
		{
			verifiedKey{limit: limitIdentity, entry: d.Entry, issuer: d.Identity.Issuer, subject: d.Identity.Subject},
			d.IdentityRateLimit, core.Rates.Identity,
		},
		{verifiedKey{limit: limitIssuer, entry: d.Entry}, d.RateLimit, core.Rates.Issuer},
	} {
		r := one.own
		if r == nil {
			r = one.r
		}
		if r == nil {
			continue
		}
		one.key.rate = *r
		if wait := s.takeVerified(ctx, core, one.key); wait > 0 {
			return s.over(one.key, wait)
		}
	}
	return nil
}

// takeVerified counts a request in the shared store, or in this process if there is no store or it does not answer: a
// limit protects the server, and a store that is down is no reason to refuse all requests.
func (s *Server) takeVerified(ctx context.Context, core *Core, k verifiedKey) (wait time.Duration) {
	if core.SharedRates != nil {
		resume := s.admission.Pause()
		wait, err := core.SharedRates.Take(ctx, k.rate, k.limit, k.entry, k.issuer, k.subject)
		resume()
		if err == nil {
			return wait
		}
	}
	limiter := s.rates.identities
	if k.limit == limitIssuer {
		limiter = s.rates.issuers
	}
	return limiter.Take(maphash.Comparable(s.rates.seed, k), k.rate, s.rates.now())
}
