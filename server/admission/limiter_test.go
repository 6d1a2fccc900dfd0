package admission_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/rate"
	"github.com/mayfly-ca/mayfly/server/admission"
)

// F2: a key has its burst and then its rate, the number of keys is bounded, and the limiter never forgets a key that is
// over its limit.
func TestLimiter(t *testing.T) {
	t.Parallel()
	now, r := time.Unix(1e9, 0), rate.Config{Rate: 2, Burst: 10}
	l := admission.NewLimiter[int](5)
	if _, over := l.Over(0, r, now); over || l.Used() {
		t.Error("a new limiter is used")
	}
	for n := range 10 {
		if _, over := l.Over(0, r, now); over {
			t.Fatalf("over after %d events", n)
		}
		if wait := l.Take(0, r, now); wait != 0 {
			t.Fatalf("after %d events: wait %s", n, wait)
		}
	}
	if wait, over := l.Over(0, r, now); !over || wait != time.Second/2 || l.Take(0, r, now) != wait || !l.Used() {
		t.Errorf("after the burst: %t, %s", over, wait)
	}
	for key := range 100 {
		l.Take(key+1, r, now)
	}
	if _, over := l.Over(0, r, now); !over || l.Len() != 5 {
		t.Errorf("%d keys, over: %t", l.Len(), over)
	}
	now = now.Add(time.Second / 2)
	if _, over := l.Over(0, r, now); over {
		t.Error("the rate gives nothing back")
	}
	now = now.Add(time.Minute)
	if l.Take(1000, r, now); l.Len() != 1 {
		t.Errorf("%d keys after a minute", l.Len())
	}
}

// F2: when the limiter is full, a key that it does not store is limited too, and most other such keys are not affected.
func TestLimiterIsFull(t *testing.T) {
	t.Parallel()
	now, r := time.Unix(1e9, 0), rate.Config{Rate: 1, Burst: 20}
	l := admission.NewLimiter[int](50)
	for key := range 50 {
		l.Take(key, r, now)
	}
	allowed := 0
	for range 1000 {
		if l.Take(1000, r, now) == 0 {
			allowed++
		}
	}
	if wait, over := l.Over(1000, r, now); allowed != r.Burst || !over || wait != time.Second || l.Len() != 50 {
		t.Errorf("%d events of a key that is not stored, over: %t, for %s; %d keys", allowed, over, wait, l.Len())
	}
	refused := 0
	for key := range 1000 {
		if l.Take(2000+key, r, now) != 0 {
			refused++
		}
	}
	if refused > 50 {
		t.Errorf("%d of 1000 other keys are refused", refused)
	}
}

// F2: a clock that is set back refuses nobody for longer than a limit that is used up does, also if only Over is asked.
func TestLimiterAfterClockStep(t *testing.T) {
	t.Parallel()
	now, r := time.Unix(1e9, 0), rate.Config{Rate: 2, Burst: 10}
	l := admission.NewLimiter[int](2)
	for key := range 3 { // the last one shares the limit of a group
		l.Take(key, r, now)
	}
	now = now.Add(-time.Hour)
	for key := range 3 {
		wait, _ := l.Over(key, r, now)
		if wait > time.Second/2 {
			t.Errorf("key %d: wait %s after the clock was set back", key, wait)
		}
		if _, over := l.Over(key, r, now.Add(time.Second/2)); over {
			t.Errorf("key %d: over after the wait", key)
		}
	}
}

// A request under a limit allocates nothing.
func TestLimiterAllocates(t *testing.T) { //nolint:paralleltest // it counts allocations
	l, r, now := admission.NewLimiter[admission.Source](100), rate.Config{Rate: 1e6, Burst: 1e6}, time.Now()
	key := admission.SourceOf(netip.MustParseAddr("2001:db8::1"))
	l.Take(key, r, now)
	if n := testing.AllocsPerRun(100, func() { l.Take(key, r, now) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLimiter(b *testing.B) {
	l, r, now := admission.NewLimiter[uint64](1<<16), rate.Config{Rate: 1e6, Burst: 1e6}, time.Now()
	for key := range uint64(1 << 15) {
		l.Take(key, r, now)
	}
	b.ReportAllocs()
	key := uint64(0)
	for b.Loop() {
		key = (key + 7919) % (1 << 15)
		l.Take(key, r, now)
	}
}

// A budget has a number of places in total and a share of them for one key.
func TestBudget(t *testing.T) {
	t.Parallel()
	b := admission.NewBudget[string](3, 2)
	if !b.Take("a") || !b.Take("a") || b.Take("a") || !b.Full("a") || b.Full("b") || !b.Take("b") || b.Take("c") { //nolint:staticcheck // Take has an effect
		t.Error("not three places, of which one key has two")
	}
	b.Give("a")
	if n, refused := b.Taken(); n != 2 || refused != 3 || !b.Take("c") {
		t.Errorf("%d taken, %d refused", n, refused)
	}
}
