package server

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/server/admission"
)

// startingServer returns a server that is starting, and a function that begins requests of a source. answered counts
// those that do not wait, or do not wait any more.
func startingServer(t *testing.T) (s *Server, begin func(n int, source string), answered *atomic.Int64) {
	t.Helper()
	s = &Server{streams: newStreams(100), stopping: make(chan struct{})}
	s.SetStarting()
	answered = new(atomic.Int64)
	return s, func(n int, source string) {
		from := admission.SourceOf(netip.MustParseAddr(source))
		for range n {
			go func() {
				s.awaitStart(context.WithValue(t.Context(), admission.ContextKey{}, &from))
				answered.Add(1)
			}()
		}
		synctest.Wait()
	}, answered
}

// F3: requests that wait for the end of the start are limited, in total and by source. Those beyond a limit are
// answered at once.
func TestStartingRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, begin, answered := startingServer(t)
		for _, step := range []struct {
			n      int
			source string
			want   int64 // answered so far
		}{
			{64, "192.0.2.1", 0},
			{1000, "192.0.2.1", 1000},
			{36, "192.0.2.2", 1000},
			{10, "192.0.2.3", 1010},
		} {
			if begin(step.n, step.source); answered.Load() != step.want {
				t.Fatalf("%d of %s: %d are answered, want %d", step.n, step.source, answered.Load(), step.want)
			}
		}
		s.SetNotReady("maintenance")
		synctest.Wait()
		if n, _ := s.streams.starting.Taken(); answered.Load() != 1110 || n != 0 {
			t.Errorf("after the start: %d are answered, %d wait", answered.Load(), n)
		}
	})
}

// A start that fails ends the wait: a server that stops answers its requests at once.
func TestStartingFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, begin, answered := startingServer(t)
		began := time.Now()
		begin(3, "192.0.2.1")
		close(s.stopping) // as Serve does
		synctest.Wait()
		if answered.Load() != 3 || time.Since(began) != 0 {
			t.Errorf("%d are answered after %s", answered.Load(), time.Since(began))
		}
	})
}

// A request waits once, however many parts of the server it passes.
func TestStartingOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := startingServer(t)
		began := time.Now()
		ctx := &arrivalContext{Context: t.Context()}
		for range 3 {
			s.awaitStart(ctx)
		}
		if took := time.Since(began); took != startWait {
			t.Errorf("it waited for %s, want %s", took, startWait)
		}
	})
}
