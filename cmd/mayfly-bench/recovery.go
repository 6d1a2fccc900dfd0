package main

import (
	"context"
	"fmt"
	"time"
)

// benchRecovery says how long after an overload a server needs until it serves half of its capacity as before.
type benchRecovery struct {
	Back    bool    `json:"back"`    // within recoveryBound
	Seconds float64 `json:"seconds"` // from the last arrival to the start of the successful probe
	Before  float64 `json:"p99_before_ms"`
	Rate    float64 `json:"probe_per_second"`
}

const (
	recoveryBound = 10 * time.Second
	probeLength   = 500 * time.Millisecond
	baseLength    = 2 * time.Second // length of the probe before the overload
)

// overload measures a load above the capacity, with probes at half the capacity before and after.
func (r *benchRun) overload(ctx context.Context, s *benchStep) {
	rate := r.capacity / 2
	before := percentile(r.load.open(ctx, rate, min(baseLength, 2*r.flags.step)).wait().served, 99)
	var ended time.Time
	r.measure(ctx, s, func() tally {
		f := r.load.open(ctx, s.Rate, r.flags.step)
		ended = f.ended
		return f.wait()
	})
	s.Recovery = r.load.recovery(ctx, benchRecovery{Before: before, Rate: rate}, ended)
}

// recovery sends probes until one is served as before. It returns nil if the run ended earlier.
func (g *generator) recovery(ctx context.Context, b benchRecovery, ended time.Time) *benchRecovery {
	bound, cancel := context.WithDeadline(ctx, ended.Add(recoveryBound))
	defer cancel()
	for bound.Err() == nil && !g.over(ctx) {
		b.Seconds = time.Since(ended).Seconds()
		probe := g.open(bound, b.Rate, probeLength).wait()
		if b.Back = bound.Err() == nil && asBefore(probe, b.Before); b.Back {
			return &b
		}
	}
	if g.over(ctx) {
		return nil
	}
	b.Seconds = recoveryBound.Seconds()
	return &b
}

// asBefore reports whether all requests of a probe were served, with a p99 of at most twice before, in milliseconds.
func asBefore(t tally, before float64) bool {
	return len(t.served) > 0 && len(t.refused)+t.failed+t.unsent == 0 && percentile(t.served, 99) <= 2*before
}

func (b benchRecovery) String() string {
	half := fmt.Sprintf("half the capacity (%.0f/s) was served without refusals and with a p99 of at most "+
		"twice the earlier %.1f ms", b.Rate, b.Before)
	if !b.Back {
		return fmt.Sprintf("not within %s that %s", recoveryBound, half)
	}
	return fmt.Sprintf("%.1f s after the last arrival %s", b.Seconds, half)
}
