package admission

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// refusalLimiter gives refusals a share of the processors. A burst of refusals is given at once; further ones wait for
// their turn, and a request that has waited is admitted if there is room by then. Without the limit, clients that come
// back at once instead of after Retry-After would occupy the processors with refusals. Clients that obey Retry-After,
// three seconds on average, never wait: two processors can refuse six thousand of them again and again.
type refusalLimiter struct {
	rate *rate.Limiter

	mu      sync.Mutex
	waiting int
}

const (
	refusalsPerProcessor = 1000        // a second: about a twentieth of a processor
	refusalBurst         = 5           // seconds: the refusals of so long may be given at once
	maxRefusalWait       = time.Second // no request waits longer to be refused
	maxRefusalsWaiting   = 4096        // beyond them a refusal is given at once: waiting costs memory
)

func newRefusalLimiter(processors int) *refusalLimiter {
	perSecond := refusalsPerProcessor * processors
	return &refusalLimiter{rate: rate.NewLimiter(rate.Limit(perSecond), refusalBurst*perSecond)}
}

// turn returns how long a refusal that is due now has to wait; 0 is not at all. After a wait the caller MUST call done.
func (l *refusalLimiter) turn(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.rate.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait <= 0 {
		return 0
	}
	if wait > maxRefusalWait || l.waiting >= maxRefusalsWaiting {
		r.CancelAt(now)
	}
	if l.waiting >= maxRefusalsWaiting {
		return 0
	}
	l.waiting++
	return min(wait, maxRefusalWait)
}

func (l *refusalLimiter) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting--
}

func (l *refusalLimiter) turns() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting
}

// Precheck returns nil if Acquire would not be refused now. Its error is RATE_LIMITED: at once while refusals are few,
// otherwise when it is the turn of this refusal and there is still no room, or when ctx ends. It is called before a
// request is decoded.
func (c *Controller) Precheck(ctx context.Context) error {
	err := c.Check(ctx)
	if err == nil {
		return nil
	}
	wait := c.refusals.turn(c.now())
	if wait == 0 {
		return err
	}
	defer c.refusals.done()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return c.Check(ctx)
	case <-ctx.Done():
		return err
	}
}
