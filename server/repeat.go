package server

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc"
)

// repeats bounds how often one identity may be refused for what it sends. Whoever has one valid token could else have
// any number of tokens verified, refused, journalled and logged. Certificates do not count, and neither does what is
// the server's fault.
type repeats struct {
	now  func() time.Time
	seed maphash.Seed

	many  atomic.Bool // there is an identity that was refused lately
	mu    sync.Mutex
	by    map[uint64]*allowance // by identity
	swept time.Time
}

// allowance is how many refusals an identity has left.
type allowance struct {
	left float64
	at   time.Time // when it was so
}

const (
	refusalsAtOnce = 2000    // of one identity
	refusalsRate   = 20      // a second, from then on
	mostRepeaters  = 1 << 14 // identities; when more are refused at once, further ones are not bounded
)

// errRepeats is the cause of such a refusal, for the log.
var errRepeats = errors.New("this identity was refused too often")

func newRepeats(now func() time.Time) *repeats {
	return &repeats{now: now, seed: maphash.MakeSeed(), by: map[uint64]*allowance{}}
}

// whose is the identity of a request whose token verified. Where the claims give none, it is what is known of the
// token.
func (p *repeats) whose(d *oidc.Decision) uint64 {
	id := &d.Identity
	if id.Issuer == "" && id.Subject == "" {
		return maphash.Comparable(p.seed, [2]string{d.Entry, d.ProviderKey})
	}
	return maphash.Comparable(p.seed, [2]string{id.Issuer, id.Subject})
}

// admit errs with RATE_LIMITED when the identity was refused too often.
func (p *repeats) admit(d *oidc.Decision) error {
	if d.ProviderKey == "" || !p.many.Load() {
		return nil
	}
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.by[p.whose(d)]
	if a == nil {
		return nil
	}
	if a.refill(now); a.left >= 1 {
		return nil
	}
	return fault.New(fault.RateLimited, errRepeats).WithRetryAfter(max(time.Second,
		time.Duration((1-a.left)/refusalsRate*float64(time.Second))))
}

func (a *allowance) refill(now time.Time) {
	if d := now.Sub(a.at); d > 0 {
		a.left, a.at = min(refusalsAtOnce, a.left+refusalsRate*d.Seconds()), now
	}
}

// refused counts a refusal of what an identity sent.
func (p *repeats) refused(d *oidc.Decision, f *fault.Error) {
	if d == nil || d.ProviderKey == "" || f.Kind != fault.Invalid && f.Kind != fault.Denied {
		return
	}
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.whose(d)
	a := p.by[who]
	if a == nil {
		// each of many new ones would else look at all
		if len(p.by) >= mostRepeaters && now.Sub(p.swept) >= time.Second {
			p.swept = now
			p.forget(now)
		}
		if len(p.by) >= mostRepeaters {
			return
		}
		a = &allowance{refusalsAtOnce, now}
		p.by[who] = a
		p.many.Store(true)
	}
	a.refill(now)
	a.left = max(0, a.left-1)
}

// forget drops the identities that have their whole allowance again. It needs mu.
func (p *repeats) forget(now time.Time) {
	for who, a := range p.by {
		if a.refill(now); a.left >= refusalsAtOnce {
			delete(p.by, who)
		}
	}
}

// repeated counts a request that was refused because its identity was refused too often: the metrics have each, and the
// log has one line for many.
func (s *Server) repeated(ctx context.Context, f finished) {
	s.metrics.requests.WithLabelValues(f.method, f.record.transport, codeOf(f.failure.Kind).String(),
		string(f.failure.Reason)).Inc()
	s.metrics.seconds.WithLabelValues(f.method).Observe(f.took.Seconds())
	if n, due := s.limited.due(time.Now()); due {
		id := &f.record.account.facts
		s.log.LogAttrs(context.WithoutCancel(ctx), slog.LevelWarn, "requests refused", slog.Int64("count", n),
			slog.String("reason", string(f.failure.Reason)),
			slog.String("cause", errRepeats.Error()), slog.String("issuer", shorten(id.Issuer)),
			slog.String("subject", shorten(id.Subject)),
			slog.String("request_id", f.record.id))
	}
}

// due counts a refusal, and returns how many there were since the last line about them if the next one is due.
func (r *refusals) due(now time.Time) (count int64, due bool) {
	r.count.Add(1)
	last := r.since.Load()
	if now.UnixNano()-last < int64(refuseEvery) || !r.since.CompareAndSwap(last, now.UnixNano()) {
		return 0, false
	}
	return r.count.Swap(0), true
}
