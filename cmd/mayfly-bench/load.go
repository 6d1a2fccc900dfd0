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

// generator makes requests in one of two ways. In a closed loop, callers wait for their answers and respect
// Retry-After: a slow server gets fewer requests. In an open loop, requests arrive at a fixed rate, whether earlier
// ones were answered or not, like those of many independent clients.
type generator struct {
	send     func(ctx context.Context, i, lanes int) error // makes the i-th request over one of the first lanes
	bound    int64                                         // requests in flight in an open loop
	left     *atomic.Int64                                 // requests that may still be made
	next     atomic.Int64
	inFlight atomic.Int64
}

// perLane is the number of concurrent requests on one gRPC connection: the usual limit of servers.
const perLane = 256

const (
	maxInFlight = 2048 // in an open loop: more than a server accepts (limits.requests), so that it must refuse some
	maxLanes    = maxBenchCallers / perLane
)

// lanes are clients with separate connections, enough for the requests in flight.
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

// over reports whether no further request may be made.
func (g *generator) over(ctx context.Context) bool { return ctx.Err() != nil || g.left.Load() <= 0 }

// tally counts the results of requests. Each request is served, refused, failed or unsent, except those that were cut
// off because the run was interrupted.
type tally struct {
	served, refused []time.Duration // latencies
	failed, unsent  int
	late            []time.Duration // how far behind the generator was, in an open loop
	first           string          // first failure; the first refusal if nothing failed
}

// count adds the result of a request, and returns how long a refused caller must wait.
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

// closed makes n callers send requests for the given time. A request in progress may end: only the end of ctx cancels
// it.
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

// poisson returns the arrival times of a Poisson process after its start, one for each call: the gaps between
// independent arrivals are exponential, with a mean of one over the rate.
func poisson(perSecond float64, random *rand.Rand) func() time.Duration {
	at := 0.0
	return func() time.Duration {
		at += random.ExpFloat64() / perSecond
		return time.Duration(at * float64(time.Second))
	}
}

// flight is the set of requests of an open loop.
type flight struct {
	mu    sync.Mutex
	tally tally
	under sync.WaitGroup
	ended time.Time // the last arrival
}

// wait returns when each request has been answered.
func (f *flight) wait() tally {
	f.under.Wait()
	return f.tally
}

// open starts requests for the given time, and returns at its end; [flight.wait] waits for the answers. Latency counts
// from the intended arrival, even if the request was made late. No request is repeated: each arrival is a different
// client.
func (g *generator) open(ctx context.Context, perSecond float64, during time.Duration) *flight {
	f := &flight{}
	next := poisson(perSecond, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))) //nolint:gosec // no secret
	began := time.Now()
	for at := next(); at < during && ctx.Err() == nil; at = next() {
		intended := began.Add(at)
		sleepUntil(ctx, intended)
		if time.Since(began) > during || g.inFlight.Load() >= g.bound {
			f.unsent() // the generator is too far behind, or too many requests are in flight
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

// depart makes a request whose intended time has come.
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

// sleepUntil returns at the given time, or at once when ctx ends. It sleeps the last two milliseconds with [nap].
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
