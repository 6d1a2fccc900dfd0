package admission

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// refusalLimiter limits the share of the processors that refusals use. A burst of refusals is sent at once; further
// refusals wait for their turn, and a request that has waited is admitted if there is room by then. Without the limit,
// clients that return at once instead of after Retry-After would occupy the processors with refusals. Clients that
// respect Retry-After, three seconds on average, never wait: two processors can repeatedly refuse six thousand of them.
type refusalLimiter struct {
	rate *rate.Limiter

	mu      sync.Mutex
	waiting int
}

const (
	refusalsPerProcessor = 1000        // per second: about a twentieth of a processor
	refusalBurst         = 5           // seconds: the burst is the refusals of this time
	maxRefusalWait       = time.Second // longest wait of a refusal
	maxRefusalsWaiting   = 4096        // further refusals are sent at once, because waiting requests use memory
)

func newRefusalLimiter(processors int) *refusalLimiter {
	perSecond := refusalsPerProcessor * processors
	return &refusalLimiter{rate: rate.NewLimiter(rate.Limit(perSecond), refusalBurst*perSecond)}
}

// turn returns how long a refusal has to wait from now; 0 means no wait. After a wait the caller MUST call done.
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

// Precheck returns nil if Acquire would not refuse the request now. Its error is RATE_LIMITED: at once while refusals
// are few; otherwise when it is the turn of this refusal and there is still no room, or when ctx ends. It is called
// before a request is decoded.
func (c *Controller) Precheck(ctx context.Context) error {
	err := c.Check(ctx)
	if err == nil {
		return nil
	}
	if c.AwaitRefusal(ctx) {
		return c.Check(ctx)
	}
	return err
}

// AwaitRefusal waits until it is the turn of a refusal, which is at once while refusals are few, or until ctx ends. It
// reports whether it has waited for a turn.
func (c *Controller) AwaitRefusal(ctx context.Context) bool {
	wait := c.refusals.turn(c.now())
	if wait == 0 {
		return false
	}
	defer c.refusals.done()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
