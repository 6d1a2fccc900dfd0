package server

import (
	"container/list"
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// Gate lets as many requests compute at once as the processors can serve, has further ones wait in the order in which they came,
// and refuses at once those for which waiting would take too long. A request that waits for somebody else (a log, a provider, a
// signing device) does not count among those that compute, and goes before those that have not begun when it goes on: see [Gate.Pause].
//
// Requests that compute beside each other on too few processors all get slower; requests in a queue cost memory and nothing else.
// Whatever comes in, those that have been let in are served at the speed of the processors, and a processor is soon there for
// what cannot wait: answers of logs, and refusals.
type Gate struct {
	most      int           // requests inside at once: computing, pausing and in the queue
	computing int           // of them, at once
	patience  time.Duration // nobody joins a queue whose first has waited for longer
	now       func() time.Time
	acquire   func() // made once: [Gate.resume], for Pause
	release   func() // made once, for Compute
	refusals  *pace

	mu     sync.Mutex
	inside int
	busy   int       // computing now
	begun  list.List // those that go on
	queue  list.List // those that have not begun
}

// waiter is a request in the queue.
type waiter struct {
	since time.Time
	enter chan struct{} // closed when it may compute
}

// Defaults of a [Gate].
const (
	DefaultRequests = 1024
	DefaultPatience = time.Second
)

// GateOptions for [NewGate]. A zero field has the default that its comment gives.
type GateOptions struct {
	Requests   int              // inside at once: [DefaultRequests]
	Processors int              // as many requests compute at once: GOMAXPROCS
	Patience   time.Duration    // how long the first of the queue may have waited when one more joins: [DefaultPatience]
	Now        func() time.Time // nil: time.Now
}

// NewGate returns an open gate.
func NewGate(o GateOptions) *Gate {
	processors := positive(o.Processors, runtime.GOMAXPROCS(0))
	g := &Gate{
		most: positive(o.Requests, DefaultRequests), computing: processors,
		patience: positive(o.Patience, DefaultPatience), now: o.Now, refusals: newPace(processors),
	}
	if g.now == nil {
		g.now = time.Now
	}
	g.acquire, g.release = g.resume, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.rest()
	}
	return g
}

// Enter returns when the request may compute. Its error is RATE_LIMITED, at once, or the end of ctx. After a nil error the
// caller MUST call [Gate.Leave].
func (g *Gate) Enter(ctx context.Context) error {
	g.mu.Lock()
	if err := g.full(); err != nil {
		g.mu.Unlock()
		return err
	}
	g.inside++
	if g.busy < g.computing && g.begun.Len()+g.queue.Len() == 0 {
		g.busy++
		g.mu.Unlock()
		return nil
	}
	w := &waiter{since: g.now(), enter: make(chan struct{})}
	place := g.queue.PushBack(w)
	g.mu.Unlock()
	select {
	case <-w.enter:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-w.enter: // let in while it was leaving
		g.rest()
	default:
		g.queue.Remove(place)
	}
	g.inside--
	return context.Cause(ctx)
}

// Leave ends what a successful Enter began.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.rest()
}

// Pause says that a request that was let in waits for somebody else; it MUST call resume when it goes on, which may wait for a
// processor. A nil gate pauses nothing.
func (g *Gate) Pause() (resume func()) {
	if g == nil {
		return func() {}
	}
	g.release()
	return g.acquire
}

// Compute waits for a processor on behalf of a request that pauses, before those that have not begun, and MUST be followed by done.
// Whoever computes MUST NOT wait for another one that does. A nil gate does not wait.
func (g *Gate) Compute() (done func()) {
	if g == nil {
		return func() {}
	}
	g.acquire()
	return g.release
}

// resume returns when a request that has begun may compute: those that have begun are finished first.
func (g *Gate) resume() {
	g.mu.Lock()
	if g.busy < g.computing && g.begun.Len() == 0 {
		g.busy++
		g.mu.Unlock()
		return
	}
	w := &waiter{enter: make(chan struct{})}
	g.begun.PushBack(w)
	g.mu.Unlock()
	<-w.enter
}

// rest ends a computation. It needs mu.
func (g *Gate) rest() {
	g.busy--
	g.admit()
}

// Waiting is how many requests are in the queue.
func (g *Gate) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.queue.Len()
}

// Full returns the error of an Enter that would be refused now, or nil.
func (g *Gate) Full() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.full()
}

// full needs mu.
func (g *Gate) full() error {
	if g.inside >= g.most {
		return overloaded(errFull)
	}
	if first := g.queue.Front(); first != nil {
		if w, ok := first.Value.(*waiter); ok && g.now().Sub(w.since) > g.patience {
			return overloaded(errSlow)
		}
	}
	return nil
}

// admit lets those in who can compute now. It needs mu.
func (g *Gate) admit() {
	for g.busy < g.computing {
		from := &g.begun
		if from.Len() == 0 {
			from = &g.queue
		}
		first := from.Front()
		if first == nil {
			return
		}
		if w, ok := from.Remove(first).(*waiter); ok {
			g.busy++
			close(w.enter)
		}
	}
}

// maxRetry is after how long, at most, a refused client is asked to try again. Clients that were refused together are asked to
// come back apart.
const maxRetry = 5 * time.Second

func overloaded(cause error) error {
	return fault.New(fault.RateLimited, cause).WithRetryAfter(time.Second + rand.N(maxRetry-time.Second)) //nolint:gosec // jitter, no secret
}

type gateError string

func (e gateError) Error() string { return string(e) }

const (
	errFull gateError = "too many requests are inside; raise limits.requests if the logs are slow, or add a server"
	errSlow gateError = "the queue is too slow; add a server"
)
