package admission_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server/admission"
)

// enterLater calls Acquire in a goroutine and returns once the request is in the queue.
func enterLater(ctx context.Context, t *testing.T, c *admission.Controller) <-chan error {
	t.Helper()
	before, out := c.Waiting(), make(chan error, 1)
	go func() { out <- c.Acquire(ctx) }()
	for deadline := time.Now().Add(10 * time.Second); c.Waiting() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no request waits")
		}
	}
	return out
}

// F2: at most the permitted number of requests compute at once; the others are admitted in the order of their arrival.
// A paused request gives up its place, and resumes before requests that have not begun.
func TestAdmissionOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := admission.New(admission.Options{Requests: 10, Processors: 2})
		var order []string
		var mu sync.Mutex
		note := func(who string) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, who)
		}
		enter := func(who string) {
			go func() {
				must(t, c.Acquire(t.Context()))
				note(who)
			}()
			synctest.Wait()
		}
		enter("first")
		enter("second")
		enter("third")
		enter("fourth")
		resume := c.Pause() // lets the third one in
		synctest.Wait()
		go func() {
			resume()
			note("first again")
		}()
		synctest.Wait()
		go func() {
			done := c.Compute() // for one that pauses
			note("for first")
			done()
		}()
		synctest.Wait()
		if got := strings.Join(order, ", "); got != "first, second, third" {
			t.Fatalf("they came in: %s", got)
		}
		for range 2 {
			c.Release(t.Context())
			synctest.Wait()
		}
		if got := strings.Join(order, ", "); got != "first, second, third, first again, for first, fourth" {
			t.Fatalf("they came in: %s", got)
		}
		c.Release(t.Context())
		c.Release(t.Context())
		must(t, c.Acquire(t.Context())) // no request is left
		must(t, c.Acquire(t.Context()))
		if c.Waiting() != 0 {
			t.Errorf("%d wait", c.Waiting())
		}
	})
}

// F2 // F7: when the controller is full, or the queue does not move, it refuses at once, and tells the refused clients
// different times to come back.
func TestAdmissionRefuses(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	now := func() time.Time { return time.Unix(0, clock.Load()) }
	c := admission.New(admission.Options{Requests: 3, Processors: 1, MaxWait: time.Second, Now: now})
	must(t, c.Acquire(t.Context()))
	second := enterLater(t.Context(), t, c)
	must(t, c.Check(t.Context()))
	clock.Store(int64(time.Second + 1))
	// a request that is admitted by mistake fails instead of hanging
	ctx, cancel := context.WithTimeout(t.Context(), maxWait)
	defer cancel()
	refused := c.Acquire(ctx)
	if fault.From(refused).Reason != fault.RateLimited || c.Check(t.Context()) == nil {
		t.Errorf("behind a queue that does not move: %v", refused)
	}
	clock.Store(0)
	third := enterLater(t.Context(), t, c)
	delays := map[time.Duration]bool{}
	for range 20 {
		f := fault.From(c.Acquire(ctx))
		if f.Reason != fault.RateLimited || f.RetryAfter < time.Second || f.RetryAfter > 5*time.Second {
			t.Errorf("a fourth one: %v, after %s", f, f.RetryAfter)
		}
		delays[f.RetryAfter] = true
	}
	if len(delays) < 10 {
		t.Errorf("only %d different times to come back", len(delays))
	}
	c.Release(t.Context())
	must(t, await(t, "the second", second))
	c.Release(t.Context())
	must(t, await(t, "the third", third))
}

// F2: a request whose context ends leaves the queue.
func TestAdmissionCancel(t *testing.T) {
	t.Parallel()
	c := admission.New(admission.Options{Requests: 2, Processors: 1})
	must(t, c.Acquire(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	second := enterLater(ctx, t, c)
	cancel()
	if err := await(t, "the end of the second", second); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	third := enterLater(t.Context(), t, c)
	c.Release(t.Context())
	must(t, await(t, "the third", third))
}

// F2 // F12: at no time do more requests compute than permitted, and in the end no request is inside.
func TestAdmissionRace(t *testing.T) {
	t.Parallel()
	const computing = 4
	c := admission.New(admission.Options{Requests: 20, Processors: computing, MaxWait: time.Hour})
	var busy, served, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			for range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%5 == 0 {
					go cancel()
				}
				err := c.Acquire(ctx)
				switch {
				case err == nil:
					if n := busy.Add(1); n > computing {
						t.Errorf("%d compute", n)
					}
					runtime.Gosched()
					busy.Add(-1)
					resume := c.Pause()
					done := c.Compute()
					if n := busy.Add(1); n > computing {
						t.Errorf("%d compute beside those that pause", n)
					}
					busy.Add(-1)
					done()
					resume()
					if n := busy.Add(1); n > computing {
						t.Errorf("%d compute after a pause", n)
					}
					busy.Add(-1)
					c.Release(t.Context())
					served.Add(1)
				case !errors.Is(err, context.Canceled):
					refused.Add(1)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if served.Load() == 0 {
		t.Errorf("%d served, %d refused", served.Load(), refused.Load())
	}
	for range computing {
		must(t, c.Acquire(t.Context()))
	}
	if c.Waiting() != 0 {
		t.Errorf("%d wait", c.Waiting())
	}
}

// F2: refusals are sent at once until they would use too much of the processors; further ones wait for their turn, in
// bounded number and time, and are admitted if there is room by then.
func TestRefusalLimiter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := admission.New(admission.Options{Requests: 1})
		must(t, c.Acquire(t.Context()))
		second := 1000 * runtime.GOMAXPROCS(0) // refusals
		acquire := func(ctx context.Context) (time.Duration, error) {
			began := time.Now()
			err := c.Precheck(ctx)
			return time.Since(began), err
		}
		for i := range 5 * second {
			if took, err := acquire(t.Context()); took != 0 || fault.From(err).Reason != fault.RateLimited {
				t.Fatalf("refusal %d took %s: %v", i, took, err)
			}
		}
		var took [8192]time.Duration
		var all sync.WaitGroup
		for i := range took {
			all.Go(func() {
				var err error
				if took[i], err = acquire(t.Context()); fault.From(err).Reason != fault.RateLimited {
					t.Error(err)
				}
			})
			synctest.Wait() // one after the other
		}
		all.Wait()
		waited := 0
		for i, d := range took {
			want := time.Duration(i+1) * time.Second / time.Duration(second)
			if i < second && (d-want).Abs() > time.Microsecond || d > time.Second { // tokens are floating point
				t.Fatalf("refusal %d beyond the burst took %s, want %s", i, d, want)
			}
			if d > 0 {
				waited++
			}
		}
		if waited > 4096 || waited < min(second, 4096) {
			t.Errorf("%d waited", waited)
		}

		ctx, cancel := context.WithCancel(t.Context())
		later := make(chan error, 2)
		go func() { later <- c.Precheck(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-later; fault.From(err).Reason != fault.RateLimited {
			t.Errorf("a caller who left: %v", err)
		}
		go func() { later <- c.Precheck(t.Context()) }()
		synctest.Wait()
		c.Release(t.Context())
		must(t, <-later)
		must(t, c.Acquire(t.Context()))
		time.Sleep(time.Minute)
		if took, err := acquire(t.Context()); took != 0 || err == nil {
			t.Errorf("after a minute of peace: %s, %v", took, err)
		}
	})
}
