package rate_test

import (
	"strings"
	"testing"
	"time"

	xrate "golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/internal/rate"
)

// F8: over any sequence of events, Take allows what a token bucket allows, and the wait that it returns is the true
// one: the event is allowed after it and not a microsecond earlier.
func TestTake(t *testing.T) {
	t.Parallel()
	for _, c := range []rate.Config{{Rate: 5, Burst: 1}, {Rate: 0.5, Burst: 7}, {Rate: 1000, Burst: 30}} {
		bucket, now, next := xrate.NewLimiter(xrate.Limit(c.Rate), c.Burst), time.Unix(1e9, 0), int64(0)
		allowed, refused := 0, 0
		for i := range 5000 {
			after, wait := c.Take(next, now.UnixNano())
			if want := bucket.AllowN(now, 1); want != (wait == 0) {
				t.Fatalf("%+v, event %d: the bucket says %t, Take says %s", c, i, want, wait)
			}
			if wait == 0 {
				allowed++
			} else {
				refused++
				if after != next {
					t.Fatalf("%+v: a refused event counts", c)
				}
				if _, w := c.Take(next, now.Add(wait).UnixNano()); w != 0 {
					t.Fatalf("%+v: not allowed after the wait of %s", c, wait)
				}
				if _, w := c.Take(next, now.Add(wait-time.Microsecond).UnixNano()); w == 0 {
					t.Fatalf("%+v: allowed before the wait of %s has ended", c, wait)
				}
			}
			next = after
			// An odd step, so that no event is exactly at the edge, where rounding decides.
			now = now.Add(time.Duration(float64(time.Second) / c.Rate * []float64{.13, .71, .37, 2.03, .11}[i%5]))
		}
		if allowed < 1000 || refused < 500 {
			t.Errorf("%+v: %d allowed, %d refused", c, allowed, refused)
		}
	}
}

// F8: a clock that is set back refuses nobody for longer than a limit that is used up does.
func TestTakeAfterClockStep(t *testing.T) {
	t.Parallel()
	r, now := rate.Config{Rate: 2, Burst: 4}, time.Unix(1.8e9, 0)
	next, wait := r.Take(0, now.UnixNano())
	if wait != 0 {
		t.Fatalf("the first event waits for %s", wait)
	}
	now = now.Add(-time.Hour)
	if next, wait = r.Take(next, now.UnixNano()); wait > time.Second/2 {
		t.Errorf("wait %s after the clock was set back", wait)
	}
	if _, wait = r.Take(next, now.Add(wait).UnixNano()); wait != 0 {
		t.Errorf("not allowed after the wait, for %s", wait)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		config *rate.Config
		want   string
	}{
		{nil, ""},
		{&rate.Config{Rate: 0.01, Burst: 36}, ""},
		{&rate.Config{Rate: 1e6, Burst: 1e6}, ""},
		{&rate.Config{Burst: 1}, "above 0"},
		{&rate.Config{Rate: -1, Burst: 1}, "above 0"},
		{&rate.Config{Rate: 2e6, Burst: 1}, "above 0"},
		{&rate.Config{Rate: 1}, "at once"},
		{&rate.Config{Rate: 1, Burst: -3}, "at once"},
		{&rate.Config{Rate: 1, Burst: 1e6 + 1}, "at once"},
		{&rate.Config{Rate: 0.001, Burst: 1e6}, "more than a week"},
	} {
		err := c.config.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.config, err)
		}
	}
}
