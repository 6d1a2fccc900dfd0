package canary

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/pop"
)

// Target is what a run uses: the parts of the configuration in force.
type Target struct {
	// Interval is the time between two runs; 0: there are none.
	Interval  time.Duration
	Keys      *pop.Policy
	Authority *ca.Authority
	MLDSA     *ca.Authority    // for ML-DSA keys in place of Authority; optional
	Journal   *journal.Journal // nil: nothing is recorded
	Digest    string           // of the configuration, in hexadecimal
}

// Options for [New].
type Options struct {
	// Target returns what a run uses now.
	Target func() *Target
	// Compute waits for a processor; the function that it returns gives the processor back. Optional.
	Compute func() (done func())
	Now     func() time.Time // nil: time.Now
	Logger  *slog.Logger     // nil: none
}

// Canary makes the runs.
type Canary struct {
	o       Options
	metrics *metrics
	changed chan struct{} // the configuration has changed
	turn    chan struct{} // has a value while no run is under way
	key     *clientKey    // of the run that has the turn

	mu     sync.Mutex
	last   *Run // nil: none yet
	ended  time.Time
	failed int // runs that failed one after the other
}

// New returns a Canary; its runs begin with [Canary.Run].
func New(o Options) *Canary {
	if o.Compute == nil {
		o.Compute = func() func() { return func() {} }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Canary{o: o, metrics: newMetrics(), changed: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
	c.turn <- struct{}{}
	return c
}

// Changed causes the interval to be read again.
func (c *Canary) Changed() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// firstWithin bounds the wait for the first run after a start, or after the canary was switched on.
const firstWithin = time.Minute

// Run makes runs at the interval until ctx ends.
func (c *Canary) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var interval time.Duration
	var due time.Time
	for {
		if now := c.o.Target().Interval; now != interval {
			interval = now
			if interval > 0 {
				due = time.Now().Add(rand.N(min(interval, firstWithin))) //nolint:gosec // jitter, no secret
			}
		}
		timer.Stop()
		var ring <-chan time.Time
		if interval > 0 {
			timer.Reset(time.Until(due))
			ring = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-c.changed:
			continue
		case <-ring:
		}
		due = time.Now().Add(jittered(interval))
		_, _ = c.next(ctx) // its error is that ctx has ended
	}
}

// jittered returns a duration that differs from d by at most a tenth.
func jittered(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1) //nolint:gosec // jitter, no secret
}

// next waits for the run under way, if there is one, and makes a run.
func (c *Canary) next(ctx context.Context) (*Run, error) {
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { c.turn <- struct{}{} }()
	return c.now(ctx)
}

// now makes a run. The caller has the turn.
func (c *Canary) now(ctx context.Context) (*Run, error) {
	t := c.o.Target()
	if t.Interval == 0 { // it was switched off meanwhile
		return nil, ErrOff
	}
	r := c.run(ctx, t)
	if ctx.Err() != nil && !r.OK { // the end of the process is no failure of the CA
		return nil, context.Cause(ctx)
	}
	c.metrics.count(r)
	c.mu.Lock()
	failed := c.failed
	if c.failed++; r.OK {
		c.failed = 0
	}
	c.last, c.ended = r, time.Now()
	c.mu.Unlock()
	took := time.Duration(r.Seconds * float64(time.Second))
	switch {
	case !r.OK:
		c.o.Logger.WarnContext(ctx, "the canary failed", "stage", r.Stage, "cause", r.Cause, "in_a_row", failed+1,
			"took", took)
	case failed > 0:
		c.o.Logger.InfoContext(ctx, "the canary succeeded again", "failed", failed, "serial", r.Serial, "took", took)
	default:
		c.o.Logger.DebugContext(ctx, "the canary succeeded", "serial", r.Serial, "scts", r.SCTs, "took", took)
	}
	return r, nil
}

// ErrOff means that the configuration has no canary.
var ErrOff = errors.New("the canary is off: each run puts an entry into the logs; write canary: {interval: 1m} to " +
	"switch it on")

// recent is how old a result may be in place of a run on demand.
const recent = 10 * time.Second

// Now makes a run on demand, or returns the result of the last run if that ended less than ten seconds ago: callers
// cannot put more than one entry into the logs in that time. Its error is [ErrOff], or that ctx has ended.
func (c *Canary) Now(ctx context.Context) (*Run, error) {
	if c.o.Target().Interval == 0 {
		return nil, ErrOff
	}
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { c.turn <- struct{}{} }()
	c.mu.Lock()
	last, ended := c.last, c.ended
	c.mu.Unlock()
	if last != nil && time.Since(ended) < recent {
		return last, nil
	}
	return c.now(context.WithoutCancel(ctx)) // a caller who leaves does not cause a failure
}

// Last returns the result of the last run; nil: there is none yet.
func (c *Canary) Last() *Run {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// warnAfter is how many runs in a row must fail before there is a warning: a single failure may be an exception.
const warnAfter = 3

// Warning returns what an operator should know about the last runs; "" if they succeeded.
func (c *Canary) Warning() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed < warnAfter {
		return ""
	}
	return fmt.Sprintf("%d runs in a row failed, the last one in the stage %s: %s", c.failed,
		c.last.Stage, c.last.Cause)
}
