package ctlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tbs"
)

const (
	// maxTries bounds the attempts at one log for one precertificate if another log is left, or if each attempt may
	// create another entry in the log. A log that is only busy and has no substitute is tried until the budget ends.
	maxTries   = 3
	backoff    = 100 * time.Millisecond // minimum before the second attempt, doubled for each further one
	maxBackoff = time.Second            // maximum of the doubled backoff
)

// Causes of the end of a submission's context.
var (
	errEnough   = errors.New("other logs were faster")
	errHopeless = errors.New("too few logs are left")
)

// submission is one call of Submit. It belongs to one goroutine; attempts only send to results.
type submission struct {
	set    *Set
	caller context.Context //nolint:containedctx // a submission is one call
	ctx    context.Context //nolint:containedctx // the caller's, within the budget
	p      tbs.Precertificate
	start  time.Time
	ends   time.Time // end of the budget, or the caller's deadline

	candidates []*candidate
	hedges     int // attempts beyond policy.Parallel, because others were slow
	received   []receivedSCT
	results    chan attemptResult
}

// receivedSCT is a verified SCT.
type receivedSCT struct {
	from *candidate
	sct  []byte
}

// candidate is a log with its state in one submission.
type candidate struct {
	*logState
	tries       int
	running     bool
	probing     bool // the running attempt is a probe: other logs are tried as if it were not running
	succeeded   bool
	done        bool          // not to be tried (again)
	readyAt     time.Time     // real time
	lastFailure time.Time     // by the clock of the set
	failure     *Failure      // of the last attempt
	jitter      time.Duration // spreads the retries of submissions that wait for a busy log
	lastErr     error
}

type attemptResult struct {
	from *candidate
	sct  []byte
	err  *Failure
}

// Submit returns as many verified SCTs in TLS encoding as the policy requires, each of a different log, and of as many
// operators as it requires. Its error is a [fault.Error]: CANCELED or DEADLINE_EXCEEDED (or the cause of the context,
// if that is a fault) if the caller left, NOT_READY if the clock of this machine is wrong, else LOG_UNAVAILABLE with
// RetryAfter, as soon as no log is left to try.
func (s *Set) Submit(ctx context.Context, p tbs.Precertificate) ([][]byte, error) {
	if err := s.Clock(); err != nil {
		return nil, fault.New(fault.NotReady, err, "cause", err.Error())
	}
	bounded, cancel := context.WithTimeout(ctx, s.policy.Budget)
	defer cancel()
	inner, end := context.WithCancelCause(bounded)
	defer end(errHopeless)
	ends, _ := bounded.Deadline()
	sub := &submission{
		set: s, caller: ctx, ctx: inner, p: p, start: s.now(), ends: ends,
		results: make(chan attemptResult, len(s.ranked)),
	}
	for _, l := range s.ranked {
		c := &candidate{logState: l, jitter: rand.N(backoff)} //nolint:gosec // no secret
		if c.lastErr = l.unusable(sub.start, p.NotAfter); c.lastErr != nil {
			c.done = true
		}
		sub.candidates = append(sub.candidates, c)
	}
	if err := sub.run(); err != nil {
		return nil, err
	}
	end(errEnough)
	scts := make([][]byte, 0, s.policy.MinSCTs)
	for _, r := range sub.chosen() {
		scts = append(scts, r.sct)
		s.granted(Grant{Log: r.from.Name, SCT: r.sct, Precertificate: p})
	}
	s.forward(p)
	return scts, nil
}

func (sub *submission) run() error {
	stagger := sub.set.policy.Stagger
	hedge := time.NewTicker(stagger)
	defer hedge.Stop()
	for {
		if sub.ctx.Err() != nil || !sub.feasible() {
			return sub.unavailable()
		}
		sub.fill()
		retry := sub.untilRetry()
		if retry == nil && !slices.ContainsFunc(sub.candidates, func(c *candidate) bool { return c.running }) {
			return sub.unavailable()
		}
		select {
		case r := <-sub.results:
			sub.record(r)
			if sub.counted() >= sub.set.policy.MinSCTs {
				return nil
			}
			hedge.Reset(stagger)
		case <-hedge.C:
			if c := sub.next(true); c != nil {
				sub.hedges++
			}
		case <-retry:
		case <-sub.ctx.Done():
		}
	}
}

// feasible reports whether the policy can still be met. If not, no log is tried: an SCT without the others that the
// policy requires is an entry in a log for a certificate that is never issued.
func (sub *submission) feasible() bool {
	n, operators := 0, map[string]bool{}
	for _, c := range sub.candidates {
		_, ok := sub.when(c)
		if ok || c.running || c.succeeded {
			n++
			operators[c.operator] = true
		}
	}
	return n >= sub.set.policy.MinSCTs && len(operators) >= sub.set.policy.MinOperators
}

// underWay returns how many SCTs have been received or may soon be.
func (sub *submission) underWay() int {
	n := sub.counted()
	for _, c := range sub.candidates {
		if c.running && !c.probing {
			n++
		}
	}
	return n
}

// fill starts attempts until the number that the policy allows at once is under way.
func (sub *submission) fill() {
	for sub.underWay() < sub.set.policy.Parallel+sub.hedges {
		if sub.next(false) == nil {
			return
		}
	}
}

// next starts an attempt at one more log and returns the log, or nil. Logs of an operator that is not represented yet
// come first, logs that may be down come last; otherwise the order is that of the set. With untried, only logs that
// have not been tried are considered.
func (sub *submission) next(untried bool) *candidate {
	for _, rank := range []struct{ underTest, represented bool }{
		{false, false}, {false, true}, {true, false}, {true, true},
	} {
		for _, c := range sub.candidates {
			if c.breaker.underTest() != rank.underTest || untried && c.tries > 0 || !untried && sub.spares(c) ||
				sub.represented(c) && !rank.represented {
				continue
			}
			if sub.try(c) {
				return c
			}
		}
	}
	return nil
}

// try starts an attempt at c, if c may be tried now.
func (sub *submission) try(c *candidate) bool {
	if at, ok := sub.when(c); !ok || at.After(time.Now()) {
		return false
	}
	p := c.breaker.allow(sub.set.now(), sub.needs(c))
	if !p.granted {
		return false
	}
	if !c.limiter.Allow() {
		c.breaker.abandon(p)
		return false
	}
	sub.launch(c, p)
	return true
}

// when returns the real time from which c may be tried, and whether it may be tried at all.
func (sub *submission) when(c *candidate) (time.Time, bool) {
	if c.done || c.running || !sub.useful(c) || c.quarantine() != "" {
		return time.Time{}, false
	}
	now := sub.set.now()
	needed := sub.needs(c)
	if !sub.repeats(c, needed) || !needed && !c.breaker.ready(now) ||
		needed && c.tries == 0 && c.breaker.hopeless(sub.start) {
		return time.Time{}, false
	}
	at := c.readyAt
	// A log that has worked since is tried at once, for example after a probe of another submission; one that named a
	// time is not, because a verified head does not end a Retry-After.
	if c.tries > 0 && c.failure.RetryAfter == 0 && c.breaker.workedSince(c.lastFailure) {
		at = time.Time{}
	}
	if wait := max(c.rateWait(), c.breaker.wait(now, needed)); wait > 0 {
		if later := time.Now().Add(wait + c.jitter); later.After(at) {
			at = later
		}
	}
	return at, !at.After(sub.ends)
}

// repeats reports whether c may be tried once more after its answers in this submission.
func (sub *submission) repeats(c *candidate, needed bool) bool {
	switch f := c.failure; {
	case f == nil:
		return true
	case f.transient():
		return needed || c.tries < maxTries && f.RetryAfter <= maxHold
	default:
		return needed && c.tries < maxTries && f.repeatable()
	}
}

// needs reports whether the policy cannot be met without c, or without another log that has failed or is set aside.
func (sub *submission) needs(c *candidate) bool {
	now := sub.set.now()
	if c.tries == 0 && c.breaker.closed(now) {
		return false // its SCT would not be used
	}
	n := 0
	var operators map[string]bool
	for _, o := range sub.candidates {
		if !o.succeeded && !(o.running && !o.probing) &&
			(o.done || o.tries > 0 || o.quarantine() != "" || !o.breaker.closed(now)) {
			continue
		}
		n++
		if sub.set.policy.MinOperators > 1 {
			if operators == nil {
				operators = map[string]bool{}
			}
			operators[o.operator] = true
		}
	}
	return n < sub.set.policy.MinSCTs || sub.set.policy.MinOperators > 1 && len(operators) < sub.set.policy.MinOperators
}

// spares reports whether c is not tried although another attempt is allowed: c may be down, and enough other attempts
// are under way.
func (sub *submission) spares(c *candidate) bool {
	return c.breaker.underTest() && sub.underWay() >= sub.set.policy.MinSCTs
}

// represented reports whether the operator of c has an SCT or an attempt in this submission.
func (sub *submission) represented(c *candidate) bool {
	return slices.ContainsFunc(sub.candidates, func(o *candidate) bool {
		return (o.running || o.succeeded) && o.operator == c.operator
	})
}

// operators returns the number of operators from which SCTs have been received.
func (sub *submission) operators() int {
	n := 0
	for i, r := range sub.received {
		if !fromOperator(sub.received[:i], r.from.operator) {
			n++
		}
	}
	return n
}

func fromOperator(received []receivedSCT, operator string) bool {
	return slices.ContainsFunc(received, func(r receivedSCT) bool { return r.from.operator == operator })
}

// surplus returns how many additional SCTs of the same operators may count, if SCTs from n operators have been
// received: the others must come from further operators.
func (sub *submission) surplus(operators int) int {
	return max(0, sub.set.policy.MinSCTs-max(sub.set.policy.MinOperators, operators))
}

// counted returns how many of the received SCTs count towards the policy.
func (sub *submission) counted() int {
	n := sub.operators()
	return min(n+min(len(sub.received)-n, sub.surplus(n)), sub.set.policy.MinSCTs)
}

// useful reports whether an SCT of c would count towards the policy.
func (sub *submission) useful(c *candidate) bool {
	n := sub.operators()
	return !fromOperator(sub.received, c.operator) || len(sub.received)-n < sub.surplus(n)
}

// chosen returns the SCTs for the certificate, in the order in which they were received: one from each operator, and
// others up to the required number.
func (sub *submission) chosen() []receivedSCT {
	need := sub.set.policy.MinSCTs
	seen, take := map[string]bool{}, make([]bool, len(sub.received))
	left := need
	for _, newOperators := range []bool{true, false} {
		for i, r := range sub.received {
			op := r.from.operator
			if left == 0 || take[i] || newOperators && seen[op] {
				continue
			}
			seen[op], take[i] = true, true
			left--
		}
	}
	out := make([]receivedSCT, 0, need)
	for i, r := range sub.received {
		if take[i] {
			out = append(out, r)
		}
	}
	return out
}

func (sub *submission) launch(c *candidate, p permit) {
	c.running, c.probing = true, p.probe
	c.tries++
	work := func() { sub.results <- sub.attempt(c, p) }
	if p.probe {
		sub.set.background.Go(work)
		return
	}
	go work()
}

// untilRetry returns a channel that receives when the next log may be tried; nil if there is none.
func (sub *submission) untilRetry() <-chan time.Time {
	if sub.underWay() >= sub.set.policy.Parallel+sub.hedges {
		return nil
	}
	var soonest time.Time
	found := false
	for _, c := range sub.candidates {
		if at, ok := sub.when(c); ok && !sub.spares(c) && (!found || at.Before(soonest)) {
			soonest, found = at, true
		}
	}
	if !found {
		return nil
	}
	return time.After(max(time.Until(soonest), time.Millisecond))
}

func (sub *submission) record(r attemptResult) {
	c := r.from
	c.running = false
	if why := c.quarantine(); why != "" { // since the attempt began: the SCT of a quarantined log is not used
		c.lastErr, c.done = fmt.Errorf("quarantined: %s", why), true
		return
	}
	if r.err == nil {
		c.succeeded, c.done = true, true
		sub.received = append(sub.received, receivedSCT{c, r.sct})
		return
	}
	c.lastErr, c.failure, c.lastFailure = r.err, r.err, sub.set.now()
	c.readyAt = time.Now().Add(retryWait(c.tries, r.err))
}

// unavailable returns the error of a submission that ended without enough SCTs.
func (sub *submission) unavailable() error {
	if err := sub.caller.Err(); err != nil {
		return callerLeft(sub.caller, err)
	}
	if err := sub.set.Clock(); err != nil {
		return fault.New(fault.NotReady, err, "cause", err.Error())
	}
	s := &shortfall{got: sub.counted(), need: sub.set.policy.MinSCTs}
	wait := time.Duration(0)
	for _, c := range sub.candidates {
		s.logs = append(s.logs, c.explain())
		if next := c.nextChance(sub.set.now()); next > 0 && (wait == 0 || next < wait) {
			wait = next
		}
	}
	return fault.New(fault.LogUnavailable, s, "cause",
		s.public()).WithRetryAfter(min(max(wait, time.Second), 30*time.Second))
}

func callerLeft(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if own, ok := errors.AsType[*fault.Error](cause); ok {
		return own
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.New(fault.CallerDeadline, fmt.Errorf("waiting for SCTs: %w", cause))
	}
	return fault.New(fault.CallerCanceled, fmt.Errorf("waiting for SCTs: %w", cause))
}

// explain returns why the submission has no SCT of c.
func (c *candidate) explain() error {
	ok, cause, _ := c.breaker.state()
	switch {
	case c.succeeded:
		return fmt.Errorf("log %s: %w", c.Name, errReceived)
	case c.running:
		return fmt.Errorf("log %s: %w", c.Name,
			&Failure{Result: TimedOut, Err: errors.New("no answer before the attempt was abandoned")})
	case c.lastErr != nil:
		return fmt.Errorf("log %s: %w", c.Name, c.lastErr)
	case !ok:
		return fmt.Errorf("log %s: %w", c.Name, &setAsideError{cause, c.breaker.lastResult()})
	case c.rateWait() > 0:
		return fmt.Errorf("log %s: %w", c.Name, &rateError{c.Rate})
	}
	return fmt.Errorf("log %s: not tried", c.Name)
}

// nextChance returns when the log may be worth another request; 0 if unknown.
func (c *candidate) nextChance(now time.Time) time.Duration {
	if f, ok := errors.AsType[*Failure](c.lastErr); ok && f.RetryAfter > 0 {
		return f.RetryAfter
	}
	return max(c.breaker.wait(now, false), c.rateWait())
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

// public tells a client of the CA why there are too few SCTs: each kind of failure once. It quotes nothing of a log,
// and does not reveal which logs are configured.
func (s *shortfall) public() string {
	var texts []string
	for _, err := range s.logs {
		text := "a log cannot be used"
		if f, ok := errors.AsType[*Failure](err); ok {
			text = f.Result.public()
		} else if aside, ok := errors.AsType[*setAsideError](err); ok {
			text = aside.result.public()
		} else if _, ok := errors.AsType[*rateError](err); ok {
			text = "a log has reached its rate limit"
		} else if errors.Is(err, errReceived) {
			continue
		}
		if !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, "; ")
}

// errReceived stands for a log that returned its SCT, while others did not.
var errReceived = errors.New("SCT received")

// setAsideError means that a log was not tried because it failed earlier submissions.
type setAsideError struct {
	cause  string
	result Result
}

func (e *setAsideError) Error() string { return "set aside: " + e.cause }

// rateError means that a log has reached its rate.
type rateError struct{ rate float64 }

func (e *rateError) Error() string { return fmt.Sprintf("over its rate of %g a second", e.rate) }
