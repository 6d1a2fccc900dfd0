package ctlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tbs"
)

const (
	maxTries = 3                      // attempts at one log for one precertificate
	backoff  = 100 * time.Millisecond // before the second attempt, at least; doubled for the third
	maxWait  = 5 * time.Second        // a log that asks for more is not asked again for this precertificate
)

// errEnough ends attempts whose SCT is no longer needed, errHopeless those whose SCT would not suffice.
var (
	errEnough   = errors.New("other logs were faster")
	errHopeless = errors.New("too few logs are left")
)

// round is one Submit. One goroutine owns it; attempts only send to results.
type round struct {
	set    *Set
	caller context.Context
	ctx    context.Context // caller's, within the budget
	p      tbs.Precertificate
	start  time.Time
	ends   time.Time // of the budget

	entrants []*entrant
	running  int
	hedges   int // attempts beyond those that the policy needs, because others were slow
	scts     [][]byte
	results  chan outcome
}

// entrant is a member as one round sees it.
type entrant struct {
	*member
	tries   int
	running bool
	won     bool
	done    bool      // not to be asked (again)
	readyAt time.Time // real time
	last    error
}

type outcome struct {
	from *entrant
	sct  []byte
	err  *Failure
}

// Submit returns as many verified SCTs in TLS encoding as the policy wants, each of another log. It errs with a [fault.Error]:
// CANCELED or DEADLINE_EXCEEDED (or the context's own cause, if that is a fault) if the caller left, else LOG_UNAVAILABLE with
// RetryAfter, as soon as nobody is left to ask.
func (s *Set) Submit(ctx context.Context, p tbs.Precertificate) ([][]byte, error) {
	bounded, cancel := context.WithTimeout(ctx, s.budget)
	defer cancel()
	inner, end := context.WithCancelCause(bounded)
	defer end(errHopeless)
	r := &round{
		set: s, caller: ctx, ctx: inner, p: p, start: s.now(), ends: time.Now().Add(s.budget),
		results: make(chan outcome, len(s.members)),
	}
	for _, m := range s.members {
		e := &entrant{member: m}
		if !m.covers(r.start, p.NotAfter) {
			e.done, e.last = true, errors.New("its validity does not cover this certificate from now to its end")
		}
		r.entrants = append(r.entrants, e)
	}
	scts, err := r.run()
	if err == nil {
		end(errEnough)
	}
	return scts, err
}

func (r *round) run() ([][]byte, error) {
	hedge := time.NewTicker(r.set.stagger)
	defer hedge.Stop()
	for {
		if r.ctx.Err() != nil || !r.feasible() {
			return nil, r.unavailable()
		}
		r.fill()
		retry := r.untilRetry()
		if r.running == 0 && retry == nil {
			return nil, r.unavailable()
		}
		select {
		case o := <-r.results:
			r.take(o)
			if len(r.scts) >= r.set.need {
				return r.scts, nil
			}
			hedge.Reset(r.set.stagger)
		case <-hedge.C:
			if e := r.next(true); e != nil {
				r.hedges++
				r.launch(e)
			}
		case <-retry:
		case <-r.ctx.Done():
		}
	}
}

// feasible reports whether enough SCTs may still come together. If not, nobody is asked: an SCT that helps nobody is an entry
// in a log for a certificate that never was.
func (r *round) feasible() bool {
	n, now := len(r.scts), r.set.now()
	for _, e := range r.entrants {
		if e.running || !e.done && e.breaker.ready(now) {
			n++
		}
	}
	return n >= r.set.need
}

// fill starts attempts until those under way would do.
func (r *round) fill() {
	for r.running+len(r.scts) < r.set.need+r.hedges {
		e := r.next(false)
		if e == nil {
			return
		}
		r.launch(e)
	}
}

// next returns whom to ask now, or nil: in the order of the members, but first those whose operator has no part yet. The
// breaker has then granted the attempt.
func (r *round) next(fresh bool) *entrant {
	now := time.Now()
	for _, newOperator := range []bool{true, false} {
		for _, e := range r.entrants {
			if e.running || e.done || e.readyAt.After(now) || fresh && e.tries > 0 || newOperator && r.taken(e.Operator) {
				continue
			}
			if e.breaker.allow(r.set.now()) {
				return e
			}
		}
	}
	return nil
}

func (r *round) taken(operator string) bool {
	for _, e := range r.entrants {
		if operator != "" && e.Operator == operator && (e.running || e.won) {
			return true
		}
	}
	return false
}

func (r *round) launch(e *entrant) {
	e.running = true
	e.tries++
	r.running++
	r.set.crew.run(func() { r.results <- r.attempt(e) })
}

// untilRetry fires when the next log may be asked again; nil is never.
func (r *round) untilRetry() <-chan time.Time {
	var soonest time.Time
	for _, e := range r.entrants {
		if e.done || e.running || e.tries == 0 || !e.breaker.ready(r.set.now()) {
			continue
		}
		if soonest.IsZero() || e.readyAt.Before(soonest) {
			soonest = e.readyAt
		}
	}
	if soonest.IsZero() || r.running+len(r.scts) >= r.set.need+r.hedges {
		return nil
	}
	return time.After(time.Until(soonest))
}

func (r *round) take(o outcome) {
	e := o.from
	r.running--
	e.running = false
	if o.err == nil {
		e.won, e.done = true, true
		r.scts = append(r.scts, o.sct)
		return
	}
	e.last = o.err
	wait := max(backoff<<(e.tries-1), o.err.RetryAfter)
	wait += rand.N(backoff << (e.tries - 1)) //nolint:gosec // jitter, no secret
	e.readyAt = time.Now().Add(wait)
	e.done = !o.err.transient() || e.tries >= maxTries || o.err.RetryAfter > maxWait || e.readyAt.After(r.ends)
}

// unavailable is the error of a round that ended without enough SCTs.
func (r *round) unavailable() error {
	s := &shortfall{got: len(r.scts), need: r.set.need}
	if err := r.caller.Err(); err != nil {
		return callerLeft(r.caller, err)
	}
	wait := time.Duration(0)
	for _, e := range r.entrants {
		s.logs = append(s.logs, e.complaint(r.set.now()))
		if next := e.nextChance(r.set.now()); next > 0 && (wait == 0 || next < wait) {
			wait = next
		}
	}
	return fault.New(fault.LogUnavailable, s).WithRetryAfter(min(max(wait, time.Second), 30*time.Second))
}

func callerLeft(ctx context.Context, err error) error {
	var own *fault.Error
	switch cause := context.Cause(ctx); {
	case errors.As(cause, &own):
		return own
	case errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.CallerDeadline, fmt.Errorf("waiting for SCTs: %w", cause))
	default:
		return fault.New(fault.CallerCanceled, fmt.Errorf("waiting for SCTs: %w", cause))
	}
}

func (e *entrant) complaint(now time.Time) error {
	ok, cause, _ := e.breaker.state(now)
	switch {
	case e.won:
		return fmt.Errorf("log %s: SCT received", e.Name)
	case e.running:
		return fmt.Errorf("log %s: %w", e.Name, &Failure{Result: TimedOut, Err: errors.New("no answer yet when the attempt was given up")})
	case e.last != nil:
		return fmt.Errorf("log %s: %w", e.Name, e.last)
	case !ok:
		return fmt.Errorf("log %s: set aside: %s", e.Name, cause)
	}
	return fmt.Errorf("log %s: not asked", e.Name)
}

// nextChance is when the log may be worth another request; 0 is unknown.
func (e *entrant) nextChance(now time.Time) time.Duration {
	var f *Failure
	if errors.As(e.last, &f) && f.RetryAfter > 0 {
		return f.RetryAfter
	}
	return e.breaker.wait(now)
}

// shortfall is the private cause of LOG_UNAVAILABLE.
type shortfall struct {
	got, need int
	logs      []error
}

func (s *shortfall) Error() string {
	texts := make([]string, len(s.logs))
	for i, e := range s.logs {
		texts[i] = e.Error()
	}
	return fmt.Sprintf("%d of %d SCTs: %s", s.got, s.need, strings.Join(texts, "; "))
}

func (s *shortfall) Unwrap() []error { return s.logs }
