package shared_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/rate"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/server/shared"
	"github.com/mayfly-ca/mayfly/server/uses"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
	"github.com/mayfly-ca/mayfly/testkit/spans"
)

// token is a use of a new token that was issued now, seen from a store that was new a few seconds ago.
func token(most int) uses.Use {
	u := uses.Use{
		Entry: "e", Most: most, IssuedAt: time.Now().Add(3 * time.Second), Expires: time.Now().Add(10 * time.Minute),
	}
	_, _ = rand.Read(u.Key[:])
	return u
}

// client is one server that counts in a store.
type client struct {
	*shared.Store
	local *uses.Local
	log   *logbuf.Buffer
}

func connect(t *testing.T, c shared.ValkeyConfig) *client {
	t.Helper()
	began := time.Now()
	local, err := uses.Open(uses.Options{Elapsed: func() time.Duration { return time.Hour + time.Since(began) }})
	if err != nil {
		t.Fatal(err)
	}
	out := &client{local: local, log: &logbuf.Buffer{}}
	config := shared.Config{Valkey: &c}
	if err := config.Check(); err != nil {
		t.Fatal(err)
	}
	out.Store, err = shared.Open(config, shared.Options{
		Local:  local,
		Logger: slog.New(slog.NewJSONHandler(out.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	out.Start(context.Background())
	t.Cleanup(out.Close)
	return out
}

func (c *client) spend(t *testing.T, u uses.Use, want uses.Result) {
	t.Helper()
	got, err := c.Spend(t.Context(), u)
	accepted := want == uses.Counted || want == uses.Uncounted
	if got != want || accepted != (err == nil) {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	var e *uses.Error
	if err != nil && (!errors.As(err, &e) || e.Result != got) {
		t.Errorf("the error %v is not that of %s", err, got)
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come true: %s", what)
		}
	}
}

// race uses one token from several clients at once, and returns how many uses were counted and how many replayed.
func race(clients []*client, u uses.Use, tries int) (counted, replayed int) {
	var wg sync.WaitGroup
	var yes, no atomic.Int32
	for n := range tries {
		wg.Go(func() {
			switch result, err := clients[n%len(clients)].Spend(context.Background(), u); {
			case result == uses.Counted && err == nil:
				yes.Add(1)
			case result == uses.Replayed && fault.From(err).Reason == fault.TokenReplayed:
				no.Add(1)
			}
		})
	}
	wg.Wait()
	return int(yes.Load()), int(no.Load())
}

func small(address string) shared.ValkeyConfig {
	return shared.ValkeyConfig{Addresses: []string{address}, Timeout: 5 * time.Second}
}

// D20: a token that is used 1,000 times at once at three servers gets exactly as many certificates as allowed.
func TestRace(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	clients := []*client{connect(t, small(m.Addr())), connect(t, small(m.Addr())), connect(t, small(m.Addr()))}
	for _, most := range []int{1, 5} {
		// On a busy machine calls can take longer than the timeout; then none may be counted too often, and another
		// token is tried.
		for attempt := 1; ; attempt++ {
			counted, replayed := race(clients, token(most), 1000)
			if counted > most {
				t.Fatalf("at most %d: %d counted", most, counted)
			}
			if counted == most && replayed == 1000-most {
				break
			}
			if counted+replayed == 1000 || attempt == 10 {
				t.Fatalf("at most %d: %d counted, %d replayed", most, counted, replayed)
			}
			for _, c := range clients {
				eventually(t, "the store answers", func() bool { cause, _ := c.Health(); return cause == "" })
			}
		}
	}
}

// D20: the store has hashes, which expire after their tokens.
func TestStored(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	config := small(m.Addr())
	config.KeyPrefix = "ca-1:"
	c := connect(t, config)
	u := token(3)
	c.spend(t, u, uses.Counted)
	c.spend(t, u, uses.Counted)
	if wait, err := c.Take(t.Context(), rate.Config{Rate: 1, Burst: 1}, "identity", "alice@example.com"); wait != 0 ||
		err != nil {
		t.Error(wait, err)
	}
	used, rates := 0, 0
	for _, key := range m.Keys() {
		ttl := m.TTL(key)
		switch {
		case !strings.HasPrefix(key, "ca-1:"), strings.Contains(key, "alice"):
			t.Errorf("a key %q", key)
		case strings.Contains(key, "}:"):
			used++
			if v, _ := m.Get(key); v != "2" || ttl < 10*time.Minute || ttl > 13*time.Minute {
				t.Errorf("%s: %s, expires after %s", key, v, ttl)
			}
		case strings.Contains(key, "rate:"):
			rates++
			if ttl <= 0 || ttl > 2*time.Second {
				t.Errorf("%s expires after %s", key, ttl)
			}
		}
	}
	if used != 1 || rates != 1 {
		t.Errorf("%d tokens and %d rates in %v", used, rates, m.Keys())
	}
}

// D20: a token that is older than the memory of the store is refused, unless its entry says otherwise. That also holds
// after the store has lost all, or the end of its memory.
func TestLoss(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	c, other := connect(t, small(m.Addr())), connect(t, small(m.Addr()))
	old := token(1)
	old.IssuedAt = time.Now().Add(-time.Minute)
	c.spend(t, old, uses.Unknown)
	old.IssueUncounted = true
	c.spend(t, old, uses.Uncounted)
	other.spend(t, old, uses.Replayed)

	u := token(1)
	c.spend(t, u, uses.Counted)
	m.FlushAll()
	u.IssuedAt = time.Now().Add(-time.Second)
	other.spend(t, u, uses.Unknown)
	fresh := token(1)
	c.spend(t, fresh, uses.Counted)
	other.spend(t, fresh, uses.Replayed)
	if !strings.Contains(c.log.String()+other.log.String(), "does not have all uses") {
		t.Error("the loss is not in the log")
	}

	// The end of the memory is lost: the number of uses in a group is smaller than what was acknowledged.
	late := token(2)
	c.spend(t, late, uses.Counted)
	group := "mayfly:use:{" + strconv.Itoa(int(late.Key[1])%32) + "}"
	seq, err := strconv.Atoi(m.HGet(group, "seq"))
	if err != nil {
		t.Fatal(err)
	}
	m.HSet(group, "seq", strconv.Itoa(seq-1), "born", "1000")
	late.IssuedAt = time.Now().Add(-time.Second)
	c.spend(t, late, uses.Unknown)
}

// D20: without an answer, uses are refused, or counted in this process, as the entry says; rates are left to the
// caller. When the store answers again, it is used again.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	config := small(m.Addr())
	config.Timeout = 200 * time.Millisecond
	c := connect(t, config)
	u := token(1)
	c.spend(t, u, uses.Counted)
	m.SetError("ERR out of order")
	eventually(t, "the store is found not to answer", func() bool { cause, _ := c.Health(); return cause != "" })
	strict, lenient := token(1), token(2)
	lenient.IssueUncounted = true
	c.spend(t, strict, uses.Unavailable)
	_, err := c.Spend(t.Context(), strict)
	if f := fault.From(err); f.Reason != fault.BudgetUnavailable || f.Party != fault.PartyStore || f.RetryAfter == 0 {
		t.Errorf("%+v", f)
	}
	c.spend(t, lenient, uses.Uncounted)
	c.spend(t, lenient, uses.Uncounted)
	c.spend(t, lenient, uses.Replayed)
	c.spend(t, u, uses.Replayed) // this process knows
	if _, err := c.Take(t.Context(), rate.Config{Rate: 1, Burst: 1}, "x"); err == nil {
		t.Error("a rate is counted without a store")
	}
	began := time.Now()
	for range 1000 {
		_, _ = c.Spend(t.Context(), strict)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("1,000 uses took %s although the store is known not to answer", took)
	}
	m.SetError("")
	eventually(t, "the store answers", func() bool { cause, _ := c.Health(); return cause == "" })
	c.spend(t, strict, uses.Counted)
	registry := prometheus.NewRegistry()
	registry.MustRegister(c.Collectors()...)
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}

// D20: a store that hangs delays a use no longer than the timeout, and the number of calls at once is bounded.
func TestHangs(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	config := small(m.Addr())
	config.Timeout = 50 * time.Millisecond
	c := connect(t, config)
	release := make(chan struct{})
	m.Server().SetPreHook(func(*server.Peer, string, ...string) bool { <-release; return false })
	defer close(release)
	var wg sync.WaitGroup
	var slow atomic.Int32
	for range 2000 {
		wg.Go(func() {
			began := time.Now()
			if result, err := c.Spend(context.Background(), token(1)); result != uses.Unavailable || err == nil {
				t.Errorf("%s, %v", result, err)
			}
			if time.Since(began) > 10*time.Second {
				slow.Add(1)
			}
		})
	}
	wg.Wait()
	if slow.Load() > 0 {
		t.Errorf("%d uses waited far longer than the timeout", slow.Load())
	}
}

// F8: a rate in the store is that of a token bucket, for all servers together; other values begin again.
func TestTake(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	now := time.Unix(1.8e9, 0)
	m.SetTime(now)
	a, b := connect(t, small(m.Addr())), connect(t, small(m.Addr()))
	r := rate.Config{Rate: 2, Burst: 6}
	allowed := 0
	for n := range 20 {
		wait, err := []*client{a, b}[n%2].Take(t.Context(), r, "identity", "i", "alice")
		if err != nil {
			t.Fatal(err)
		}
		if wait == 0 {
			allowed++
		} else if wait != 500*time.Millisecond {
			t.Errorf("wait %s", wait)
		}
	}
	if allowed != 6 {
		t.Errorf("%d allowed at once", allowed)
	}
	for _, other := range [][]string{
		{"identity", "i", "bob"},
		{"identity", "ia", "lice"},
		{"identity", "i", "alice", ""},
	} {
		if wait, err := a.Take(t.Context(), r, other...); wait != 0 || err != nil {
			t.Errorf("%q: %s, %v", other, wait, err)
		}
	}
	if wait, err := a.Take(t.Context(), rate.Config{Rate: 2, Burst: 7}, "identity", "i", "alice"); wait != 0 ||
		err != nil {
		t.Errorf("another value: %s, %v", wait, err)
	}
	m.SetTime(now.Add(500 * time.Millisecond))
	if wait, err := b.Take(t.Context(), r, "identity", "i", "alice"); wait != 0 || err != nil {
		t.Errorf("after the wait: %s, %v", wait, err)
	}
	if wait, _ := b.Take(t.Context(), r, "identity", "i", "alice"); wait == 0 {
		t.Error("more than the rate")
	}
	now = now.Add(-time.Hour) // the clock of the store is set back
	m.SetTime(now)
	if wait, err := a.Take(t.Context(), r, "identity", "i", "alice"); wait > 500*time.Millisecond || err != nil {
		t.Errorf("after the clock was set back: wait %s, %v", wait, err)
	}
	m.SetTime(now.Add(500 * time.Millisecond))
	if wait, err := a.Take(t.Context(), r, "identity", "i", "alice"); wait != 0 || err != nil {
		t.Errorf("after the clock was set back, and the wait: %s, %v", wait, err)
	}
}

// Each call of a sampled request is a span with its operation and its result.
func TestCallSpans(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	c := connect(t, small(m.Addr()))
	ctx, recorder := spans.Request(t)
	if _, err := c.Spend(ctx, token(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Take(ctx, rate.Config{Rate: 1, Burst: 1}, "x"); err != nil {
		t.Fatal(err)
	}
	m.SetError("ERR canary")
	if _, err := c.Spend(ctx, token(1)); err == nil {
		t.Fatal("counted")
	}
	want := "store call mayfly.operation=spend mayfly.result=success\n" +
		"store call mayfly.operation=take mayfly.result=success\n" +
		"store call mayfly.operation=spend mayfly.result=failure failed\n"
	if got := recorder.Tree(); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// C8: neither a password nor a token is in the log or an error.
func TestNoSecrets(t *testing.T) { //nolint:paralleltest // it sets the environment
	m := miniredis.RunT(t)
	m.RequireUserAuth("ca", "right-password")
	t.Setenv("MAYFLY_TEST_SHARED", "hunter2-password")
	config := small(m.Addr())
	config.Username, config.Password = "ca", &secret.Source{Env: "MAYFLY_TEST_SHARED"}
	c := connect(t, config)
	cause, _ := c.Health()
	_, err := c.Spend(t.Context(), token(1))
	if text := cause + err.Error() + c.log.String(); cause == "" || strings.Contains(text, "hunter2") {
		t.Error(text)
	}
	typed := secret.Typed([]byte("right-password"))
	config.Password = typed
	connect(t, config).spend(t, token(1), uses.Counted)
}

// D20: a token that may have been used before this process has counted in the store is refused.
func TestSince(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	m.SetTime(time.Now().Add(-time.Hour))
	first := connect(t, small(m.Addr()))
	u := token(2)
	first.spend(t, u, uses.Counted)
	config := small(m.Addr())
	late, err := shared.Open(shared.Config{Valkey: &config}, shared.Options{
		Local: first.local, Since: u.IssuedAt.Add(time.Second),
	})
	if err != nil {
		t.Fatal(err)
	}
	late.Start(context.Background())
	t.Cleanup(late.Close)
	if result, err := late.Spend(t.Context(), u); result != uses.Unknown || err == nil {
		t.Errorf("%s, %v", result, err)
	}
	u.IssuedAt = u.IssuedAt.Add(time.Minute)
	if result, err := late.Spend(t.Context(), u); result != uses.Counted || err != nil {
		t.Errorf("a younger token: %s, %v", result, err)
	}
}

// F8: a store that answers with a wait that no rate has is not believed: it would overflow, and count as none.
func TestTakeLies(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	c := connect(t, small(m.Addr()))
	for _, n := range []int{math.MaxInt64/1000 + 1, 500_001, -1} {
		m.Server().SetPreHook(func(p *server.Peer, cmd string, args ...string) bool {
			take := strings.HasPrefix(cmd, "EVAL") && strings.Contains(args[2], "rate:")
			if take {
				p.WriteInt(n)
			}
			return take
		})
		if wait, err := c.Take(t.Context(), rate.Config{Rate: 2, Burst: 6}, "identity"); err == nil || wait != 0 {
			t.Errorf("%d: %s, %v", n, wait, err)
		}
	}
	m.Server().SetPreHook(nil)
}
