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

// generator sends requests in one of two ways. In a closed loop, callers wait for the responses and respect
// Retry-After, so a slow server gets fewer requests. In an open loop, requests arrive independently of the responses,
// as those of many independent clients do.
type generator struct {
	// sends the i-th request over one of the first lanes connections
	send     func(ctx context.Context, i, lanes int) error
	bound    int64         // limit of requests in flight in an open loop
	left     *atomic.Int64 // number of requests that may still be sent
	next     atomic.Int64
	inFlight atomic.Int64
}

// perLane is the number of concurrent requests on one gRPC connection, which is the limit of servers.
const perLane = 256

const (
	maxInFlight = 2048 // in an open loop: more than a server admits (limits.requests), so that it must refuse some
	maxLanes    = maxBenchCallers / perLane
)

// lanes are clients with separate connections, enough for all requests that can be in flight.
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

// over reports whether no further request may be sent.
func (g *generator) over(ctx context.Context) bool { return ctx.Err() != nil || g.left.Load() <= 0 }

// tally counts the results of requests. Each request is in one of served, refused, failed and unsent, unless the run
// was interrupted before the response.
type tally struct {
	served, refused []time.Duration // latencies
	failed, unsent  int
	late            []time.Duration // delays of the generator behind the intended arrivals, in an open loop
	first           string          // text of the first failure, or of the first refusal if nothing failed
}

// count adds a result, and returns how long the caller must wait after a refusal.
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

// closed lets n callers send requests for a duration. Requests that have been sent may finish unless ctx ends.
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

// poisson returns a function that returns the next arrival time of a Poisson process. The gaps between independent
// arrivals are exponentially distributed with a mean of 1/perSecond.
func poisson(perSecond float64, random *rand.Rand) func() time.Duration {
	at := 0.0
	return func() time.Duration {
		at += random.ExpFloat64() / perSecond
		return time.Duration(at * float64(time.Second))
	}
}

// flight has the requests of an open loop.
type flight struct {
	mu    sync.Mutex
	tally tally
	under sync.WaitGroup
	ended time.Time // time of the last arrival
}

// wait waits for all responses.
func (f *flight) wait() tally {
	f.under.Wait()
	return f.tally
}

// open sends requests at random arrival times for a duration; [flight.wait] waits for the responses. Latency counts
// from the intended arrival, even if the request was sent later. No request is repeated, because each arrival simulates
// a different client.
func (g *generator) open(ctx context.Context, perSecond float64, during time.Duration) *flight {
	f := &flight{}
	next := poisson(perSecond, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))) //nolint:gosec // the numbers need not be secret
	began := time.Now()
	for at := next(); at < during && ctx.Err() == nil; at = next() {
		intended := began.Add(at)
		sleepUntil(ctx, intended)
		if time.Since(began) > during || g.inFlight.Load() >= g.bound {
			f.unsent() // the step is over, or too many requests are in flight
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

// depart sends a request whose intended time of arrival is intended.
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

// sleepUntil sleeps until the time at, or until ctx ends. It uses [nap] for the last two milliseconds.
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
