package uses_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server/uses"
)

// clocks are the two clocks of a test: the time of day can step.
type clocks struct {
	wall    time.Time
	elapsed time.Duration
}

func newClocks() *clocks { return &clocks{wall: time.Unix(1.8e9, 0)} }

func (c *clocks) pass(d time.Duration) { c.wall, c.elapsed = c.wall.Add(d), c.elapsed+d }

func (c *clocks) options() uses.Options {
	return uses.Options{
		Wall: func() time.Time { return c.wall }, Elapsed: func() time.Duration { return c.elapsed },
	}
}

// token is a use of a new token that is valid for ten minutes from now.
func (c *clocks) token(most int) uses.Use {
	u := uses.Use{Entry: "e", Most: most, IssuedAt: c.wall, Expires: c.wall.Add(10 * time.Minute)}
	_, _ = rand.Read(u.Key[:])
	return u
}

func open(t *testing.T, o uses.Options) *uses.Local {
	t.Helper()
	l, err := uses.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func spend(t *testing.T, l *uses.Local, u uses.Use, want uses.Result) {
	t.Helper()
	got, err := l.Spend(t.Context(), u)
	accepted := want == uses.Counted || want == uses.Uncounted
	if got != want || accepted != (err == nil) {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	var e *uses.Error
	if err != nil && (!errors.As(err, &e) || e.Result != got) {
		t.Errorf("the error %v is not that of %s", err, got)
	}
}

// D20: of 1,000 concurrent uses of one token, exactly as many are counted as it may have, in memory and with a file.
func TestRace(t *testing.T) {
	t.Parallel()
	for _, most := range []int{1, 7} {
		for _, file := range []string{"", t.TempDir() + "/uses"} {
			c := newClocks()
			o := c.options()
			o.File = file
			l := open(t, o)
			c.pass(time.Minute)
			u := c.token(most)
			var counted, replayed atomic.Int32
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() {
					result, err := l.Spend(context.Background(), u)
					switch {
					case result == uses.Counted && err == nil:
						counted.Add(1)
					case fault.From(err).Reason == fault.TokenReplayed &&
						fault.From(err).Meta["limit"] == fmt.Sprint(most):
						replayed.Add(1)
					}
				})
			}
			wg.Wait()
			if counted.Load() != int32(most) || replayed.Load() != 1000-int32(most) {
				t.Errorf("at most %d, file %q: %d counted, %d replayed", most, file, counted.Load(), replayed.Load())
			}
		}
	}
}

// D20: a token that may have been used before the memory of uses began gets no certificate, unless its entry says so.
func TestOlderThanMemory(t *testing.T) {
	t.Parallel()
	c := newClocks()
	c.wall = c.wall.Add(-1000 * time.Hour) // wrong at the start of the process
	l := open(t, c.options())
	c.wall = c.wall.Add(1000 * time.Hour)
	old := c.token(1)
	spend(t, l, old, uses.Unknown)
	_, err := l.Spend(t.Context(), old)
	if f := fault.From(err); f.Reason != fault.TokenReplayed || f.Kind != fault.Denied {
		t.Errorf("%+v", f)
	}
	old.IssueUncounted = true
	spend(t, l, old, uses.Uncounted)
	spend(t, l, old, uses.Replayed)
	c.pass(time.Second)
	spend(t, l, c.token(1), uses.Counted)
}

// D20: steps of the clock, forward and back, do not make a use forgotten.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	c := newClocks()
	l := open(t, c.options())
	c.pass(time.Second)
	u := c.token(1)
	spend(t, l, u, uses.Counted)
	other := func() { // uses of further tokens cause the search for expired ones
		for range 1000 {
			spend(t, l, c.token(1), uses.Counted)
		}
	}
	for _, step := range []time.Duration{
		time.Hour, -time.Hour, -time.Hour, time.Hour, 1000 * time.Hour,
		-1000 * time.Hour,
	} {
		c.wall = c.wall.Add(step)
		c.pass(11 * time.Second)
		other()
		if n, _ := l.Tokens(); n%1000 != 1 {
			t.Fatalf("%d tokens", n)
		}
		if step < 0 && c.wall.Before(u.Expires) {
			spend(t, l, u, uses.Replayed)
		}
	}
	c.pass(20 * time.Minute)
	other()
	if l.Used(u.Key) != 0 {
		t.Error("the token is stored after its expiry")
	}
	// The token is forgotten by now. If the clock is set back further than the margin, it is not accepted.
	c.wall = c.wall.Add(-time.Hour)
	spend(t, l, u, uses.Unknown)
}

// D20: when there is no room, further tokens are refused and no token is forgotten. The expiry of tokens makes room.
func TestFull(t *testing.T) {
	t.Parallel()
	c := newClocks()
	o := c.options()
	o.Tokens = 100
	l := open(t, o)
	c.pass(time.Second)
	var all []uses.Use
	for range 100 {
		all = append(all, c.token(1))
		spend(t, l, all[len(all)-1], uses.Counted)
	}
	late := c.token(1)
	spend(t, l, late, uses.Unavailable)
	if _, err := l.Spend(t.Context(), late); fault.From(err).Reason != fault.BudgetUnavailable || l.Warning() == "" {
		t.Errorf("%v, warning %q", err, l.Warning())
	}
	lenient := c.token(1)
	lenient.IssueUncounted = true
	spend(t, l, lenient, uses.Uncounted)
	for _, u := range all {
		spend(t, l, u, uses.Replayed)
	}
	c.pass(12 * time.Minute)
	// A shard is searched when a token comes to it.
	counted := 0
	for range 1000 {
		if result, _ := l.Spend(t.Context(), c.token(1)); result == uses.Counted {
			counted++
		}
	}
	if counted != 100 || l.Warning() == "" {
		t.Errorf("%d tokens have room after the others have expired", counted)
	}
	c.pass(2 * time.Minute)
	if w := l.Warning(); w != "" {
		t.Error(w)
	}
}

func BenchmarkSpend(b *testing.B) {
	c := newClocks()
	l, err := uses.Open(c.options())
	if err != nil {
		b.Fatal(err)
	}
	c.pass(time.Second)
	u := c.token(1)
	b.ReportAllocs()
	n := uint64(0)
	for b.Loop() {
		n++
		u.Key[0], u.Key[1], u.Key[2], u.Key[3] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
		if n%(1<<15) == 0 {
			c.pass(20 * time.Minute)
			u.IssuedAt, u.Expires = c.wall, c.wall.Add(10*time.Minute)
		}
		if _, err := l.Spend(context.Background(), u); err != nil {
			b.Fatal(err)
		}
	}
}

// A use that was counted elsewhere needs no room: without it, nothing is wrong.
func TestRememberWithoutRoom(t *testing.T) {
	t.Parallel()
	c := newClocks()
	o := c.options()
	o.Tokens = 1
	l := open(t, o)
	c.pass(time.Minute)
	first := c.token(1)
	l.Remember(first)
	l.Remember(c.token(1))
	if n, _ := l.Tokens(); n != 1 || l.Used(first.Key) != 1 || l.Warning() != "" {
		t.Errorf("%d tokens; %s", n, l.Warning())
	}
	spend(t, l, c.token(1), uses.Unavailable)
	if l.Warning() == "" {
		t.Error("no warning after a token was refused")
	}
}
