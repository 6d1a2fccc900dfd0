package admission

import (
	"container/list"
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// Controller lets as many requests compute at once as there are processors. Further requests wait in a queue. A request
// for which the wait would be too long is refused at once.
//
// Requests that compute beside each other on too few processors all become slow; requests in a queue cost only memory.
// Therefore admitted requests are served at full speed under any load, and a processor is soon available for work that
// cannot wait: answers of logs, and refusals.
//
// A request that waits for a dependency (a log, a signing device) does not count among those that compute, and a
// resumed request has priority over new ones: see [Controller.Pause].
//
// The identity behind a request is not known before its token is verified. Therefore the controller is fair between
// sources (F8): each source has a queue of its own, the queues are served in turn, and when all places are taken, the
// newest request of the source with the longest queue is refused in favour of a request of a source that has fewer. One
// source alone may use all places. A request that waits for an identity provider before its token is verified gives up
// its place and takes one of a smaller budget: see [Controller.AwaitProvider].
type Controller struct {
	capacity   int           // requests that were acquired and not released: computing, paused and in the queues
	processors int           // requests that compute at once
	maxWait    time.Duration // a request joins no queue whose first request has waited longer than this
	now        func() time.Time
	resume     func() // [Controller.reenter] as a method value, made once
	pause      func() // [Controller.stop] with the lock held, made once
	refusals   *refusalLimiter
	providers  *providerBudget

	mu      sync.Mutex
	inside  int
	sources tally[Source] // requests that are inside, by source
	busy    int           // requests that compute now
	resumed list.List     // of *waiter: paused requests that wait for a processor to resume
	queues  map[Source]*sourceQueue
	turns   list.List // of *sourceQueue: the queues that are not empty, next turn first
	waiting int       // requests in all queues
}

// sourceQueue holds the requests of one source that have not begun.
type sourceQueue struct {
	source Source
	list   list.List // of *waiter
	turn   *list.Element
}

// waiter is a request that waits for a processor.
type waiter struct {
	since time.Time
	wake  chan struct{} // closed when the request may compute, or when it is refused
	err   error         // set before wake is closed: why the request is refused
}

// Defaults of a [Controller].
const (
	DefaultRequests = 1024
	DefaultMaxWait  = time.Second
)

// Options for [New]. The comment of each field gives the default for zero.
type Options struct {
	Requests   int // requests inside at once: [DefaultRequests]
	Processors int // requests that compute at once: GOMAXPROCS
	// if the first request of a queue has waited longer, no request joins the queue: [DefaultMaxWait]
	MaxWait time.Duration
	Now     func() time.Time // nil: time.Now
}

// New returns a controller that admits requests.
func New(o Options) *Controller {
	orDefault(&o.Requests, DefaultRequests)
	orDefault(&o.Processors, runtime.GOMAXPROCS(0))
	orDefault(&o.MaxWait, DefaultMaxWait)
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Controller{
		capacity: o.Requests, processors: o.Processors, maxWait: o.MaxWait, now: o.Now,
		refusals:  newRefusalLimiter(o.Processors),
		providers: newProviderBudget(max(minProviderWaits, o.Requests/4)),
		sources:   tally[Source]{}, queues: map[Source]*sourceQueue{},
	}
	c.resume, c.pause = c.reenter, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.stop()
	}
	return c
}

func orDefault[N int | time.Duration](v *N, otherwise N) {
	if *v <= 0 {
		*v = otherwise
	}
}

// Acquire returns when the request may compute. Its error is RATE_LIMITED (at once, or when the request is refused in
// favour of another source), or the cause of the end of ctx. After a nil error the caller MUST call
// [Controller.Release] with the same context.
func (c *Controller) Acquire(ctx context.Context) error {
	source := SourceIn(ctx)
	c.mu.Lock()
	if err := c.check(source); err != nil {
		c.mu.Unlock()
		return err
	}
	if c.inside >= c.capacity {
		c.displace(source)
	}
	c.inside++
	c.sources.add(source)
	if c.busy < c.processors && c.resumed.Len() == 0 && c.waiting == 0 {
		c.busy++
		c.mu.Unlock()
		return nil
	}
	w := &waiter{since: c.now(), wake: make(chan struct{})}
	place := c.enqueue(source, w)
	c.mu.Unlock()
	select {
	case <-w.wake:
		return w.err // a displaced request has already left
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-w.wake:
		if w.err != nil {
			return w.err
		}
		c.stop() // it was admitted at the moment at which its context ended
	default:
		c.dequeue(c.queues[source], place)
	}
	c.exit(source)
	return context.Cause(ctx)
}

// Release ends a request that Acquire admitted.
func (c *Controller) Release(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exit(SourceIn(ctx))
	c.stop()
}

// Check returns the error with which Acquire would refuse a request now, or nil.
func (c *Controller) Check(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.check(SourceIn(ctx))
}

// check is Check; the caller holds mu.
func (c *Controller) check(source Source) error {
	if c.inside >= c.capacity && c.longest(source) == nil && !c.reserved(source) {
		return overloaded(errFull)
	}
	if q := c.queues[source]; q != nil {
		if w, ok := q.list.Front().Value.(*waiter); ok && c.now().Sub(w.since) > c.maxWait {
			return overloaded(errSlow)
		}
	}
	return nil
}

// reserved reports whether a source that has almost nothing inside may exceed the capacity, because all places are
// taken by requests of other sources that have begun and cannot be displaced. The caller holds mu.
func (c *Controller) reserved(source Source) bool {
	return source.IsValid() && c.inside < c.capacity+max(1, c.capacity/8) && c.sources[source] < max(1, c.capacity/64)
}

// exit removes a request from the count of its source. The caller holds mu.
func (c *Controller) exit(source Source) {
	c.inside--
	c.sources.remove(source)
}

// enqueue puts w at the end of the queue of its source. The caller holds mu.
func (c *Controller) enqueue(source Source, w *waiter) *list.Element {
	q := c.queues[source]
	if q == nil {
		q = &sourceQueue{source: source}
		q.turn = c.turns.PushBack(q)
		c.queues[source] = q
	}
	c.waiting++
	return q.list.PushBack(w)
}

// dequeue removes a waiter from its queue. The caller holds mu.
func (c *Controller) dequeue(q *sourceQueue, place *list.Element) *waiter {
	w, _ := q.list.Remove(place).(*waiter)
	c.waiting--
	if q.list.Len() == 0 {
		c.turns.Remove(q.turn)
		delete(c.queues, q.source)
	}
	return w
}

// longest returns the longest queue of another source, if it is longer than the number of requests that source has
// inside. A request of source may then displace one of that queue. The caller holds mu.
func (c *Controller) longest(source Source) *sourceQueue {
	var out *sourceQueue
	for at := c.turns.Front(); at != nil; at = at.Next() {
		if q, ok := at.Value.(*sourceQueue); ok && q.source != source && (out == nil || q.list.Len() > out.list.Len()) {
			out = q
		}
	}
	if out == nil || out.list.Len() <= c.sources[source]+1 {
		return nil
	}
	return out
}

// displace refuses the newest request of the longest queue in favour of source, if there is such a queue. The caller
// holds mu.
func (c *Controller) displace(source Source) {
	if q := c.longest(source); q != nil {
		w := c.dequeue(q, q.list.Back())
		c.exit(q.source)
		w.err = overloaded(errFull)
		close(w.wake)
	}
}

// Pause gives the processor of an admitted request to others while the request waits for a dependency. The token of the
// request MUST have been verified. The caller MUST call resume when the request continues; resume may wait for a
// processor. A nil Controller does nothing.
func (c *Controller) Pause() (resume func()) {
	if c == nil {
		return func() {}
	}
	c.pause()
	return c.resume
}

// Compute waits for a processor on behalf of a paused request, with priority over new ones. The caller MUST call done,
// and MUST NOT wait for another request that computes. A nil Controller does not wait.
func (c *Controller) Compute() (done func()) {
	if c == nil {
		return func() {}
	}
	c.resume()
	return c.pause
}

// reenter returns when a paused request may compute again.
func (c *Controller) reenter() {
	c.mu.Lock()
	if c.busy < c.processors && c.resumed.Len() == 0 {
		c.busy++
		c.mu.Unlock()
		return
	}
	w := &waiter{wake: make(chan struct{})}
	c.resumed.PushBack(w)
	c.mu.Unlock()
	<-w.wake
}

// stop ends a computation. The caller holds mu.
func (c *Controller) stop() {
	c.busy--
	c.wake()
}

// wake admits the requests that can compute now. The caller holds mu.
func (c *Controller) wake() {
	for c.busy < c.processors {
		w := c.next()
		if w == nil {
			return
		}
		c.busy++
		close(w.wake)
	}
}

// next removes and returns the waiter that computes next: resumed requests first, then one of each source in turn. The
// caller holds mu.
func (c *Controller) next() *waiter {
	if first := c.resumed.Front(); first != nil {
		w, _ := c.resumed.Remove(first).(*waiter)
		return w
	}
	first := c.turns.Front()
	if first == nil {
		return nil
	}
	q, _ := first.Value.(*sourceQueue)
	c.turns.MoveToBack(first)
	return c.dequeue(q, q.list.Front())
}

// AwaitProvider gives up the place of an admitted request that waits for the identity provider of a configured entry
// before its token is verified. Such a request is unauthenticated: it takes a place of a separate budget, of which one
// source and one entry may each use one half. The error says that the budget has no place left; the request then keeps
// the place that it has. After a nil error the caller MUST call resume when the request continues; resume may wait for
// a processor. A nil Controller does nothing.
func (c *Controller) AwaitProvider(ctx context.Context, entry string) (resume func(), err error) {
	if c == nil {
		return func() {}, nil
	}
	source := SourceIn(ctx)
	if err := c.providers.take(source, entry); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.exit(source)
	c.stop()
	c.mu.Unlock()
	return func() {
		c.reenter()
		c.mu.Lock()
		c.inside++
		c.sources.add(source)
		c.mu.Unlock()
		c.providers.give(source, entry)
	}, nil
}

// Waiting returns the number of requests in the queues.
func (c *Controller) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting
}

// AwaitingProviders returns how many requests wait for an identity provider before their tokens are verified, and how
// many were refused because the budget for them was used up.
func (c *Controller) AwaitingProviders() (n int, refused uint64) { return c.providers.taken() }

// RefusalsWaiting returns how many requests wait to be refused.
func (c *Controller) RefusalsWaiting() int { return c.refusals.turns() }

// maxRetry is the longest time after which a refused client is told to try again. The time is random, so that clients
// that were refused together do not return together.
const maxRetry = 5 * time.Second

// overloaded returns the error of a request for which there is no capacity. No caller has exceeded a limit.
func overloaded(cause error) error {
	after := time.Second + rand.N(maxRetry-time.Second) //nolint:gosec // jitter, no secret
	return fault.New(fault.RateLimited, cause).By(fault.PartyUs).WithRetryAfter(after)
}

type admissionError string

func (e admissionError) Error() string { return string(e) }

const (
	errFull admissionError = "too many requests at once; raise limits.requests if the logs are slow, or add a server"
	errSlow admissionError = "the queue for a processor is too long; add a server"
)
