package server_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server"
)

// enterLater enters in a goroutine and returns once the request is in the queue.
func enterLater(ctx context.Context, t *testing.T, g *server.Gate) <-chan error {
	t.Helper()
	before, out := g.Waiting(), make(chan error, 1)
	go func() { out <- g.Enter(ctx) }()
	for deadline := time.Now().Add(10 * time.Second); g.Waiting() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
	}
	return out
}

// F2: as many compute as may; the others come in in the order in which they came; whoever pauses makes room, and goes on before
// those that have not begun.
func TestGateOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := server.NewGate(server.GateOptions{Requests: 10, Processors: 2})
		var order []string
		var mu sync.Mutex
		note := func(who string) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, who)
		}
		enter := func(who string) {
			go func() {
				must(t, g.Enter(t.Context()))
				note(who)
			}()
			synctest.Wait()
		}
		enter("first")
		enter("second")
		enter("third")
		enter("fourth")
		resume := g.Pause() // lets the third one in
		synctest.Wait()
		go func() {
			resume()
			note("first again")
		}()
		synctest.Wait()
		go func() {
			done := g.Compute() // for one that pauses
			note("for first")
			done()
		}()
		synctest.Wait()
		if got := strings.Join(order, ", "); got != "first, second, third" {
			t.Fatalf("they came in: %s", got)
		}
		for range 2 {
			g.Leave(t.Context())
			synctest.Wait()
		}
		if got := strings.Join(order, ", "); got != "first, second, third, first again, for first, fourth" {
			t.Fatalf("they came in: %s", got)
		}
		g.Leave(t.Context())
		g.Leave(t.Context())
		must(t, g.Enter(t.Context())) // nothing is left over
		must(t, g.Enter(t.Context()))
		if g.Waiting() != 0 {
			t.Errorf("%d wait", g.Waiting())
		}
	})
}

// F2 // F7: beyond its size, and behind a queue that does not move, the gate says no at once, and asks those it refuses to come back
// at different times.
func TestGateRefuses(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	now := func() time.Time { return time.Unix(0, clock.Load()) }
	g := server.NewGate(server.GateOptions{Requests: 3, Processors: 1, Patience: time.Second, Now: now})
	must(t, g.Enter(t.Context()))
	second := enterLater(t.Context(), t, g)
	must(t, g.Full(t.Context()))
	clock.Store(int64(time.Second + 1))
	// one that is let into the queue by mistake fails, and does not hang
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	refused := g.Enter(ctx)
	if fault.From(refused).Reason != fault.RateLimited || g.Full(t.Context()) == nil {
		t.Errorf("behind a queue that does not move: %v", refused)
	}
	clock.Store(0)
	third := enterLater(t.Context(), t, g)
	delays := map[time.Duration]bool{}
	for range 20 {
		f := fault.From(g.Enter(ctx))
		if f.Reason != fault.RateLimited || f.RetryAfter < time.Second || f.RetryAfter > 5*time.Second {
			t.Errorf("a fourth one: %v, after %s", f, f.RetryAfter)
		}
		delays[f.RetryAfter] = true
	}
	if len(delays) < 10 {
		t.Errorf("only %d different times to come back", len(delays))
	}
	g.Leave(t.Context())
	must(t, await(t, "the second", second))
	g.Leave(t.Context())
	must(t, await(t, "the third", third))
}

// F2: whoever leaves the queue makes room.
func TestGateCancel(t *testing.T) {
	t.Parallel()
	g := server.NewGate(server.GateOptions{Requests: 2, Processors: 1})
	must(t, g.Enter(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	second := enterLater(ctx, t, g)
	cancel()
	if err := await(t, "the end of the second", second); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	third := enterLater(t.Context(), t, g)
	g.Leave(t.Context())
	must(t, await(t, "the third", third))
}

// F2 // F12: whatever happens, no more compute than may, and in the end nobody is inside.
func TestGateRace(t *testing.T) {
	t.Parallel()
	const computing = 4
	g := server.NewGate(server.GateOptions{Requests: 20, Processors: computing, Patience: time.Hour})
	var busy, served, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			for range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%5 == 0 {
					go cancel()
				}
				err := g.Enter(ctx)
				switch {
				case err == nil:
					if n := busy.Add(1); n > computing {
						t.Errorf("%d compute", n)
					}
					runtime.Gosched()
					busy.Add(-1)
					resume := g.Pause()
					done := g.Compute()
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
					g.Leave(t.Context())
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
		must(t, g.Enter(t.Context()))
	}
	if g.Waiting() != 0 {
		t.Errorf("%d wait", g.Waiting())
	}
}

// F2 // F7: a server that is full refuses over both transports, before it looks at the token, with the reason and a time to come back;
// reads are answered, and when there is room again so are requests.
func TestOverload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	here := server.WithSource(t.Context(), "127.0.0.1")
	for range gateSize {
		must(t, w.gate.Enter(here))
	}
	asked := w.idp.Requests()
	_, err := w.grpc.CreateSigningCertificate(t.Context(), w.message("not a token"))
	st := status.Convert(err)
	var reason string
	var delay time.Duration
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			reason = d.GetReason()
		case *errdetails.RetryInfo:
			delay = d.GetRetryDelay().AsDuration()
		}
	}
	if st.Code() != codes.ResourceExhausted || reason != string(fault.RateLimited) || delay < time.Second || delay > 5*time.Second {
		t.Errorf("gRPC: %v, reason %s, retry after %s", st, reason, delay)
	}
	for _, path := range []string{"/api/v2/signingCert", "/api/v1/signingCert"} {
		a := w.rest(http.MethodPost, path, strings.Repeat("not JSON", 100), "X-Request-Id", "mine")
		seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
		if a.code != http.StatusTooManyRequests || err != nil || seconds < 1 || seconds > 5 || len(a.status.Details) != 2 ||
			a.status.Details[0].Reason != string(fault.RateLimited) || a.status.Details[0].Metadata["request_id"] != "mine" || a.status.Message != fault.RateLimited.Message() {
			t.Errorf("%s: %d, Retry-After %q, %s", path, a.code, a.header.Get("Retry-After"), a.body)
		}
	}
	if w.idp.Requests() != asked {
		t.Error("the provider was asked for a request that was refused")
	}
	if a := w.rest(http.MethodGet, "/api/v2/trustBundle", ""); a.code != http.StatusOK {
		t.Errorf("a read: %d", a.code)
	}
	if !strings.Contains(w.logs.String(), "requests refused") {
		t.Error("the log does not speak of refusals")
	}
	w.gate.Leave(here)
	if _, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(w.idp.Token(nil))); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// F2: refusals are given at once until they would take too much of the processors; those beyond wait for their turn, in bounded
// number and time, and are let in if there is room by then.
func TestRefusalsHaveAPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := server.NewGate(server.GateOptions{Requests: 1})
		must(t, g.Enter(t.Context()))
		second := 1000 * runtime.GOMAXPROCS(0) // refusals
		knock := func(ctx context.Context) (time.Duration, error) {
			began := time.Now()
			err := g.Knock(ctx)
			return time.Since(began), err
		}
		for i := range 5 * second {
			if took, err := knock(t.Context()); took != 0 || fault.From(err).Reason != fault.RateLimited {
				t.Fatalf("refusal %d took %s: %v", i, took, err)
			}
		}
		var took [8192]time.Duration
		var all sync.WaitGroup
		for i := range took {
			all.Go(func() {
				var err error
				if took[i], err = knock(t.Context()); fault.From(err).Reason != fault.RateLimited {
					t.Error(err)
				}
			})
			synctest.Wait() // one after the other
		}
		all.Wait()
		waited := 0
		for i, d := range took {
			if want := time.Duration(i+1) * time.Second / time.Duration(second); i < second && d != want || d > time.Second {
				t.Fatalf("refusal %d beyond the pace took %s, want %s", i, d, want)
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
		go func() { later <- g.Knock(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-later; fault.From(err).Reason != fault.RateLimited {
			t.Errorf("a caller who left: %v", err)
		}
		go func() { later <- g.Knock(t.Context()) }()
		synctest.Wait()
		g.Leave(t.Context())
		must(t, <-later)
		must(t, g.Enter(t.Context()))
		time.Sleep(time.Minute)
		if took, err := knock(t.Context()); took != 0 || err == nil {
			t.Errorf("after a minute of peace: %s, %v", took, err)
		}
	})
}
