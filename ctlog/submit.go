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
	// maxTries is how many attempts at one log for one precertificate are made while another log is left, or where more
	// would make more entries in the log. A log that is only busy and has no substitute is asked until the budget ends.
	maxTries   = 3
	backoff    = 100 * time.Millisecond // before the second attempt, at least; doubled for each other one
	maxBackoff = time.Second            // of what backoff grows to
)

// errEnough ends attempts whose SCT is no longer needed, errHopeless those whose SCT would not suffice.
var (
	errEnough   = errors.New("other logs were faster")
	errHopeless = errors.New("too few logs are left")
)

// round is one Submit. One goroutine owns it; attempts only send to results.
type round struct {
	set    *Set
	caller context.Context //nolint:containedctx // a round is one call
	ctx    context.Context //nolint:containedctx // caller's, within the budget
	p      tbs.Precertificate
	start  time.Time
	ends   time.Time // of the budget, or of the caller's patience

	entrants []*entrant
	hedges   int // attempts beyond policy.Parallel, because others were slow
	wins     []win
	results  chan outcome
}

// win is a verified SCT.
type win struct {
	from *entrant
	sct  []byte
}

// entrant is a member as one round sees it.
type entrant struct {
	*member
	tries   int
	running bool
	linger  bool // the attempt that runs is there to find out about the log; others are asked as if it were not
	won     bool
	done    bool          // not to be asked (again)
	readyAt time.Time     // real time
	failed  time.Time     // the last attempt, on the clock of the set
	failure *Failure      // of the last attempt
	jitter  time.Duration // so that those who wait for a busy log do not all come back at once
	last    error
}

type outcome struct {
	from *entrant
	sct  []byte
	err  *Failure
}

// Submit returns as many verified SCTs in TLS encoding as the policy wants, each of another log, of as many operators as it
// wants. It errs with a [fault.Error]: CANCELED or DEADLINE_EXCEEDED (or the context's own cause, if that is a fault) if the
// caller left, NOT_READY if our clock is wrong, else LOG_UNAVAILABLE with RetryAfter, as soon as nobody is left to ask.
func (s *Set) Submit(ctx context.Context, p tbs.Precertificate) ([][]byte, error) {
	if err := s.Clock(); err != nil {
		return nil, fault.New(fault.NotReady, err, "cause", err.Error())
	}
	bounded, cancel := context.WithTimeout(ctx, s.policy.Budget)
	defer cancel()
	inner, end := context.WithCancelCause(bounded)
	defer end(errHopeless)
	ends, _ := bounded.Deadline()
	r := &round{
		set: s, caller: ctx, ctx: inner, p: p, start: s.now(), ends: ends,
		results: make(chan outcome, len(s.ranked)),
	}
	for _, m := range s.ranked {
		e := &entrant{member: m, jitter: rand.N(backoff)} //nolint:gosec // no secret
		if e.last = m.refusal(r.start, p.NotAfter); e.last != nil {
			e.done = true
		}
		r.entrants = append(r.entrants, e)
	}
	if err := r.run(); err != nil {
		return nil, err
	}
	end(errEnough)
	scts := make([][]byte, 0, s.policy.MinSCTs)
	for _, w := range r.chosen() {
		scts = append(scts, w.sct)
		s.granted(Grant{Log: w.from.Name, SCT: w.sct, Precertificate: p})
	}
	s.forward(p)
	return scts, nil
}

func (r *round) run() error {
	stagger := r.set.policy.Stagger
	hedge := time.NewTicker(stagger)
	defer hedge.Stop()
	for {
		if r.ctx.Err() != nil || !r.feasible() {
			return r.unavailable()
		}
		r.fill()
		retry := r.untilRetry()
		if retry == nil && !slices.ContainsFunc(r.entrants, func(e *entrant) bool { return e.running }) {
			return r.unavailable()
		}
		select {
		case o := <-r.results:
			r.take(o)
			if r.got() >= r.set.policy.MinSCTs {
				return nil
			}
			hedge.Reset(stagger)
		case <-hedge.C:
			if e := r.next(true); e != nil {
				r.hedges++
			}
		case <-retry:
		case <-r.ctx.Done():
		}
	}
}

// feasible reports whether enough SCTs may still come together. If not, nobody is asked: an SCT that helps nobody is an entry
// in a log for a certificate that never was.
func (r *round) feasible() bool {
	n, operators := 0, map[string]bool{}
	for _, e := range r.entrants {
		_, ok := r.when(e)
		if ok || e.running || e.won {
			n++
			operators[e.operator] = true
		}
	}
	return n >= r.set.policy.MinSCTs && len(operators) >= r.set.policy.MinOperators
}

// underWay is how many SCTs there are or may soon be.
func (r *round) underWay() int {
	n := r.got()
	for _, e := range r.entrants {
		if e.running && !e.linger {
			n++
		}
	}
	return n
}

// fill starts attempts until as many are under way as the policy wants at once.
func (r *round) fill() {
	for r.underWay() < r.set.policy.Parallel+r.hedges {
		if r.next(false) == nil {
			return
		}
	}
}

// next asks one more log and returns it, or nil: in the order of the set, but first those whose operator has no part yet, and last
// those that may be dead.
func (r *round) next(fresh bool) *entrant {
	for _, rank := range []struct{ doubtful, taken bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		for _, e := range r.entrants {
			if e.breaker.doubtful() != rank.doubtful || fresh && e.tries > 0 || !fresh && r.spares(e) || r.taken(e) && !rank.taken {
				continue
			}
			if r.try(e) {
				return e
			}
		}
	}
	return nil
}

// try asks e, if it may be asked now.
func (r *round) try(e *entrant) bool {
	now := time.Now()
	if at, ok := r.when(e); !ok || at.After(now) || !e.bucket.take(now) {
		return false
	}
	p := e.breaker.allow(r.set.now(), r.needs(e))
	if !p.granted {
		e.bucket.give()
		return false
	}
	r.launch(e, p)
	return true
}

// when says from when on (in real time) e may be asked, and whether at all.
func (r *round) when(e *entrant) (time.Time, bool) {
	if e.done || e.running || !r.useful(e) || e.benchedFor() != "" {
		return time.Time{}, false
	}
	now := r.set.now()
	needed := r.needs(e)
	if !r.repeats(e, needed) || !needed && !e.breaker.ready(now) ||
		needed && e.tries == 0 && e.breaker.hopeless(r.start) {
		return time.Time{}, false
	}
	at := e.readyAt
	if e.tries > 0 && e.breaker.workedSince(e.failed) { // for another request
		at = time.Time{}
	}
	if wait := max(e.bucket.wait(time.Now()), e.breaker.wait(now, needed)); wait > 0 {
		if held := time.Now().Add(wait + e.jitter); held.After(at) {
			at = held
		}
	}
	return at, !at.After(r.ends)
}

// repeats reports whether e may be asked once more after what it answered in this round.
func (r *round) repeats(e *entrant, needed bool) bool {
	switch f := e.failure; {
	case f == nil:
		return true
	case f.transient():
		return needed || e.tries < maxTries && f.RetryAfter <= maxHold
	default:
		return needed && e.tries < maxTries && f.repeatable()
	}
}

// needs reports whether the policy cannot be met without e, or another log that has failed or is set aside.
func (r *round) needs(e *entrant) bool {
	now := r.set.now()
	if e.tries == 0 && e.breaker.closed(now) {
		return false // it makes no difference
	}
	n := 0
	var operators map[string]bool
	for _, o := range r.entrants {
		if !o.won && !(o.running && !o.linger) &&
			(o.done || o.tries > 0 || o.benchedFor() != "" || !o.breaker.closed(now)) {
			continue
		}
		n++
		if r.set.policy.MinOperators > 1 {
			if operators == nil {
				operators = map[string]bool{}
			}
			operators[o.operator] = true
		}
	}
	return n < r.set.policy.MinSCTs || r.set.policy.MinOperators > 1 && len(operators) < r.set.policy.MinOperators
}

// spares reports whether e is left alone although there is room: it may be dead, and enough others are under way.
func (r *round) spares(e *entrant) bool {
	return e.breaker.doubtful() && r.underWay() >= r.set.policy.MinSCTs
}

// taken reports whether the operator of e has a part in this round.
func (r *round) taken(e *entrant) bool {
	return slices.ContainsFunc(r.entrants, func(o *entrant) bool {
		return (o.running || o.won) && o.operator == e.operator
	})
}

// operators is of how many operators SCTs have come.
func (r *round) operators() int {
	n := 0
	for i, w := range r.wins {
		if !fromOperator(r.wins[:i], w.from.operator) {
			n++
		}
	}
	return n
}

func fromOperator(wins []win, operator string) bool {
	return slices.ContainsFunc(wins, func(w win) bool { return w.from.operator == operator })
}

// spare is how many SCTs of operators that are there already would do: the rest must be of others.
func (r *round) spare(operators int) int {
	return max(0, r.set.policy.MinSCTs-max(r.set.policy.MinOperators, operators))
}

// got is how many of the SCTs that came count.
func (r *round) got() int {
	n := r.operators()
	return min(n+min(len(r.wins)-n, r.spare(n)), r.set.policy.MinSCTs)
}

// useful reports whether an SCT of e would count.
func (r *round) useful(e *entrant) bool {
	n := r.operators()
	return !fromOperator(r.wins, e.operator) || len(r.wins)-n < r.spare(n)
}

// chosen are the SCTs to return, in the order in which they came: one of each operator, and others to make up the number.
func (r *round) chosen() []win {
	need := r.set.policy.MinSCTs
	seen, take := map[string]bool{}, make([]bool, len(r.wins))
	left := need
	for _, another := range []bool{true, false} {
		for i, w := range r.wins {
			op := w.from.operator
			if left == 0 || take[i] || another && seen[op] {
				continue
			}
			seen[op], take[i] = true, true
			left--
		}
	}
	out := make([]win, 0, need)
	for i, w := range r.wins {
		if take[i] {
			out = append(out, w)
		}
	}
	return out
}

func (r *round) launch(e *entrant, p pass) {
	e.running, e.linger = true, p.linger
	e.tries++
	work := func() { r.results <- r.attempt(e, p) }
	if p.linger {
		r.set.watchers.Go(work)
		return
	}
	r.set.crew.run(work)
}

// untilRetry fires when the next log may be asked; nil is never.
func (r *round) untilRetry() <-chan time.Time {
	if r.underWay() >= r.set.policy.Parallel+r.hedges {
		return nil
	}
	var soonest time.Time
	found := false
	for _, e := range r.entrants {
		if at, ok := r.when(e); ok && !r.spares(e) && (!found || at.Before(soonest)) {
			soonest, found = at, true
		}
	}
	if !found {
		return nil
	}
	return time.After(max(time.Until(soonest), time.Millisecond))
}

func (r *round) take(o outcome) {
	e := o.from
	e.running = false
	if why := e.benchedFor(); why != "" { // while it was asked: its promise is worth nothing now
		e.last, e.done = fmt.Errorf("benched: %s", why), true
		return
	}
	if o.err == nil {
		e.won, e.done = true, true
		r.wins = append(r.wins, win{e, o.sct})
		return
	}
	e.last, e.failure, e.failed = o.err, o.err, r.set.now()
	e.readyAt = time.Now().Add(retryWait(e.tries, o.err))
}

// unavailable is the error of a round that ended without enough SCTs.
func (r *round) unavailable() error {
	if err := r.caller.Err(); err != nil {
		return callerLeft(r.caller, err)
	}
	if err := r.set.Clock(); err != nil {
		return fault.New(fault.NotReady, err, "cause", err.Error())
	}
	s := &shortfall{got: r.got(), need: r.set.policy.MinSCTs}
	wait := time.Duration(0)
	for _, e := range r.entrants {
		s.logs = append(s.logs, e.complaint())
		if next := e.nextChance(r.set.now()); next > 0 && (wait == 0 || next < wait) {
			wait = next
		}
	}
	return fault.New(fault.LogUnavailable, s, "cause",
		s.public()).WithRetryAfter(min(max(wait, time.Second), 30*time.Second))
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

func (e *entrant) complaint() error {
	ok, cause, _ := e.breaker.state()
	switch {
	case e.won:
		return fmt.Errorf("log %s: %w", e.Name, errReceived)
	case e.running:
		return fmt.Errorf("log %s: %w", e.Name, &Failure{Result: TimedOut, Err: errors.New("no answer yet when the attempt was given up")})
	case e.last != nil:
		return fmt.Errorf("log %s: %w", e.Name, e.last)
	case !ok:
		return fmt.Errorf("log %s: %w", e.Name, &asideError{cause, e.breaker.lastResult()})
	}
	if e.bucket.wait(time.Now()) > 0 {
		return fmt.Errorf("log %s: %w", e.Name, &overRate{e.Rate})
	}
	return fmt.Errorf("log %s: not asked", e.Name)
}

// nextChance is when the log may be worth another request; 0 is unknown.
func (e *entrant) nextChance(now time.Time) time.Duration {
	var f *Failure
	if errors.As(e.last, &f) && f.RetryAfter > 0 {
		return f.RetryAfter
	}
	return max(e.breaker.wait(now, false), e.bucket.wait(time.Now()))
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

// public says for a client of the CA why there are too few SCTs: what the logs did, each kind once. It quotes nothing
// of a log, and does not say which logs there are.
func (s *shortfall) public() string {
	var texts []string
	for _, err := range s.logs {
		text := "a log cannot be used"
		var f *Failure
		var over *overRate
		var aside *asideError
		switch {
		case errors.As(err, &f):
			text = f.Result.public()
		case errors.As(err, &aside):
			text = aside.result.public()
		case errors.As(err, &over):
			text = "a log takes no more submissions at the moment"
		case errors.Is(err, errReceived):
			continue
		}
		if !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, "; ")
}

// errReceived stands for a log that gave its SCT, while others did not.
var errReceived = errors.New("SCT received")

// asideError is a log that was not asked because it failed others before.
type asideError struct {
	cause  string
	result Result
}

func (e *asideError) Error() string { return "set aside: " + e.cause }

// overRate is a log that may not be asked yet.
type overRate struct{ rate float64 }

func (e *overRate) Error() string { return fmt.Sprintf("over its rate of %g a second", e.rate) }
