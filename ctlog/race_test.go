package ctlog_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/testkit/ct"
)

// B10: the policy says how many logs are tried at once; the first answers count.
func TestRace(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for _, row := range []struct {
		name   string
		slow   int // of three logs, from the first
		policy ctlog.PolicyConfig
		calls  []int
		most   time.Duration
	}{
		{"both at once", 1, ctlog.PolicyConfig{Stagger: 5 * time.Second}, []int{1, 1, 0}, 1900 * time.Millisecond},
		{
			"three at once", 2,
			ctlog.PolicyConfig{Stagger: 5 * time.Second, Parallel: 3},
			[]int{1, 1, 1},
			1900 * time.Millisecond,
		},
		// on a busy machine the second log takes longer than 200 ms
		{
			"one after the stagger", 1,
			ctlog.PolicyConfig{Stagger: 900 * time.Millisecond, Parallel: 1},
			[]int{1, 1, 0},
			1900 * time.Millisecond,
		},
		{
			"one more after the stagger", 2,
			ctlog.PolicyConfig{Stagger: 200 * time.Millisecond},
			[]int{1, 1, 1},
			1900 * time.Millisecond,
		},
		{
			"two SCTs of three logs", 1,
			ctlog.PolicyConfig{Stagger: 200 * time.Millisecond, MinSCTs: 2},
			[]int{1, 1, 1},
			1900 * time.Millisecond,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var logs []*ct.Log
			var configured []ctlog.Log
			for i := range 3 {
				// time to reach the others
				l, m := labLog(t, fmt.Sprint(i), ct.Options{Latency: 100 * time.Millisecond})
				if i < row.slow {
					l.SetFault(ct.Hang)
				}
				logs, configured = append(logs, l), append(configured, m)
			}
			s := newSet(t, ctlog.Options{Logs: configured, Policy: row.policy})
			p := ca.precert(t)
			began := time.Now()
			scts, err := s.Submit(t.Context(), p)
			took := time.Since(began)
			if err != nil || len(scts) != s.MinSCTs() || took > row.most {
				t.Fatalf("%d SCTs, %v after %s", len(scts), err, took)
			}
			for _, raw := range scts {
				signer(t, raw, p, configured)
			}
			var calls []int
			for _, l := range logs {
				calls = append(calls, l.Calls())
			}
			if diff := cmp.Diff(row.calls, calls); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// B9: after an error the next log is tried at once, long before the stagger.
func TestNextAtOnce(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	var configured []ctlog.Log
	for i, f := range []ct.Fault{ct.Error400, ct.Error503, ct.Reset, ct.None} {
		l, m := labLog(t, fmt.Sprint(i), ct.Options{})
		l.SetFault(f)
		configured = append(configured, m)
	}
	s := newSet(t, ctlog.Options{Logs: configured, Policy: ctlog.PolicyConfig{Parallel: 1, Stagger: 5 * time.Second}})
	began := time.Now()
	if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil || time.Since(began) > 3*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

// B2: the SCTs are of as many operators as the policy requires, or none is returned; a log whose SCT would not count is
// not tried.
func TestOperators(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for _, row := range []struct {
		name      string
		operators string // of the logs, one letter each
		down      string // digits of the logs that fail
		scts, ops int
		want      []string
		unasked   string
	}{
		{"two of two", "xxy", "", 2, 2, []string{"0", "2"}, "1"},
		{"the other log of an operator", "xxy", "0", 2, 2, []string{"1", "2"}, ""},
		{"the only log of an operator is down", "xxy", "2", 2, 2, nil, ""},
		{"three SCTs of two operators", "xxxy", "", 3, 2, []string{"0", "1", "3"}, "2"},
		{"without operators", "---", "0", 2, 2, []string{"1", "2"}, ""},
		{"a number alone", "xxx", "", 2, 1, []string{"0", "1"}, "2"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var configured []ctlog.Log
			var logs []*ct.Log
			for i, op := range row.operators {
				l, m := labLog(t, fmt.Sprint(i), ct.Options{})
				if op != '-' {
					m.Operator = string(op)
				}
				if strings.Contains(row.down, m.Name) {
					l.SetFault(ct.Error400)
				}
				logs, configured = append(logs, l), append(configured, m)
			}
			s := newSet(t, ctlog.Options{
				Logs:   configured,
				Policy: ctlog.PolicyConfig{MinSCTs: row.scts, MinOperators: row.ops, Stagger: 5 * time.Second},
			})
			p := ca.precert(t)
			began := time.Now()
			scts, err := s.Submit(t.Context(), p)
			var got []string
			for _, raw := range scts {
				got = append(got, signer(t, raw, p, configured))
			}
			slices.Sort(got)
			if diff := cmp.Diff(row.want, got); diff != "" || (err == nil) != (row.want != nil) ||
				time.Since(began) > 3*time.Second {
				t.Errorf("%v after %s: %s", err, time.Since(began), diff)
			}
			for _, name := range row.unasked {
				if n := logs[name-'0'].Calls(); n != 0 {
					t.Errorf("log %c was asked %d times", name, n)
				}
			}
		})
	}
}

// B6: the newest of several shards is tried first; otherwise the order is that of the configuration.
func TestNewestShardFirst(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	var configured []ctlog.Log
	for i, age := range []time.Duration{0, 30 * 24 * time.Hour, time.Hour, time.Hour} {
		_, m := labLog(t, fmt.Sprint(i), ct.Options{})
		if age > 0 {
			m.NotBefore = time.Now().Add(-age)
		}
		configured = append(configured, m)
	}
	configured[3].NotBefore = configured[2].NotBefore
	for n, want := range [][]string{{"2"}, {"2", "3"}, {"1", "2", "3"}, {"0", "1", "2", "3"}} {
		s := newSet(t, ctlog.Options{Logs: configured, Policy: ctlog.PolicyConfig{MinSCTs: n + 1, Parallel: n + 1}})
		if diff := cmp.Diff(want, askedOf(t, s, ca.precert(t), configured)); diff != "" {
			t.Error(diff)
		}
		if got := s.Status()[0].Name; got != "0" {
			t.Errorf("status begins with %s", got)
		}
	}
}

// A log that has reached its rate is passed over; if no other log is left, the submission waits as far as the budget
// allows.
func TestRate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	slow, few := labLog(t, "few", ct.Options{})
	few.Rate = 2
	other, many := labLog(t, "many", ct.Options{})

	s := newSet(t, ctlog.Options{Logs: []ctlog.Log{few, many}, Policy: ctlog.PolicyConfig{Parallel: 1}})
	began := time.Now()
	for range 6 {
		if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil {
			t.Fatal(err)
		}
	}
	if most := 2 + int(2*time.Since(began).Seconds()) + 1; slow.Calls() > most || slow.Calls()+other.Calls() != 6 {
		t.Errorf("%d calls at the log with a rate, %d at the other", slow.Calls(), other.Calls())
	}

	before := slow.Calls()
	s = newSet(t, ctlog.Options{Logs: []ctlog.Log{few}})
	began = time.Now()
	for range 4 { // two at once, then one each half second
		if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 900*time.Millisecond || took > 3*time.Second || slow.Calls() != before+4 {
		t.Errorf("4 submissions at 2 a second took %s", took)
	}

	few.Rate = 0.01
	s = newSet(t, ctlog.Options{Logs: []ctlog.Log{few}, Policy: ctlog.PolicyConfig{Budget: 3 * time.Second}})
	if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	_, err := s.Submit(t.Context(), ca.precert(t))
	if e := fault.From(err); e.Reason != fault.LogUnavailable || e.RetryAfter != 30*time.Second ||
		time.Since(began) > time.Second || !strings.Contains(err.Error(), "over its rate of 0.01") {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	few.Rate = -1
	if _, err := ctlog.New(ctlog.Options{Logs: []ctlog.Log{few}}); err == nil {
		t.Error("a negative rate passes")
	}
}

// B9: Retry-After holds for every submission, up to five seconds, while another log is left. Otherwise the log is tried
// from time to time.
func TestRetryAfterHoldsForAll(t *testing.T) {
	t.Parallel()
	ca, c := newAuthority(t), &clock{}
	l, m := labLog(t, "lab", ct.Options{})
	_, other := labLog(t, "other", ct.Options{})
	l.SetFault(ct.TooMany) // for a minute
	s := newSet(t, ctlog.Options{
		Logs: []ctlog.Log{m, other}, Now: c.now,
		Policy: ctlog.PolicyConfig{Budget: 3 * time.Second, Parallel: 1},
	})
	submit := func() {
		if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil {
			t.Error(err)
		}
	}
	for range 5 {
		submit()
	}
	if l.Calls() != 1 {
		t.Errorf("%d calls", l.Calls())
	}
	l.SetFault(ct.None)
	c.advance(5 * time.Second)
	if submit(); l.Calls() != 2 {
		t.Errorf("%d calls", l.Calls())
	}
	l, m = labLog(t, "alone", ct.Options{})
	l.SetFault(ct.TooMany)
	s = newSet(t, ctlog.Options{Logs: []ctlog.Log{m}, Policy: ctlog.PolicyConfig{Budget: 3 * time.Second}})
	began := time.Now()
	for range 5 {
		if _, err := s.Submit(t.Context(), ca.precert(t)); fault.From(err).Reason != fault.LogUnavailable {
			t.Error(err)
		}
	}
	if got, most := l.Calls(), 3+int(time.Since(began).Seconds()); got > most {
		t.Errorf("%d calls in %s", got, time.Since(began))
	}
}

// B10: a log that hangs while others always answer first delays no submission, and is nevertheless set aside; its
// recovery is noticed, too.
func TestHangingLogIsFoundOut(t *testing.T) {
	t.Parallel()
	ca, c := newAuthority(t), &clock{}
	dead, first := labLog(t, "dead", ct.Options{})
	_, second := labLog(t, "good", ct.Options{})
	dead.SetFault(ct.Hang)
	s := newSet(t, ctlog.Options{
		Logs: []ctlog.Log{first, second}, Now: c.now,
		Policy: ctlog.PolicyConfig{Attempt: 300 * time.Millisecond, Stagger: 250 * time.Millisecond},
	})
	submit := func() {
		if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil {
			t.Error(err)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for s.Status()[0].OK && time.Now().Before(deadline) {
		submit()
	}
	if st := s.Status(); st[0].OK || !strings.Contains(st[0].Cause, string(ctlog.TimedOut)) || !st[1].OK {
		t.Fatalf("status is %+v", st)
	}
	calls, began := dead.Calls(), time.Now()
	for range 20 {
		submit()
	}
	if got, most := dead.Calls()-calls, 1+int(time.Since(began).Seconds()); got > most { // one probe a second
		t.Errorf("set aside, and yet asked %d times", got)
	}
	dead.SetFault(ct.None)
	for st := s.Status()[0]; (!st.OK || st.Warning != "") && time.Now().Before(deadline); st = s.Status()[0] {
		c.advance(100 * time.Millisecond)
		submit()
	}
	if st := s.Status()[0]; !st.OK || st.Warning != "" {
		t.Errorf("status is %+v", st)
	}
}

// A slow log whose SCT is never needed is not set aside.
func TestSlowerLogIsNotSetAside(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, slow := labLog(t, "slow", ct.Options{Latency: 100 * time.Millisecond})
	_, fast := labLog(t, "fast", ct.Options{})
	s := newSet(t, ctlog.Options{Logs: []ctlog.Log{slow, fast}})
	for range 40 {
		if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Status()[0]; !st.OK || st.Warning != "" {
		t.Errorf("status is %+v", st)
	}
}

// Granted is called once for each SCT that is returned, and for no other.
func TestGranted(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	bad, first := labLog(t, "bad", ct.Options{})
	bad.SetFault(ct.BadSignature)
	configured := []ctlog.Log{first}
	for i := range 3 {
		_, m := labLog(t, fmt.Sprint(i), ct.Options{})
		configured = append(configured, m)
	}
	var grants []ctlog.Grant
	s := newSet(t, ctlog.Options{
		Logs: configured, Policy: ctlog.PolicyConfig{MinSCTs: 2, Parallel: 4},
		Granted: func(g ctlog.Grant) { grants = append(grants, g) },
	})
	p := ca.precert(t)
	scts, err := s.Submit(t.Context(), p)
	if err != nil || len(grants) != 2 {
		t.Fatalf("%d grants for %d SCTs, %v", len(grants), len(scts), err)
	}
	for i, g := range grants {
		if !slices.Equal(g.SCT, scts[i]) || g.Log != signer(t, scts[i], p, configured) ||
			!slices.Equal(g.Precertificate.DER, p.DER) {
			t.Errorf("grant %d is of log %s", i, g.Log)
		}
	}
	grants = nil
	s = newSet(t, ctlog.Options{Logs: configured[:1], Granted: func(g ctlog.Grant) { grants = append(grants, g) }})
	if _, err := s.Submit(t.Context(), p); err == nil || grants != nil {
		t.Errorf("%v, and %d grants", err, len(grants))
	}
}

// A log in quarantine is not tried and is down with the cause, until its release.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	a, first := labLog(t, "a", ct.Options{})
	_, second := labLog(t, "b", ct.Options{})
	s := newSet(t, ctlog.Options{Logs: []ctlog.Log{first, second}})
	s.Quarantine("a", "a missing entry")
	check := func(cause string, calls int) {
		t.Helper()
		if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil {
			t.Error(err)
		}
		st := s.Status()[0]
		if st.OK != (cause == "") || cause != "" && st.Cause != "quarantined: "+cause || a.Calls() > calls {
			t.Errorf("status %+v after %d calls", st, a.Calls())
		}
	}
	check("a missing entry", 0)
	if s.Release("c") || !s.Release("a") {
		t.Error("Release found the wrong logs")
	}
	check("", 1)
	if s.Quarantine("c", "x") || !s.Quarantine("a", "entry 7 is not there") {
		t.Error("Quarantine found the wrong logs")
	}
	check("entry 7 is not there", 1)
	if !s.Quarantine("b", "") || s.Health() == nil {
		t.Error("both logs are in quarantine, and the set is healthy")
	}
	_, err := s.Submit(t.Context(), ca.precert(t))
	if fault.From(err).Reason != fault.LogUnavailable ||
		!strings.Contains(err.Error(), "log a: quarantined: entry 7 is not there") {
		t.Error(err)
	}
	if gauge(t, s, "mayfly_ctlog_benched_ratio a") != 1 || gauge(t, s, "mayfly_ctlog_usable_ratio a") != 0 {
		t.Error("the metrics do not say so")
	}
}

// B1: a log that is quarantined during an attempt contributes no SCT to a certificate, and is not tried again.
func TestQuarantinedMeanwhile(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	a, second := newLog(t), newLog(t)
	configured := []ctlog.Log{a.asLog(t, "a"), second.asLog(t, "b")}
	s := newSet(t, ctlog.Options{Logs: configured, Policy: ctlog.PolicyConfig{Parallel: 1}})
	for _, code := range []int{http.StatusOK, http.StatusServiceUnavailable} {
		s.Release("a")
		calls := a.calls.Load()
		a.set(func(w http.ResponseWriter, _ *http.Request, honest func(edit) map[string]any) {
			s.Quarantine("a", "it forgot an entry")
			w.WriteHeader(code)
			write(w, honest(nil))
		})
		p := ca.precert(t)
		scts, err := s.Submit(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if from := signer(t, scts[0], p, configured); from != "b" || a.calls.Load() != calls+1 {
			t.Errorf("%d: an SCT of %s after %d calls", code, from, a.calls.Load()-calls)
		}
	}
}

// Health reports whether a Submit would succeed.
func TestHealth(t *testing.T) {
	t.Parallel()
	_, a := labLog(t, "a", ct.Options{})
	_, b := labLog(t, "b", ct.Options{})
	_, c := labLog(t, "c", ct.Options{})
	of := func(m ctlog.Log, operator string) ctlog.Log { m.Operator = operator; return m }
	over, aside := b, b
	over.NotAfter, aside.Detached = time.Now().Add(5*time.Minute), true
	one, two := ctlog.PolicyConfig{}, ctlog.PolicyConfig{MinSCTs: 2, MinOperators: 2}
	for _, row := range []struct {
		name        string
		configured  []ctlog.Log
		policy      ctlog.PolicyConfig
		quarantined string
		want        string
	}{
		{"good", []ctlog.Log{a, b}, two, "", ""},
		{
			"one is in quarantine",
			[]ctlog.Log{a, b},
			two, "a",
			"1 of 2 logs can return SCTs, 2 are needed; a: quarantined",
		},
		{"one is enough", []ctlog.Log{a, b}, one, "a", ""},
		{"one ends soon", []ctlog.Log{a, over}, two, "", "b: its window does not cover"},
		{
			"of one operator",
			[]ctlog.Log{of(a, "x"), of(b, "x"), of(c, "y")},
			two, "c",
			"have 1 operators, 2 are needed; c: quarantined",
		},
		{"of two operators", []ctlog.Log{of(a, "x"), of(b, "y")}, two, "", ""},
		{"one does not count", []ctlog.Log{a, aside}, one, "a", "0 of 1 logs can return SCTs"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newSet(t, ctlog.Options{Logs: row.configured, Policy: row.policy})
			s.Quarantine(row.quarantined, "x")
			if err := s.Health(); (err == nil) != (row.want == "") ||
				err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("%v, want %q", err, row.want)
			}
		})
	}
}

// B5: the extensions of an SCT reach the certificate unchanged.
func TestLeafIndexIsCopied(t *testing.T) {
	t.Parallel()
	index := []byte{0, 0, 5, 0, 0, 0, 1, 44}
	_, m := labLog(t, "static", ct.Options{Extensions: index})
	p := newAuthority(t).precert(t)
	scts, err := newSet(t, ctlog.Options{Logs: []ctlog.Log{m}}).Submit(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	signer(t, scts[0], p, []ctlog.Log{m})
	if !strings.Contains(string(scts[0]), string(index)) {
		t.Errorf("%x", scts[0])
	}
}

// A caller that leaves while a probe of a dead log is under way does not have to wait for it.
func TestProbeBlocksNoCaller(t *testing.T) {
	t.Parallel()
	c := &clock{}
	l := newLog(t)
	l.set(status(http.StatusBadRequest, ""))
	s := newSet(t, ctlog.Options{
		Logs: []ctlog.Log{l.asLog(t, "lab")}, Now: c.now,
		Policy: ctlog.PolicyConfig{Attempt: time.Second, Budget: 5 * time.Second},
	})
	p := newAuthority(t).precert(t)
	for range 5 {
		_, _ = s.Submit(t.Context(), p)
	}
	l.set(hang)
	c.advance(1100 * time.Millisecond)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := s.Submit(ctx, p); fault.From(err).Reason != fault.CallerDeadline || time.Since(began) > 2*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

// C2: a reload replaces a set while a submission waits for a probe: the submission nevertheless gets its SCT.
func TestProbeOutlivesReload(t *testing.T) {
	t.Parallel()
	c, l, ca := &clock{}, newLog(t), newAuthority(t)
	l.set(status(http.StatusBadRequest, ""))
	s := newSet(t, ctlog.Options{Logs: []ctlog.Log{l.asLog(t, "lab")}, Now: c.now})
	ctx, reload := context.WithCancel(t.Context())
	defer reload()
	s.Watch(ctx, ca.root)
	p := ca.precert(t)
	for range 5 {
		_, _ = s.Submit(t.Context(), p)
	}
	l.set(func(w http.ResponseWriter, r *http.Request, honest func(edit) map[string]any) {
		reload()
		select {
		case <-r.Context().Done():
			t.Error("the probe was given up")
		case <-time.After(300 * time.Millisecond):
		}
		write(w, honest(nil))
	})
	c.advance(1100 * time.Millisecond)
	if _, err := s.Submit(t.Context(), p); err != nil {
		t.Error(err)
	}
}
