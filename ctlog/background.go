package ctlog

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/mayfly-ca/mayfly/tbs"
)

const (
	maxQueue    = 256              // precertificates that wait for one detached log
	senders     = 2                // submissions at once to one of them
	maxPatience = 30 * time.Second // of one submission for the log's rate and for what the log asks for
)

// forward hands p to the logs whose SCTs are not embedded. Nobody waits for them: without room, or without [Set.Watch], p is dropped.
func (s *Set) forward(p tbs.Precertificate) {
	now := s.now()
	for _, m := range s.members {
		if !m.Detached || m.refusal(now, p.NotAfter) != nil {
			continue
		}
		select {
		case m.queue <- p:
		default:
			s.metrics.drop(m.Name)
		}
	}
}

// send works through the queue of a detached log until ctx ends.
func (s *Set) send(ctx context.Context, m *member) {
	for {
		select {
		case <-ctx.Done():
			s.discard(m)
			return
		case p := <-m.queue:
			s.deliver(ctx, m, p)
		}
	}
}

// discard gives up what waits: a stop, or a reload with another set of logs, does not wait for logs whose SCTs nobody needs.
func (s *Set) discard(m *member) {
	for n := 0; ; n++ {
		select {
		case <-m.queue:
			s.metrics.drop(m.Name)
			continue
		default:
		}
		if n > 0 {
			s.log.Warn("precertificates were not sent on in the background", "log", m.Name, "count", n)
		}
		return
	}
}

// deliver submits p to a detached log: at most as often as a round would, and not at all while the log is set aside.
func (s *Set) deliver(ctx context.Context, m *member, p tbs.Precertificate) {
	start := s.now()
	for try := range maxTries {
		leave, ok := s.await(ctx, m)
		if !ok {
			s.metrics.drop(m.Name)
			return
		}
		_, took, err := s.ask(ctx, m, question{&p, start})
		v := ending{took: took, pass: leave}
		if err != nil {
			if v.failure = failureOf(err); ctx.Err() != nil {
				v.failure = &Failure{Result: Abandoned, Err: err}
			}
		}
		s.conclude(m, question{&p, start}, v)
		if v.failure == nil || !v.failure.transient() || v.failure.RetryAfter > maxHold {
			return
		}
		if !pause(ctx, retryWait(try+1, v.failure)) {
			return
		}
	}
}

// await waits for a token and for the time that the log asked for.
func (s *Set) await(ctx context.Context, m *member) (pass, bool) {
	deadline := time.Now().Add(maxPatience)
	for {
		now := time.Now()
		wait := max(m.bucket.wait(now), 0)
		if !m.breaker.ready(s.now()) || m.benchedFor() != "" || now.Add(wait).After(deadline) {
			return pass{}, false
		}
		if wait = max(wait, m.breaker.wait(s.now(), false)); wait == 0 && m.bucket.take(now) {
			if leave := m.breaker.allow(s.now(), false); leave.granted {
				return leave, true
			}
			m.bucket.give()
			return pass{}, false
		}
		if !pause(ctx, max(wait, time.Millisecond)) {
			return pass{}, false
		}
	}
}

// retryWait is how long to wait before the same log is asked again, after so many tries.
func retryWait(tries int, f *Failure) time.Duration {
	step := min(backoff<<min(tries-1, 8), maxBackoff)
	return max(step, min(f.RetryAfter, maxHold)) + rand.N(step) //nolint:gosec // jitter, no secret
}

// pause waits, and reports whether ctx goes on.
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
