package ctlog

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/mayfly-ca/mayfly/tbs"
)

const (
	maxQueue    = 256              // precertificates that wait for one detached log
	senders     = 2                // concurrent submissions to a detached log
	maxSendWait = 30 * time.Second // longest wait of one submission for the rate and for Retry-After
)

// forward queues p for the detached logs. If a queue is full, or [Set.Watch] is not running, p is dropped.
func (s *Set) forward(p tbs.Precertificate) {
	now := s.now()
	for _, l := range s.logs {
		if !l.Detached || l.unusable(now, p.NotAfter) != nil {
			continue
		}
		select {
		case l.queue <- p:
		default:
			s.metrics.drop(l.Name)
		}
	}
}

// send submits the queue of a detached log until ctx ends.
func (s *Set) send(ctx context.Context, l *logState) {
	for {
		select {
		case <-ctx.Done():
			s.discard(l)
			return
		case p := <-l.queue:
			s.deliver(ctx, l, p)
		}
	}
}

// discard drops the queue: neither a stop nor a reload with other logs waits for a log whose SCTs are not needed.
func (s *Set) discard(l *logState) {
	for n := 0; ; n++ {
		select {
		case <-l.queue:
			s.metrics.drop(l.Name)
			continue
		default:
		}
		if n > 0 {
			s.logger.Warn("queued precertificates were not sent to the log", "log", l.Name, "count", n)
		}
		return
	}
}

// deliver submits p to a detached log, at most as often as a submission would, and not while the log is set aside.
func (s *Set) deliver(ctx context.Context, l *logState, p tbs.Precertificate) {
	r := request{&p, s.now()}
	for try := range maxTries {
		leave, ok := s.awaitPermit(ctx, l)
		if !ok {
			s.metrics.drop(l.Name)
			return
		}
		f := s.tryAlone(ctx, l, r, leave)
		if f == nil || !f.transient() || f.RetryAfter > maxHold {
			return
		}
		if !pause(ctx, retryWait(try+1, f)) {
			return
		}
	}
}

// tryAlone makes one attempt outside a submission. A nil Failure means that the log returned an SCT.
func (s *Set) tryAlone(ctx context.Context, l *logState, r request, p permit) *Failure {
	_, took, err := s.call(ctx, l, r)
	end := attemptEnd{took: took, permit: p}
	if err != nil {
		if end.failure = failureOf(err); ctx.Err() != nil {
			end.failure = &Failure{Result: Abandoned, Err: err}
		}
	}
	s.finish(l, r, end)
	return end.failure
}

// awaitPermit waits until the rate and the Retry-After of the log allow an attempt.
func (s *Set) awaitPermit(ctx context.Context, l *logState) (permit, bool) {
	deadline := time.Now().Add(maxSendWait)
	for {
		wait := l.rateWait()
		if !l.breaker.ready(s.now()) || l.quarantine() != "" || time.Now().Add(wait).After(deadline) {
			return permit{}, false
		}
		if wait = max(wait, l.breaker.wait(s.now(), false)); wait == 0 {
			p := l.breaker.allow(s.now(), false)
			if !p.granted {
				return permit{}, false
			}
			if l.limiter.Allow() {
				return p, true
			}
			l.breaker.abandon(p)
		}
		if !pause(ctx, max(wait, time.Millisecond)) {
			return permit{}, false
		}
	}
}

// retryWait returns how long to wait before the same log is tried again, after so many tries.
func retryWait(tries int, f *Failure) time.Duration {
	step := min(backoff<<min(tries-1, 8), maxBackoff)
	return max(step, min(f.RetryAfter, maxHold)) + rand.N(step) //nolint:gosec // jitter, no secret
}

// pause waits for d, and reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
