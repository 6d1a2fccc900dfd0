package server

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/rate"
	"github.com/mayfly-ca/mayfly/internal/span"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server/admission"
)

// identityLimit bounds how often one identity may be refused because of what it sends. Without the limit, the holder of
// one valid token could have any number of requests verified, refused, journalled and logged. Certificates that are
// issued do not count, and neither do failures of the server or its dependencies.
type identityLimit struct {
	now     func() time.Time
	seed    maphash.Seed
	limiter *admission.Limiter[uint64] // by identity
}

const (
	identityRefusalBurst = 2000    // refusals of one identity in a burst
	identityRefusalRate  = 20      // per second, after the burst
	maxLimitedIdentities = 1 << 14 // identities that are stored; further ones share limits
)

// identityRefusals is how often one identity may be refused.
var identityRefusals = rate.Config{Rate: identityRefusalRate, Burst: identityRefusalBurst}

// errIdentityLimit is the cause of a refusal by the limit, for the log.
var errIdentityLimit = errors.New("this identity was refused too often")

func newIdentityLimit(now func() time.Time) *identityLimit {
	return &identityLimit{
		now: now, seed: maphash.MakeSeed(),
		limiter: admission.NewLimiter[uint64](maxLimitedIdentities),
	}
}

// key returns a hash of the identity of a request whose token was verified. If the claims map to no identity, it is a
// hash of the issuer entry and the key of the provider.
func (l *identityLimit) key(d *oidc.Decision) uint64 {
	id := &d.Identity
	if id.Issuer == "" && id.Subject == "" {
		return maphash.Comparable(l.seed, [2]string{d.Entry, d.ProviderKey})
	}
	return maphash.Comparable(l.seed, [2]string{id.Issuer, id.Subject})
}

// check returns RATE_LIMITED if the identity of r was refused too often.
func (l *identityLimit) check(d *oidc.Decision) error {
	if d.ProviderKey == "" || !l.limiter.Used() {
		return nil
	}
	if retry, over := l.limiter.Over(l.key(d), identityRefusals, l.now()); over {
		return fault.New(fault.RateLimited, errIdentityLimit).WithRetryAfter(max(time.Second, retry))
	}
	return nil
}

// count counts a refusal that the identity caused by what it sent.
func (l *identityLimit) count(d *oidc.Decision, f *fault.Error) {
	if d != nil && d.ProviderKey != "" && (f.Kind == fault.Invalid || f.Kind == fault.Denied) {
		l.limiter.Take(l.key(d), identityRefusals, l.now())
	}
}

// limited reports whether a request was refused by a limit on its identity or its issuer entry.
func limited(f *fault.Error) bool {
	var byRate *rateError
	return errors.Is(f, errIdentityLimit) || errors.As(f, &byRate)
}

// finishLimited counts a request that was refused by a limit on its identity or its issuer entry: each in the metrics,
// and many with one line in the log.
func (s *Server) finishLimited(ctx context.Context, f finished) {
	s.metrics.requests.WithLabelValues(f.method, f.record.transport, codeOf(f.failure.Kind).String(),
		string(f.failure.Reason)).Inc()
	span.In(ctx).Observe(s.metrics.seconds.WithLabelValues(f.method), f.took.Seconds())
	if n, due := s.limited.due(time.Now()); due {
		id := &f.record.entry.facts
		s.log.LogAttrs(context.WithoutCancel(ctx), slog.LevelWarn, "requests refused", slog.Int64("count", n),
			slog.String("reason", string(f.failure.Reason)),
			slog.String("cause", f.failure.Err.Error()), slog.String("issuer", shorten(id.Issuer)),
			slog.String("subject", shorten(id.Subject)),
			slog.String("request_id", f.record.id))
	}
}
