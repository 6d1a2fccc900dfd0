package admission_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server/admission"
)

// F8: the queues of sources are served in turn, so that a source with a thousand requests delays another source by one
// request.
func TestAdmissionIsFair(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := admission.New(admission.Options{Requests: 100, Processors: 1, MaxWait: time.Hour})
		order := make(chan string, 100)
		enter := func(source string) {
			go func() {
				ctx := withSource(t.Context(), source)
				if err := c.Acquire(ctx); err != nil {
					order <- "refused " + source
					return
				}
				order <- source
				c.Release(ctx)
			}()
			synctest.Wait()
		}
		busy := withSource(t.Context(), "192.0.2.1")
		must(t, c.Acquire(busy))
		for range 50 {
			enter("192.0.2.1")
		}
		enter("192.0.2.2")
		enter("2001:db8::1")
		enter("2001:db8::2") // of the same /64
		c.Release(busy)
		synctest.Wait()
		first := map[string]int{}
		for i := range 53 {
			first[<-order] = i
		}
		if first["192.0.2.2"] != 1 || first["2001:db8::1"] != 2 || first["2001:db8::2"] != 4 {
			t.Errorf("they came in as %v", first)
		}
	})
}

// F8: a controller that one source has filled admits another source: instead of the newest request in the longest
// queue, or, if all requests have begun, beyond its capacity. The first source gets no further place.
func TestAdmissionGivesWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size = 64
		one, two := withSource(t.Context(), "192.0.2.1"), withSource(t.Context(), "192.0.2.2")
		for _, computing := range []int{1, size} { // all but one wait in the queue; all have begun
			c := admission.New(admission.Options{Requests: size, Processors: computing, MaxWait: time.Hour})
			results := make(chan error, size)
			ctx, cancel := context.WithCancel(one)
			for range size {
				go func() { results <- c.Acquire(ctx) }()
			}
			synctest.Wait()
			if err := c.Acquire(one); fault.From(err).Reason != fault.RateLimited {
				t.Fatalf("computing %d: one more of the same source: %v", computing, err)
			}
			in := make(chan error, 1)
			go func() { in <- c.Acquire(two) }()
			synctest.Wait()
			begun, refused := 0, 0
			for range len(results) {
				if err := <-results; err == nil {
					begun++
				} else if fault.From(err).Reason == fault.RateLimited {
					refused++
				}
			}
			switch {
			case computing == 1 && (begun != 1 || refused != 1 || c.Waiting() != size-1):
				t.Errorf("%d have begun, %d gave way, %d wait", begun, refused, c.Waiting())
			case computing == size && (begun != size || c.Waiting() != 1):
				t.Errorf("%d have begun, %d wait", begun, c.Waiting())
			}
			// the next turn is that of the other source, or of the first request in the queue of this one
			c.Release(one)
			g2 := 0
			for len(in) == 0 && g2 < 3 {
				synctest.Wait()
				if len(in) == 0 {
					<-results
					c.Release(one)
				}
				g2++
			}
			must(t, <-in)
			cancel()
			synctest.Wait()
		}
	})
}

// F8 // E8: requests that wait for an identity provider before their tokens are verified give up their places, and are
// bounded in total, by source and by entry; the places are returned.
func TestProviderWaits(t *testing.T) {
	t.Parallel()
	c := admission.New(admission.Options{Requests: 64, Processors: 64}) // 16 places
	waits := 0
	var resumes []func()
	wait := func(source, entry string) bool {
		ctx := withSource(t.Context(), source)
		must(t, c.Acquire(ctx))
		resume, err := c.AwaitProvider(ctx, entry)
		if err != nil {
			c.Release(ctx)
			return false
		}
		waits++
		resumes = append(resumes, func() { resume(); c.Release(ctx) })
		return true
	}
	for i := range 20 {
		wait("192.0.2.1", fmt.Sprintf("a%d", i))
	}
	if waits != 8 {
		t.Errorf("one source has %d of 16 places", waits)
	}
	for _, resume := range resumes {
		resume()
	}
	waits, resumes = 0, nil
	for i := range 20 {
		wait(fmt.Sprintf("192.0.2.%d", i+2), "a")
	}
	if waits != 8 {
		t.Errorf("one entry has %d of 16 places", waits)
	}
	for i := range 20 {
		wait(fmt.Sprintf("198.51.100.%d", i+2), fmt.Sprint(i))
	}
	if waits != 16 || waitsNow(c) != 16 {
		t.Errorf("%d wait, %d", waits, waitsNow(c))
	}
	full := withSource(t.Context(), "203.0.113.1")
	for range 64 { // waiting requests do not take places of the controller
		must(t, c.Acquire(full))
	}
	for range 64 {
		c.Release(full)
	}
	for _, resume := range resumes {
		resume()
	}
	if waitsNow(c) != 0 || !wait("192.0.2.1", "a") {
		t.Error("the places do not come back")
	}
}
