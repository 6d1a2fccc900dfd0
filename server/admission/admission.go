package server

import (
	"container/list"
	"context"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// Gate lets as many requests compute at once as the processors can serve, has further ones wait, and refuses at once
// those for which waiting would take too long. A request that waits for a dependency (a log, a provider, a signing
// device) does not count among those that compute, and has priority over those that have not begun when it goes on: see
// [Gate.Pause].
//
// Requests that compute beside each other on too few processors all get slower; requests in a queue cost memory and nothing else.
// Whatever comes in, those that have been let in are served at the speed of the processors, and a processor is soon there for
// what cannot wait: answers of logs, and refusals.
//
// What a request proves is not known before its token is verified, so that the gate is fair between source addresses
// (F8): each source has a queue of its own, the queues are served in turns, and when there is no room the newest
// request of the source with the longest queue gives way to a request of a source that has less. One source alone may
// use the whole gate. A request that waits for an identity provider before its token is verified leaves the gate and
// takes a place of a smaller budget: see [Gate.AwaitProvider].
type Gate struct {
	most      int           // requests inside at once: computing, pausing and in the queues
	computing int           // of them, at once
	patience  time.Duration // nobody joins a queue whose first has waited for longer
	now       func() time.Time
	acquire   func() // made once: [Gate.resume], for Pause
	release   func() // made once, for Compute
	refusals  *pace
	providers *waitBudget

	mu      sync.Mutex
	inside  int
	sources tally[netip.Addr] // of inside, by source
	busy    int               // computing now
	begun   list.List         // of *waiter: requests that go on
	queues  map[netip.Addr]*sourceQueue
	turns   list.List // of *sourceQueue: those with waiters, the next one first
	waiting int       // in all queues
}

// sourceQueue has the requests of one source that have not begun.
type sourceQueue struct {
	key  netip.Addr
	list list.List // of *waiter
	turn *list.Element
}

// waiter is a request in a queue.
type waiter struct {
	since time.Time
	enter chan struct{} // closed when it may compute, or when it is displaced
	err   error         // set before enter is closed: why it may not compute
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
	Patience   time.Duration    // how long the first of a queue may have waited when one more joins: [DefaultPatience]
	Now        func() time.Time // nil: time.Now
}

// NewGate returns an open gate.
func NewGate(o GateOptions) *Gate {
	processors := positive(o.Processors, runtime.GOMAXPROCS(0))
	g := &Gate{
		most: positive(o.Requests, DefaultRequests), computing: processors,
		patience: positive(o.Patience, DefaultPatience), now: o.Now, refusals: newPace(processors),
		sources: tally[netip.Addr]{}, queues: map[netip.Addr]*sourceQueue{},
	}
	g.providers = newWaitBudget(max(minProviderWaits, g.most/4))
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

// Enter returns when the request may compute. Its error is RATE_LIMITED (at once, or when the request gives way to
// another source), or the end of ctx. After a nil error the caller MUST call [Gate.Leave] with the same context.
func (g *Gate) Enter(ctx context.Context) error {
	key := sourceIn(ctx)
	g.mu.Lock()
	if err := g.full(key); err != nil {
		g.mu.Unlock()
		return err
	}
	if g.inside >= g.most {
		g.displace(key)
	}
	g.inside++
	g.sources.add(key)
	if g.busy < g.computing && g.begun.Len() == 0 && g.waiting == 0 {
		g.busy++
		g.mu.Unlock()
		return nil
	}
	w := &waiter{since: g.now(), enter: make(chan struct{})}
	place := g.enqueue(key, w)
	g.mu.Unlock()
	select {
	case <-w.enter:
		return w.err // of one that was displaced; it is not inside any more
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-w.enter:
		if w.err != nil {
			return w.err
		}
		g.rest() // let in while it was leaving
	default:
		g.dequeue(g.queues[key], place)
	}
	g.exit(key)
	return context.Cause(ctx)
}

// Leave ends what a successful Enter began.
func (g *Gate) Leave(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.exit(sourceIn(ctx))
	g.rest()
}

// exit takes a request of a source out of the gate. It needs mu.
func (g *Gate) exit(key netip.Addr) {
	g.inside--
	g.sources.remove(key)
}

// enqueue puts w at the end of the queue of its source. It needs mu.
func (g *Gate) enqueue(key netip.Addr, w *waiter) *list.Element {
	q := g.queues[key]
	if q == nil {
		q = &sourceQueue{key: key}
		q.turn = g.turns.PushBack(q)
		g.queues[key] = q
	}
	g.waiting++
	return q.list.PushBack(w)
}

// dequeue removes a waiter from its queue. It needs mu.
func (g *Gate) dequeue(q *sourceQueue, place *list.Element) *waiter {
	w, _ := q.list.Remove(place).(*waiter)
	g.waiting--
	if q.list.Len() == 0 {
		g.turns.Remove(q.turn)
		delete(g.queues, q.key)
	}
	return w
}

// longest is the queue that a request of this source may displace one from: it is longer than what the source has
// inside. It needs mu.
func (g *Gate) longest(key netip.Addr) *sourceQueue {
	var out *sourceQueue
	for at := g.turns.Front(); at != nil; at = at.Next() {
		if q, ok := at.Value.(*sourceQueue); ok && q.key != key && (out == nil || q.list.Len() > out.list.Len()) {
			out = q
		}
	}
	if out == nil || out.list.Len() <= g.sources[key]+1 {
		return nil
	}
	return out
}

// displace refuses the newest request of the longest queue, if there is one that may be. It needs mu.
func (g *Gate) displace(key netip.Addr) {
	if q := g.longest(key); q != nil {
		w := g.dequeue(q, q.list.Back())
		g.exit(q.key)
		w.err = overloaded(errFull)
		close(w.enter)
	}
}

// Pause says that a request that was let in waits for a dependency, and that its token was verified; it MUST call
// resume when it goes on, which may wait for a processor. A nil gate pauses nothing.
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

// AwaitProvider says that a request that was let in waits for the identity provider of a configured entry before its
// token is verified. Such a request has proved nothing, so that it leaves the gate and takes a place of a budget of its
// own, of which one source and one entry may each have one half. The error says that there is no place; the request
// then still has its place in the gate. After a nil error the caller MUST call resume when the request goes on, which
// may wait for a processor. A nil gate pauses nothing.
func (g *Gate) AwaitProvider(ctx context.Context, entry string) (resume func(), err error) {
	if g == nil {
		return func() {}, nil
	}
	key := sourceIn(ctx)
	if err := g.providers.take(key, entry); err != nil {
		return nil, err
	}
	g.mu.Lock()
	g.exit(key)
	g.rest()
	g.mu.Unlock()
	return func() {
		g.resume()
		g.mu.Lock()
		g.inside++
		g.sources.add(key)
		g.mu.Unlock()
		g.providers.give(key, entry)
	}, nil
}

// Waiting is how many requests are in the queues for a processor.
func (g *Gate) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting
}

// AwaitingProviders is how many requests wait for an identity provider before their tokens are verified.
func (g *Gate) AwaitingProviders() int { return g.providers.taken() }

// Full returns the error of an Enter that would be refused now, or nil.
func (g *Gate) Full(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.full(sourceIn(ctx))
}

// full needs mu.
func (g *Gate) full(key netip.Addr) error {
	if g.inside >= g.most && g.longest(key) == nil && !g.reserved(key) {
		return overloaded(errFull)
	}
	if q := g.queues[key]; q != nil {
		if w, ok := q.list.Front().Value.(*waiter); ok && g.now().Sub(w.since) > g.patience {
			return overloaded(errSlow)
		}
	}
	return nil
}

// reserved reports whether there is a place for a source that has next to nothing in a gate whose places are all taken
// by requests of others that cannot be displaced, because they have begun. It needs mu.
func (g *Gate) reserved(key netip.Addr) bool {
	return key.IsValid() && g.inside < g.most+max(1, g.most/8) && g.sources[key] < max(1, g.most/64)
}

// admit lets those in who can compute now. It needs mu.
func (g *Gate) admit() {
	for g.busy < g.computing {
		w := g.next()
		if w == nil {
			return
		}
		g.busy++
		close(w.enter)
	}
}

// next takes the request that computes next out of where it waits: those that have begun first, then one of each source
// in turn. It needs mu.
func (g *Gate) next() *waiter {
	if first := g.begun.Front(); first != nil {
		w, _ := g.begun.Remove(first).(*waiter)
		return w
	}
	first := g.turns.Front()
	if first == nil {
		return nil
	}
	q, _ := first.Value.(*sourceQueue)
	g.turns.MoveToBack(first)
	return g.dequeue(q, q.list.Front())
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
