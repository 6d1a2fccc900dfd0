package ctlog_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tbs"
)

// askedOf submits p and returns the sorted names of the logs of the returned SCTs.
func askedOf(t *testing.T, s *ctlog.Set, p tbs.Precertificate, configured []ctlog.Log) []string {
	t.Helper()
	scts, err := s.Submit(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, raw := range scts {
		sct, err := tbs.ParseSCT(raw)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range configured {
			spki, _ := x509.MarshalPKIXPublicKey(m.Key)
			if sct.LogID == sha256.Sum256(spki) && sct.Verify(m.Key, p.Entry) == nil {
				names = append(names, m.Name)
			}
		}
	}
	slices.Sort(names)
	if len(names) != len(scts) {
		t.Errorf("%d SCTs, of which %v verify", len(scts), names)
	}
	return names
}

// B1 // B2: as many SCTs as the policy requires, each of a different log, those of different operators first.
func TestPolicy(t *testing.T) {
	t.Parallel()
	p := newAuthority(t).precert(t)
	for _, row := range []struct {
		name      string
		operators []string
		min       int
		want      []string
	}{
		{"one is the default", []string{"", ""}, 0, []string{"a"}},
		{"one of three", []string{"", "", ""}, 1, []string{"a"}},
		{"two of three", []string{"", "", ""}, 2, []string{"a", "b"}},
		{"all", []string{"x", "x", "x"}, 3, []string{"a", "b", "c"}},
		{"another operator first", []string{"x", "x", "y"}, 2, []string{"a", "c"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var configured []ctlog.Log
			for i, op := range row.operators {
				m := newLog(t).asLog(t, string(rune('a'+i)))
				m.Operator = op
				configured = append(configured, m)
			}
			s := newSet(t, ctlog.Options{
				Logs:   configured,
				Policy: ctlog.PolicyConfig{MinSCTs: row.min, Parallel: max(row.min, 1)},
			})
			if diff := cmp.Diff(row.want, askedOf(t, s, p, configured)); diff != "" {
				t.Error(diff)
			}
			if got := s.MinSCTs(); got != max(row.min, 1) {
				t.Errorf("MinSCTs is %d", got)
			}
		})
	}
}

// B5
func TestExtensionsAreCopied(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	scts, err := newSet(t, ctlog.Options{Logs: []ctlog.Log{l.asLog(t, "lab")}}).Submit(t.Context(),
		newAuthority(t).precert(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := tbs.ParseSCT(scts[0])
	if diff := cmp.Diff([]byte{0, 0, 5, 1, 2, 3, 4, 5}, s.Extensions); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

// B4 // B6: a log whose window does not cover the certificate is not tried; the bounds are exact to the second.
func TestWindow(t *testing.T) {
	t.Parallel()
	p := newAuthority(t).precert(t)
	now := time.Now()
	for _, row := range []struct {
		name     string
		from, to time.Time
		asked    bool
	}{
		{"unbounded", time.Time{}, time.Time{}, true},
		{"around", now.Add(-time.Hour), p.NotAfter.Add(time.Hour), true},
		{"ends a second after the certificate", time.Time{}, p.NotAfter.Add(time.Second), true},
		{"ends with the certificate", time.Time{}, p.NotAfter, false},
		{"ended", time.Time{}, now.Add(-time.Hour), false},
		{"begins in an hour", now.Add(time.Hour), time.Time{}, false},
		{"begins after the certificate ends", p.NotAfter.Add(time.Second), time.Time{}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t)
			m := l.asLog(t, "shard")
			m.NotBefore, m.NotAfter = row.from, row.to
			_, err := newSet(t, ctlog.Options{Logs: []ctlog.Log{m}}).Submit(t.Context(), p)
			if asked := l.calls.Load() == 1; asked != row.asked || (err == nil) != row.asked {
				t.Errorf("asked %t, error %v", asked, err)
			}
		})
	}
}

// B4: an SCT within the tolerance of clocks but outside the log's window is refused, as a verifier would refuse it.
func TestSCTFromOutsideValidity(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.set(edited(shift(-30 * time.Second)))
	m := l.asLog(t, "shard")
	m.NotBefore = time.Now().Add(-10 * time.Second)
	_, err := newSet(t, ctlog.Options{Logs: []ctlog.Log{m}}).Submit(t.Context(), newAuthority(t).precert(t))
	var f *ctlog.Failure
	if !errors.As(err, &f) || f.Result != ctlog.Unverified || l.calls.Load() != 3 {
		t.Errorf("error %v after %d calls", err, l.calls.Load())
	}
}

// B1: if the policy cannot be met, no log is tried: there is no entry for a certificate that is never issued.
func TestInfeasibleAsksNoLog(t *testing.T) {
	t.Parallel()
	a, b := newLog(t), newLog(t)
	out := b.asLog(t, "b")
	out.NotAfter = time.Now()
	s := newSet(t, ctlog.Options{Logs: []ctlog.Log{a.asLog(t, "a"), out}, Policy: ctlog.PolicyConfig{MinSCTs: 2}})
	_, err := s.Submit(t.Context(), newAuthority(t).precert(t))
	if fault.From(err).Reason != fault.LogUnavailable || a.calls.Load()+b.calls.Load() != 0 {
		t.Errorf("error %v after %d and %d calls", err, a.calls.Load(), b.calls.Load())
	}
}

// B9: a log that was busy is tried again, but not before its Retry-After.
func TestRetryOfTheSameLog(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		first answer
		least time.Duration
	}{
		{"500", status(500, ""), 100 * time.Millisecond},
		{"reset", reset, 100 * time.Millisecond},
		{"429 with Retry-After", status(429, "1"), time.Second},
		{"503 with Retry-After", status(503, "1"), time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t)
			l.set(func(w http.ResponseWriter, r *http.Request, honest func(edit) map[string]any) {
				if l.calls.Load() == 1 {
					row.first(w, r, honest)
					return
				}
				write(w, honest(nil))
			})
			began := time.Now()
			scts, err := newSet(t, ctlog.Options{Logs: []ctlog.Log{l.asLog(t, "lab")}}).Submit(t.Context(),
				newAuthority(t).precert(t))
			if took := time.Since(began); err != nil || len(scts) != 1 || took < row.least ||
				took > row.least+time.Second {
				t.Errorf("%d SCTs, %v after %s", len(scts), err, took)
			}
		})
	}
}

// B8: the budget holds for any number of attempts, and even if a log in this process ignores its context.
func TestBudget(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	deaf := submitterFunc(func(context.Context, tbs.Precertificate) ([]byte,
		error,
	) {
		<-release
		return nil, errors.New("late")
	})
	s := newSet(t, ctlog.Options{
		Logs:   []ctlog.Log{{Name: "deaf", Key: newLog(t).key.Public(), Submitter: deaf}},
		Policy: ctlog.PolicyConfig{Attempt: 100 * time.Millisecond, Budget: 300 * time.Millisecond},
	})
	began := time.Now()
	_, err := s.Submit(t.Context(), newAuthority(t).precert(t))
	if took := time.Since(began); fault.From(err).Reason != fault.LogUnavailable || took > time.Second {
		t.Errorf("%v after %s", err, took)
	}
}

// B8 // B12: if the caller leaves, the error says so, and the log does not count as failed.
func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	own := fault.New(fault.NotReady, nil)
	for _, row := range []struct {
		name string
		ctx  func(context.Context) (context.Context, context.CancelFunc)
		want fault.Reason
	}{
		{"deadline", func(c context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(c, 50*time.Millisecond)
		}, fault.CallerDeadline},
		{"cancel", func(c context.Context) (context.Context, context.CancelFunc) {
			c, cancel := context.WithCancel(c)
			time.AfterFunc(50*time.Millisecond, cancel)
			return c, cancel
		}, fault.CallerCanceled},
		{"a limit of the server", func(c context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(c, 50*time.Millisecond, own)
		}, fault.NotReady},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t)
			l.set(hang)
			s := newSet(t, ctlog.Options{Logs: []ctlog.Log{l.asLog(t, "lab")}})
			p := newAuthority(t).precert(t)
			for range 6 {
				ctx, cancel := row.ctx(t.Context())
				began := time.Now()
				scts, err := s.Submit(ctx, p)
				cancel()
				if took := time.Since(began); scts != nil || fault.From(err).Reason != row.want || took > time.Second {
					t.Errorf("%v after %s", err, took)
				}
			}
			if st := s.Status()[0]; !st.OK {
				t.Errorf("status is %+v", st)
			}
		})
	}
}

// clock is a clock that the test sets.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.at.Load())) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

// B10: five failures set a log aside. While another log is left, it is tried by one submission a second. It is down
// until it returns an SCT, however much time passes; one SCT makes it usable again.
func TestBreaker(t *testing.T) {
	t.Parallel()
	l, c, p := newLog(t), &clock{}, newAuthority(t).precert(t)
	l.set(status(400, ""))
	s := newSet(t, ctlog.Options{
		Logs: []ctlog.Log{l.asLog(t, "lab"), newLog(t).asLog(t, "other")}, Now: c.now,
		Policy: ctlog.PolicyConfig{Parallel: 1},
	})
	submit := func() {
		t.Helper()
		if _, err := s.Submit(t.Context(), p); err != nil {
			t.Error(err)
		}
	}
	for i := range 5 {
		if st := s.Status()[0]; !st.OK {
			t.Fatalf("after %d failures: %+v", i, st)
		}
		submit()
	}
	if st := s.Status()[0]; st.OK || st.Cause == "" || time.Since(st.Since) > time.Minute {
		t.Errorf("after 5 failures: %+v", st)
	}
	if submit(); l.calls.Load() != 5 {
		t.Errorf("set aside, and yet call %d", l.calls.Load())
	}
	c.advance(1100 * time.Millisecond)
	submit()
	submit()
	if got := l.calls.Load(); got != 6 {
		t.Errorf("half open let %d calls pass, want 1", got-5)
	}
	c.advance(40 * time.Second)
	if st := s.Status()[0]; st.OK || st.Cause == "" {
		t.Errorf("healed by the passing of time: %+v", st)
	}
	l.set(nil)
	deadline := time.Now().Add(10 * time.Second)
	for st := s.Status()[0]; !st.OK && time.Now().Before(deadline); st = s.Status()[0] {
		c.advance(100 * time.Millisecond)
		submit()
	}
	if st := s.Status()[0]; !st.OK || st.Warning != "" || st.Cause != "" {
		t.Errorf("after a success: %+v", st)
	}
}

// B10: while the breaker of the only log is half-open, one submission probes the log. The others wait for the result,
// and proceed if the probe succeeds.
func TestBreakerProbesOnce(t *testing.T) {
	t.Parallel()
	l, c, p := newLog(t), &clock{}, newAuthority(t).precert(t)
	l.set(status(400, ""))
	s := newSet(t, ctlog.Options{Logs: []ctlog.Log{l.asLog(t, "lab")}, Now: c.now})
	for range 5 {
		_, _ = s.Submit(t.Context(), p)
	}
	calls := l.calls.Load()
	entered, release := make(chan struct{}, 10), make(chan struct{})
	l.set(func(w http.ResponseWriter, _ *http.Request, honest func(edit) map[string]any) {
		entered <- struct{}{}
		<-release
		write(w, honest(nil))
	})
	c.advance(1100 * time.Millisecond)
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if _, err := s.Submit(t.Context(), p); err != nil {
				t.Error(err)
			}
		})
	}
	<-entered
	pauseFor(t, 300*time.Millisecond)
	if got := l.calls.Load() - calls; got != 1 {
		t.Errorf("%d requests probe the log", got)
	}
	close(release)
	all.Wait()
}

// B10: a log that hangs is set aside although no submission waits for its timeout.
func TestSlowLogIsSetAside(t *testing.T) {
	t.Parallel()
	slow, good, p := newLog(t), newLog(t), newAuthority(t).precert(t)
	slow.set(hang)
	s := newSet(t, ctlog.Options{
		Logs:   []ctlog.Log{slow.asLog(t, "slow"), good.asLog(t, "good")},
		Policy: ctlog.PolicyConfig{Attempt: 400 * time.Millisecond, Stagger: 100 * time.Millisecond, Parallel: 1},
	})
	deadline := time.Now().Add(10 * time.Second)
	for s.Status()[0].OK && time.Now().Before(deadline) {
		if _, err := s.Submit(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if s.Status()[0].OK || !s.Status()[1].OK {
		t.Errorf("status is %+v", s.Status())
	}
}

// A panic in a log of this process fails an attempt, but does not end the process.
func TestPanicOfSubmitter(t *testing.T) {
	t.Parallel()
	bad := submitterFunc(func(context.Context, tbs.Precertificate) ([]byte, error) { panic("lab") })
	s := newSet(t, ctlog.Options{Logs: []ctlog.Log{{Name: "bad", Key: newLog(t).key.Public(), Submitter: bad}}})
	if _, err := s.Submit(t.Context(), newAuthority(t).precert(t)); fault.From(err).Reason != fault.LogUnavailable {
		t.Error(err)
	}
}

// F10: the number of series is bounded by logs and results.
func TestCollectors(t *testing.T) {
	t.Parallel()
	good, bad := newLog(t), newLog(t)
	bad.set(status(400, ""))
	s := newSet(t, ctlog.Options{
		Logs:   []ctlog.Log{bad.asLog(t, "bad"), good.asLog(t, "good")},
		Policy: ctlog.PolicyConfig{Parallel: 1},
	})
	if _, err := s.Submit(t.Context(), newAuthority(t).precert(t)); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s.Collectors()...)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, label := range m.GetLabel() {
				key += " " + label.GetValue()
			}
			got[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	want := map[string]float64{
		"mayfly_ctlog_attempts_total bad refused": 1, "mayfly_ctlog_attempts_total good accepted": 1,
		"mayfly_ctlog_attempt_seconds bad":  1,
		"mayfly_ctlog_attempt_seconds good": 1, "mayfly_ctlog_usable_ratio bad": 1, "mayfly_ctlog_usable_ratio good": 1,
		"mayfly_ctlog_benched_ratio bad": 0, "mayfly_ctlog_benched_ratio good": 0,
		"mayfly_ctlog_clock_offset_seconds good": 0, "mayfly_ctlog_clock_offset_seconds bad": 0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
