package tsa_test

import (
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitorus/timestamp"

	"github.com/mayfly-ca/mayfly/tsa"
)

// clocks are the clocks of a machine: a wall clock that can be set, and one that cannot.
type clocks struct {
	mu      sync.Mutex
	wall    time.Time
	elapsed time.Duration
	busy    time.Duration // between two readings
}

func (c *clocks) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wall
}

func (c *clocks) since() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.elapsed += c.busy
	return c.elapsed
}

// pass lets time pass; the wall clock differs by some of it.
func (c *clocks) pass(d, differs time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall, c.elapsed = c.wall.Add(d+differs), c.elapsed+d
}

// stampAt requests a timestamp. The error is the text of a refusal.
func stampAt(t *testing.T, url string) (time.Time, error) {
	t.Helper()
	code, reply := post(t, url, queryType, query(t, timestamp.RequestOptions{Hash: crypto.SHA256}))
	stamp, err := timestamp.ParseResponse(reply)
	if err != nil {
		return time.Time{}, fmt.Errorf("%d: %w", code, err)
	}
	return stamp.Time, nil
}

// After the wall clock was set, in either direction, there are no timestamps until it is set back or the process starts
// again. What time services do is no such step: small corrections, and a clock that runs faster or slower.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		steps []time.Duration // between timestamps that are a minute apart
		want  string          // the refusal of the last one
	}{
		"right":            {[]time.Duration{0, 0, 0}, ""},
		"small correction": {[]time.Duration{400 * time.Millisecond, 0}, ""},
		"slower": {
			[]time.Duration{-30 * time.Millisecond, -30 * time.Millisecond, -30 * time.Millisecond},
			"",
		},
		"forward":        {[]time.Duration{time.Hour}, "was set forward by 3600.0 s"},
		"forward, later": {[]time.Duration{time.Hour, 0, 0, 0}, "was set forward by 3600.0 s"},
		"back":           {[]time.Duration{-2 * time.Second}, "was set back by 2.0 s"},
		"back again":     {[]time.Duration{-2 * time.Second, 2 * time.Second}, ""},
		"two corrections": {
			[]time.Duration{400 * time.Millisecond, 400 * time.Millisecond},
			"was set forward by 0.8 s",
		},
		"a second a day": {[]time.Duration{
			11 * time.Microsecond, 700 * time.Microsecond, 700 * time.Microsecond, 700 * time.Microsecond,
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := &clocks{wall: time.Now(), elapsed: time.Hour}
			url := serve(t, open(t, tsa.Config{}, tsa.Options{Now: k.now, Elapsed: k.since}))
			if _, err := stampAt(t, url); err != nil {
				t.Fatal(err)
			}
			var err error
			for _, step := range c.steps {
				k.pass(time.Minute, step)
				var at time.Time
				if at, err = stampAt(t, url); err == nil && !at.Equal(k.now().Truncate(time.Second)) {
					t.Errorf("a timestamp of %s at %s", at, k.now())
				}
			}
			switch {
			case c.want == "" && err != nil, c.want != "" && err == nil:
				t.Error(err)
			case err != nil && !(strings.Contains(err.Error(), c.want) && strings.HasPrefix(err.Error(), "503: ") &&
				strings.Contains(err.Error(), "the TSA's time source is not available")):
				t.Error(err)
			}
		})
	}
}

// A reading of the clocks that was interrupted for long is not a step, and gives no timestamp.
func TestBusyMachine(t *testing.T) {
	t.Parallel()
	k := &clocks{wall: time.Now(), elapsed: time.Hour}
	a := open(t, tsa.Config{}, tsa.Options{Now: k.now, Elapsed: k.since})
	k.busy = time.Second
	if err := a.Health(); err == nil || !strings.Contains(err.Error(), "too busy") {
		t.Error(err)
	}
	k.busy = 0
	k.wall = k.wall.Add(k.elapsed - time.Hour)
	if err := a.Health(); err != nil {
		t.Error(err)
	}
}

// No timestamps are made while the sources of the caller say that the clock is wrong, and outside the validity of the
// chain. Operators hear of the beginning and of the end.
func TestStops(t *testing.T) {
	t.Parallel()
	k := &clocks{wall: time.Now(), elapsed: time.Hour}
	var wrong error
	var events []string
	a := open(t, tsa.Config{}, tsa.Options{
		Now: k.now, Elapsed: k.since, Ready: func() error { return wrong },
		Event: func(name, text string) { events = append(events, name+": "+text) },
	})
	url := serve(t, a)
	wrong = errors.New("this machine's clock is 90 s behind all logs")
	for range 2 {
		if _, err := stampAt(t, url); err == nil || !strings.Contains(err.Error(), wrong.Error()) {
			t.Error(err)
		}
	}
	if err := a.Health(); !errors.Is(err, wrong) {
		t.Error(err)
	}
	wrong = nil
	if _, err := stampAt(t, url); err != nil {
		t.Error(err)
	}
	if got := strings.Join(events, "; "); got != "timestamps-stopped: this machine's clock is 90 s behind all logs; "+
		"timestamps-resumed: this machine's clock is 90 s behind all logs" {
		t.Error(got)
	}
	end := a.Chain()[0].NotAfter
	k.pass(end.Sub(k.wall), 0)
	if _, err := stampAt(t, url); err != nil {
		t.Error(err)
	}
	k.pass(time.Second, 0)
	if _, err := stampAt(t, url); err == nil ||
		!strings.Contains(err.Error(), "the chain of the authority expired at") {
		t.Error(err)
	}
}

// The JSON form has the same refusal.
func TestStopsJSON(t *testing.T) {
	t.Parallel()
	a := open(t, tsa.Config{}, tsa.Options{Ready: func() error { return errors.New("the clock is wrong") }})
	code, reply := post(t, serve(t, a), "application/json",
		[]byte(`{"artifactHash":"LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=","hashAlgorithm":"sha256"}`))
	if code != http.StatusServiceUnavailable || !strings.Contains(string(reply), "the clock is wrong") {
		t.Errorf("%d %s", code, reply)
	}
}
