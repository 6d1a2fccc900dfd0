package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/client"
)

// generator makes requests in one of two ways. In a closed loop, callers wait for their answers and obey a Retry-After: a slow server
// is asked less often. In an open loop requests arrive whether others are answered or not, as those of many strangers do.
type generator struct {
	send     func(ctx context.Context, i, lanes int) error // makes the i-th request over one of the first lanes
	bound    int64                                         // requests in flight in an open loop
	left     *atomic.Int64                                 // requests that may still be made
	next     atomic.Int64
	inFlight atomic.Int64
}

// perLane is how many requests one connection of gRPC carries at once: what servers allow.
const perLane = 256

const (
	maxInFlight = 2048 // in an open loop: more than a server lets in (limits.requests), so that it has to refuse
	maxLanes    = maxBenchCallers / perLane
)

// lanes are clients with connections of their own, enough for what may be in flight.
type lanes []*client.Client

func openLanes(o client.Options) (lanes, error) {
	out := make(lanes, maxLanes)
	for i := range out {
		var err error
		if out[i], err = client.New(o); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (l lanes) close() {
	for _, c := range l {
		c.Close()
	}
}

func newGenerator(clients lanes, requests []*client.Prepared, left *atomic.Int64) *generator {
	return &generator{bound: maxInFlight, left: left, send: func(ctx context.Context, i, lanes int) error {
		_, err := clients[i%lanes].Send(ctx, requests[i%len(requests)])
		return err
	}}
}

// over tells that no further request may be made.
func (g *generator) over(ctx context.Context) bool { return ctx.Err() != nil || g.left.Load() <= 0 }

// tally is what came of requests. Each stands in one of served, refused, failed and unsent; only those that were cut off, because
// the run was interrupted, stand nowhere.
type tally struct {
	served, refused []time.Duration // latencies
	failed, unsent  int
	late            []time.Duration // by how much the generator was behind, in an open loop
	first           string          // failure, or refusal where nothing failed
}

// count sorts an answer, and says how long a refused caller is to wait.
func (t *tally) count(took time.Duration, err error) time.Duration {
	if err == nil {
		t.served = append(t.served, took)
		return 0
	}
	var refusal *client.Error
	refused := errors.As(err, &refusal) && refusal.RetryAfter > 0
	if t.first == "" || !refused && t.failed == 0 {
		t.first = client.Explain(err)
	}
	if refused {
		t.refused = append(t.refused, took)
		return refusal.RetryAfter
	}
	t.failed++
	return 0
}

func (t *tally) add(more tally) {
	t.served, t.refused = append(t.served, more.served...), append(t.refused, more.refused...)
	if t.first == "" || t.failed == 0 && more.failed > 0 {
		t.first = more.first
	}
	t.failed += more.failed
}

// closed has n callers ask for a time. A request under way may end: it is cut off by ctx only.
func (g *generator) closed(ctx context.Context, n int, during time.Duration) tally {
	timed, cancel := context.WithTimeout(ctx, during)
	defer cancel()
	var mu sync.Mutex
	var all tally
	var callers sync.WaitGroup
	for range n {
		callers.Go(func() {
			mine := g.call(timed, ctx, (n+perLane-1)/perLane)
			mu.Lock()
			defer mu.Unlock()
			all.add(mine)
		})
	}
	callers.Wait()
	return all
}

func (g *generator) call(timed, whole context.Context, lanes int) tally {
	var t tally
	for timed.Err() == nil && g.left.Add(-1) >= 0 {
		began := time.Now()
		err := g.send(whole, int(g.next.Add(1)), lanes)
		if err != nil && whole.Err() != nil {
			return t
		}
		if wait := t.count(time.Since(began), err); wait > 0 {
			select {
			case <-timed.Done():
			case <-time.After(wait):
			}
		}
	}
	return t
}

// poisson gives the times of a Poisson process after its start, one at each call: the gaps between arrivals that know nothing of
// each other are exponential, with a mean of one over the rate.
func poisson(perSecond float64, random *rand.Rand) func() time.Duration {
	at := 0.0
	return func() time.Duration {
		at += random.ExpFloat64() / perSecond
		return time.Duration(at * float64(time.Second))
	}
}

// flight is the requests of an open loop.
type flight struct {
	mu    sync.Mutex
	tally tally
	under sync.WaitGroup
	ended time.Time // the last arrival
}

// wait returns when each request has its answer.
func (f *flight) wait() tally {
	f.under.Wait()
	return f.tally
}

// open lets requests arrive for a time, and returns when that is over; [flight.wait] waits for the answers. Latency counts from the
// arrival that was intended, however late the request was made. Nothing is tried again: each arrival is a client of its own.
func (g *generator) open(ctx context.Context, perSecond float64, during time.Duration) *flight {
	f := &flight{}
	next := poisson(perSecond, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))) //nolint:gosec // no secret hangs on it
	began := time.Now()
	for at := next(); at < during && ctx.Err() == nil; at = next() {
		intended := began.Add(at)
		sleepUntil(ctx, intended)
		if time.Since(began) > during || g.inFlight.Load() >= g.bound {
			f.unsent() // the generator is behind by all that is left, or too many are under way
			continue
		}
		if g.left.Add(-1) < 0 {
			break
		}
		g.depart(ctx, f, intended)
	}
	sleepUntil(ctx, began.Add(during))
	f.ended = time.Now()
	return f
}

func (f *flight) unsent() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tally.unsent++
}

// depart makes a request that should have been made when intended says.
func (g *generator) depart(ctx context.Context, f *flight, intended time.Time) {
	late := time.Since(intended)
	g.inFlight.Add(1)
	f.under.Go(func() {
		defer g.inFlight.Add(-1)
		err := g.send(ctx, int(g.next.Add(1)), maxLanes)
		took := time.Since(intended)
		if err != nil && ctx.Err() != nil {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.tally.late = append(f.tally.late, late)
		f.tally.count(took, err)
	})
}

// sleepUntil is back at the time, or at once when ctx ends. The last two milliseconds are left to [nap].
func sleepUntil(ctx context.Context, at time.Time) {
	if d := time.Until(at) - 2*time.Millisecond; d > 0 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(d):
		}
	}
	if d := time.Until(at); d > 0 {
		nap(d)
	}
}
