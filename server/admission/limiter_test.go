package admission_test

import (
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/server/admission"
)

// F2: a key has its burst and then its rate, the number of keys is bounded, and the limiter never forgets a key that is
// over its limit.
func TestLimiter(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	l := admission.NewLimiter[int](admission.LimiterOptions{Rate: 2, Burst: 10, Keys: 5})
	if _, over := l.Over(0, now); over || l.Used() {
		t.Error("a new limiter is used")
	}
	for n := range 10 {
		if _, over := l.Over(0, now); over {
			t.Fatalf("over after %d events", n)
		}
		l.Count(0, now)
	}
	if retry, over := l.Over(0, now); !over || retry <= 0 || retry > time.Second/2 {
		t.Errorf("after the burst: %t, %s", over, retry)
	}
	for key := range 100 {
		l.Count(key+1, now)
	}
	if _, over := l.Over(0, now); !over || l.Len() != 5 {
		t.Errorf("%d keys, over: %t", l.Len(), over)
	}
	now = now.Add(time.Second / 2)
	if _, over := l.Over(0, now); over {
		t.Error("the rate gives nothing back")
	}
	now = now.Add(time.Minute)
	if l.Count(1000, now); l.Len() != 1 {
		t.Errorf("%d keys after a minute", l.Len())
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
