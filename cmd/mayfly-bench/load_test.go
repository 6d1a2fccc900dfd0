package main

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// The gaps of a Poisson process are exponentially distributed: mean and standard deviation are both 1/rate.
func TestPoisson(t *testing.T) {
	t.Parallel()
	const rate, n = 500.0, 200_000
	next := poisson(rate, rand.New(rand.NewPCG(1, 2)))
	var sum, squares float64
	var before time.Duration
	long := 0
	for range n {
		at := next()
		gap := (at - before).Seconds() * rate
		if before = at; gap < 0 {
			t.Fatal("time went back")
		}
		sum, squares = sum+gap, squares+gap*gap
		if gap > 1 {
			long++
		}
	}
	mean := sum / n
	for what, d := range map[string]float64{
		"mean": mean - 1, "deviation": math.Sqrt(squares/n-mean*mean) - 1,
		"longer than the mean": float64(long)/n - 1/math.E,
	} {
		if math.Abs(d) > 0.01 {
			t.Errorf("%s is off by %.3f", what, d)
		}
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		flags    benchFlags
		plan     []benchLoad
		servers  []int
		relative bool
		problem  string
	}{
		"nothing": {
			plan:    []benchLoad{{Callers: 1}, {Callers: 4}, {Callers: 16}, {Callers: 64}, {Callers: 256}},
			servers: []int{0},
		},
		"callers": {
			flags: benchFlags{callers: "2, 3"}, plan: []benchLoad{{Callers: 2}, {Callers: 3}},
			servers: []int{0},
		},
		"rates": {
			flags: benchFlags{rate: "200,0.5"}, plan: []benchLoad{{Rate: 200}, {Rate: 0.5}},
			servers: []int{0},
		},
		"percent": {
			flags: benchFlags{rate: "50%, 1000 %"},
			plan:  []benchLoad{{Callers: 64}, {Percent: 50}, {Percent: 1000}}, servers: []int{0}, relative: true,
		},
		"both": {
			flags: benchFlags{rate: "20,12.5%"},
			plan:  []benchLoad{{Callers: 64}, {Rate: 20}, {Percent: 12.5}}, servers: []int{0}, relative: true,
		},
		"processors": {flags: benchFlags{processors: "1,2"}, plan: []benchLoad{{Callers: 64}}, servers: []int{1, 2}},
		"their callers": {
			flags: benchFlags{processors: "2", callers: "8"}, plan: []benchLoad{{Callers: 8}},
			servers: []int{2},
		},

		"no caller": {flags: benchFlags{callers: "0"}, problem: `write numbers from 1 to 4096`},
		"no rate": {
			flags:   benchFlags{rate: "0"},
			problem: `write requests per second up to 100000, or percentages`,
		},
		"less than no rate": {flags: benchFlags{rate: "-1%"}, problem: `--rate "-1%": write`},
		"NaN":               {flags: benchFlags{rate: "nan"}, problem: `write requests per second`},
		"Inf":               {flags: benchFlags{rate: "inf%"}, problem: `write requests per second`},
		"much":              {flags: benchFlags{rate: "100001"}, problem: `up to 100000`},
		"much of it":        {flags: benchFlags{rate: "10001%"}, problem: `up to 10000%`},
		"an end":            {flags: benchFlags{rate: "50%,"}, problem: `write requests per second`},
		"other words":       {flags: benchFlags{rate: "half"}, problem: `write requests per second`},
		"two loops":         {flags: benchFlags{rate: "1", callers: "1"}, problem: `write one of them`},
		"too large": {
			flags:   benchFlags{processors: "5"},
			problem: `this machine has 4; write numbers from 1 to 4`,
		},
		"rate of each": {
			flags:   benchFlags{processors: "1", rate: "50%"},
			problem: `write --callers instead of --rate`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := c.flags
			err := f.makePlan(4)
			if c.problem != "" {
				if err == nil || !strings.Contains(err.Error(), c.problem) {
					t.Fatalf("got %v, want %q", err, c.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.plan, f.plan); d != "" {
				t.Error(d)
			}
			if f.relative != c.relative || !slices.Equal(f.servers, c.servers) {
				t.Errorf("relative %v, servers %v", f.relative, f.servers)
			}
		})
	}
}

func budget(n int64) *atomic.Int64 {
	left := &atomic.Int64{}
	left.Store(n)
	return left
}

// Arrivals above the limit of requests in flight are counted as not sent, and each request is sent once.
func TestOpenLoopBound(t *testing.T) {
	t.Parallel()
	full := make(chan struct{})
	var sent atomic.Int64
	g := &generator{bound: 3, left: budget(1000), send: func(context.Context, int, int) error {
		sent.Add(1)
		<-full
		return nil
	}}
	f := g.open(t.Context(), 2000, 100*time.Millisecond)
	close(full)
	got := f.wait()
	if sent.Load() != 3 || len(got.served) != 3 || got.unsent == 0 || len(got.refused)+got.failed != 0 {
		t.Errorf("%d sent, %d served, %d not sent, %d refused, %d failed", sent.Load(), len(got.served), got.unsent,
			len(got.refused), got.failed)
	}
	if left := g.left.Load(); left != 997 {
		t.Errorf("%d requests of 1000 are left, although arrivals that are not sent do not count", left)
	}
	if g.inFlight.Load() != 0 {
		t.Error("requests are in flight after the end")
	}
}

// Certificates, refusals and failures are counted separately, and a refused request is not repeated.
func TestOpenLoopAccounts(t *testing.T) {
	t.Parallel()
	var sent [3]atomic.Int64
	g := &generator{bound: 100, left: budget(60), send: func(_ context.Context, i, _ int) error {
		sent[i%3].Add(1)
		return []error{nil, &client.Error{Message: "busy", RetryAfter: time.Hour}, errors.New("broken")}[i%3]
	}}
	got := g.open(t.Context(), 20_000, time.Minute).wait() // the budget ends it
	if len(got.served) != 20 || len(got.refused) != 20 || got.failed != 20 || len(got.late) != 60 {
		t.Errorf("%d served, %d refused, %d failed, %d made", len(got.served), len(got.refused),
			got.failed, len(got.late))
	}
	for i := range sent {
		if n := sent[i].Load(); n != 20 {
			t.Errorf("%d requests of kind %d", n, i)
		}
	}
	if got.first == "" {
		t.Error("no first error")
	}
	for _, d := range slices.Concat(got.served, got.refused) {
		if d < 0 {
			t.Errorf("a latency of %s", d)
		}
	}
}

// Callers wait as long as Retry-After says. The latencies of refusals are recorded separately.
func TestClosedLoopObeys(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	g := &generator{left: budget(1000), send: func(context.Context, int, int) error {
		sent.Add(1)
		return &client.Error{RetryAfter: time.Hour}
	}}
	got := g.closed(t.Context(), 5, 100*time.Millisecond)
	if sent.Load() != 5 || len(got.refused) != 5 || len(got.served)+got.failed != 0 {
		t.Errorf("%d sent, %d refused, %d served, %d failed", sent.Load(), len(got.refused),
			len(got.served), got.failed)
	}
}

func TestStepFigures(t *testing.T) {
	t.Parallel()
	var served []time.Duration
	for i := range 200 {
		served = append(served, time.Duration(200-i)*time.Millisecond)
	}
	var s benchStep
	s.fill(tally{
		served: served, refused: []time.Duration{3 * time.Millisecond, time.Millisecond}, failed: 4,
		unsent: 5,
	}, 2*time.Second)
	want := benchStep{
		Certificates: 200, PerSecond: 100, P50: 101, P99: 199, Refused: 2, RefusedPerSecond: 1, RefusedP50: 3,
		RefusedP99: 3, Failed: 4, NotSent: 5,
	}
	if s != want {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
	if got := added(served, logUse{answers: 200, took: 200 * 20 * time.Millisecond}); got != 80.5 {
		t.Errorf("added %v ms to a mean of 20 ms, want 80.5", got)
	}
	if got := added(served, logUse{answers: 201, took: time.Second}); got != 0 {
		t.Errorf("added %v ms, although the log sent more responses than the CA", got)
	}
}

func TestAsBefore(t *testing.T) {
	t.Parallel()
	fast := []time.Duration{time.Millisecond, 2 * time.Millisecond}
	for name, c := range map[string]struct {
		probe  tally
		before float64
		want   bool
	}{
		"as before": {tally{served: fast}, 1, true},
		"slow":      {tally{served: fast}, 0.9, false},
		"refused":   {tally{served: fast, refused: fast}, 1, false},
		"failed":    {tally{served: fast, failed: 1}, 1, false},
		"not sent":  {tally{served: fast, unsent: 1}, 1, false},
		"nothing":   {tally{}, 1, false},
	} {
		if got := asBefore(c.probe, c.before); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The recovery is the first probe that is served as before. There is no result if the run ends earlier.
func TestRecovery(t *testing.T) {
	t.Parallel()
	probes := func(left int64, refused int) *benchRecovery {
		g := &generator{bound: 100, left: budget(left), send: func(_ context.Context, i, _ int) error {
			if i <= refused {
				return &client.Error{RetryAfter: time.Second}
			}
			return nil
		}}
		return g.recovery(t.Context(), benchRecovery{Before: 60_000, Rate: 200}, time.Now().Add(-time.Second))
	}
	if got := probes(1000, 1); got == nil || !got.Back || got.Seconds < 1 {
		t.Errorf("got %+v, want a server that is back at the second probe", got)
	}
	if got := probes(10, 10); got != nil {
		t.Errorf("got %+v of a run whose requests are used up", got)
	}
	g := &generator{bound: 100, left: budget(1000), send: func(context.Context, int, int) error { return nil }}
	if got := g.recovery(t.Context(), benchRecovery{Before: 60_000, Rate: 200},
		time.Now().Add(-time.Minute)); got == nil || got.Back || got.Seconds != 10 {
		t.Errorf("got %+v, want a server that is not back within the bound", got)
	}
}

// The table has only the optional columns that have values.
func TestBenchTable(t *testing.T) {
	t.Parallel()
	plain := benchStep{
		benchLoad: benchLoad{Callers: 64}, PerSecond: 1200, P50: 40, P99: 90, CPU: 600, Floor: 300,
		Ratio: 2, RSS: 80, Certificates: 6000, PerCPUSecond: 1667,
	}
	half := plain
	half.benchLoad, half.PerSecond, half.P50, half.P99, half.Added = benchLoad{Rate: 600, Percent: 50}, 600, 2, 5, 1.5
	over := plain
	over.benchLoad, over.PerSecond, over.RefusedPerSecond,
		over.Refused = benchLoad{Rate: 12000, Percent: 1000}, 1100, 9000, 45000
	over.RefusedP50, over.RefusedP99, over.NotSent, over.LateP99, over.FirstError = 3, 70, 9500, 20, "busy"
	over.Recovery = &benchRecovery{Back: true, Seconds: 0.4, Before: 5, Rate: 600}
	one := plain
	one.Processors, one.Placement = 1, &benchPlacement{Pinned: true}
	two := one
	two.Processors, two.Placement = 2, &benchPlacement{Pinned: true, Shared: true}
	for name, c := range map[string]struct {
		result benchResult
		want   []string
		not    []string
	}{
		"closed": {benchResult{Processors: 2, Steps: []benchStep{plain}}, []string{
			"  load        certs/s  p50 ms  p99 ms  refused/s  failed  server µs/cert  floor µs  ratio  RSS MB\n",
			"  64 callers  1200     40.00   90.00   0          0       600             300       2.00   80\n",
		}, []string{"recovery", "not sent", "late", "processors\n"}},
		"open": {
			benchResult{Processors: 2, Steps: []benchStep{plain, half, over}, Exhausted: true, Interrupted: true},
			[]string{
				"  load            certs/s  p50 ms  p99 ms  added ms  refused/s  refusal p50  refusal p99  " +
					"not sent  failed  server",
				"  64 callers      1200     40.00   90.00   –         0          –            –            " +
					"–         0       600",
				"  600/s, 50%      600      2.00    5.00    1.50      0          –            –            " +
					"–         0       600",
				"  12000/s, 1000%  1100     40.00   90.00   –         9000       3.00         70.00        " +
					"9500      0       600",
				"recovery from 12000/s, 1000%: 0.4 s after the last arrival half the capacity (600/s) was served",
				"at 12000/s, 1000% this tool sent requests late, by 20.0 ms",
				"first error with 12000/s, 1000%: busy\n", "not sent: arrivals while", "added: mean latency minus",
				"--max-requests was reached", "interrupted: ",
			},
			nil,
		},
		"processors": {benchResult{Processors: 2, Steps: []benchStep{one, two}}, []string{
			"  processors  load        certs/s  p50 ms  p99 ms  refused/s  failed  server µs/cert  " +
				"certs/CPU s  floor µs",
			"  2           64 callers  1200     40.00   90.00   0          0       600             1667         300",
			" 64 callers, 1 processor  █", "1 processor: used only by the server",
			"2 processors: this machine has too few",
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			if err := c.result.print(&b, terminal.Style{}); err != nil {
				t.Fatal(err)
			}
			for _, want := range c.want {
				if !strings.Contains(b.String(), want) {
					t.Errorf("no %q in\n%s", want, b.String())
				}
			}
			for _, not := range c.not {
				if strings.Contains(b.String(), not) {
					t.Errorf("%q in\n%s", not, b.String())
				}
			}
		})
	}
	svg := string(benchResult{Steps: []benchStep{half, over, two}}.svg())
	for _, want := range []string{
		"600/s, 50%<", "1.5 ms without the log", "9000 refused/s", "in 70.0 ms (p99)",
		"9500 not sent", "recovered after 0.4 s", "2 processors<", "1667 per CPU second",
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %q in the chart", want)
		}
	}
}
