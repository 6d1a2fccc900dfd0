package ctlog_test

import (
	"crypto/x509"
	"errors"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/testkit/ct"
)

// G7 B3: if all logs disagree with our clock in one direction, our clock is wrong: nothing is issued, with the reason,
// until the clocks agree again.
func TestOurClockIsWrong(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		off  time.Duration // of all logs
		want string
	}{
		{"behind", 95 * time.Second, "this machine's clock is 95 s behind all logs"},
		{"ahead", -time.Hour, "this machine's clock is 3600 s ahead of all logs"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ca := newAuthority(t)
			a, first := labLog(t, "a", ct.Options{})
			b, second := labLog(t, "b", ct.Options{})
			a.SetSkew(row.off)
			b.SetSkew(row.off + time.Second)
			s := newSet(t, ctlog.Options{
				Logs:   []ctlog.Log{first, second},
				Policy: ctlog.PolicyConfig{Attempt: time.Second},
			})
			watch(t, s, ca.root)
			eventually(t, "stopped", func() bool {
				_, err := s.Submit(t.Context(), ca.precert(t))
				if err == nil {
					t.Error("an SCT from a time that is not now")
				}
				return s.Clock() != nil
			})
			// The Date header has a resolution of a second: the offset may differ by one.
			if got := s.Clock(); !near(got.Error(), row.want) {
				t.Errorf("%v, want %s", got, row.want)
			}
			if off := gauge(t, s, "mayfly_ctlog_clock_offset_seconds a"); math.Abs(off-row.off.Seconds()) > 3 {
				t.Errorf("offset is %g", off)
			}
			entries := len(a.Entries()) + len(b.Entries())
			_, err := s.Submit(t.Context(), ca.precert(t))
			if e := fault.From(err); e.Reason != fault.NotReady || !near(e.Meta["cause"], row.want) ||
				len(a.Entries())+len(b.Entries()) != entries {
				t.Errorf("%+v, and %d entries more", e, len(a.Entries())+len(b.Entries())-entries)
			}
			a.SetSkew(0)
			b.SetSkew(0)
			eventually(t, "lifted", func() bool { return s.Clock() == nil })
			eventually(t, "issued", func() bool { _, err := s.Submit(t.Context(), ca.precert(t)); return err == nil })
		})
	}
}

// near compares texts in which a number may differ by two.
func near(got, want string) bool {
	fields, wanted := strings.Fields(got), strings.Fields(want)
	if len(fields) != len(wanted) {
		return false
	}
	for i, f := range fields {
		if x, err := time.ParseDuration(f + "s"); err == nil {
			if y, err := time.ParseDuration(wanted[i] + "s"); err == nil && (x-y).Abs() <= 2*time.Second {
				continue
			}
		}
		if f != wanted[i] {
			return false
		}
	}
	return true
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not %s", what)
		}
		pauseFor(t, 5*time.Millisecond)
	}
}

// B3: if one of several logs has a wrong clock, that log is set aside, and issuance continues.
func TestOneLogsClockIsWrong(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	a, first := labLog(t, "a", ct.Options{Roots: []*x509.Certificate{ca.root}})
	_, second := labLog(t, "b", ct.Options{Roots: []*x509.Certificate{ca.root}})
	a.SetSkew(-2 * time.Minute)
	s := newSet(t, ctlog.Options{Logs: []ctlog.Log{first, second}, Policy: ctlog.PolicyConfig{Attempt: time.Second}})
	watch(t, s, ca.root)
	eventually(t, "set aside", func() bool {
		p := ca.precert(t)
		scts, err := s.Submit(t.Context(), p)
		if err != nil || signer(t, scts[0], p, []ctlog.Log{first, second}) != "b" || s.Clock() != nil {
			t.Errorf("%v, clock %v", err, s.Clock())
		}
		st := s.Status()[0]
		return !st.OK && strings.Contains(st.Cause, "skewed")
	})
	calls, began := a.Calls(), time.Now()
	for range 20 {
		if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil || s.Clock() != nil {
			t.Errorf("%v, clock %v", err, s.Clock())
		}
	}
	if a.Calls() > calls+2+int(time.Since(began)/time.Second) { // one probe a second
		t.Errorf("%d calls of a log that is set aside", a.Calls()-calls)
	}
}

// Two logs that disagree with us and with each other are no evidence about our clock; neither is a log that contradicts
// itself.
func TestLogsDisagree(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for _, row := range []struct {
		name string
		set  func(a, b *ct.Log)
	}{
		{"with each other", func(a, b *ct.Log) { a.SetSkew(10 * time.Minute); b.SetSkew(-10 * time.Minute) }},
		{"with themselves", func(a, b *ct.Log) { a.SetFault(ct.Future); b.SetFault(ct.Future) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			a, first := labLog(t, "a", ct.Options{})
			b, second := labLog(t, "b", ct.Options{})
			row.set(a, b)
			s := newSet(t, ctlog.Options{
				Logs:   []ctlog.Log{first, second},
				Policy: ctlog.PolicyConfig{Attempt: time.Second},
			})
			watch(t, s, ca.root)
			eventually(t, "a sample of both", func() bool { // their Date
				return !math.IsNaN(gauge(t, s, "mayfly_ctlog_clock_offset_seconds a")) &&
					!math.IsNaN(gauge(t, s, "mayfly_ctlog_clock_offset_seconds b"))
			})
			for range 5 {
				if _, err := s.Submit(t.Context(), ca.precert(t)); fault.From(err).Reason != fault.LogUnavailable ||
					s.Clock() != nil {
					t.Errorf("%v, clock %v", err, s.Clock())
				}
			}
		})
	}
}

// G7: a log that does not return its time does not prevent the detection of a wrong clock.
func TestMuteLogIsNoWitness(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	a, first := labLog(t, "a", ct.Options{})
	a.SetSkew(3 * time.Minute)
	silent := newLog(t)
	inner := silent.Config.Handler
	silent.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		if r.Method == http.MethodGet {
			http.NotFound(w, r)
			return
		}
		inner.ServeHTTP(w, r)
	})
	silent.set(status(http.StatusBadRequest, ""))
	s := newSet(t, ctlog.Options{
		Logs:   []ctlog.Log{first, silent.asLog(t, "silent")},
		Policy: ctlog.PolicyConfig{Attempt: time.Second},
	})
	watch(t, s, ca.root)
	eventually(t, "stopped", func() bool {
		_, err := s.Submit(t.Context(), ca.precert(t))
		return err != nil && s.Clock() != nil
	})
}

// G7: a set that replaces one with a wrong clock starts stopped, until its logs agree with our clock. A set without
// logs outside the process does not, because no log could end that state.
func TestDoubtGoesOver(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	doubt := errors.New("this machine's clock is 95 s behind all logs")
	_, a := labLog(t, "a", ct.Options{})
	s := newSet(t, ctlog.Options{Logs: []ctlog.Log{a}, Stopped: doubt})
	if _, err := s.Submit(t.Context(), ca.precert(t)); fault.From(err).Reason != fault.NotReady {
		t.Errorf("issued in doubt: %v", err)
	}
	watch(t, s, ca.root)
	eventually(t, "lifted", func() bool { return s.Clock() == nil })
	local := ctlog.Log{Log: loglist.Log{Name: "b", Key: a.Key}, Submitter: submitterFunc(nil)}
	if s := newSet(t, ctlog.Options{Logs: []ctlog.Log{local}, Stopped: doubt}); s.Clock() != nil {
		t.Errorf("stopped for ever: %v", s.Clock())
	}
}

// B9: while one log disagrees, the others are asked for their time, but a log that does not return it is not asked
// continuously.
func TestMuteLogIsNotHurried(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	a, first := labLog(t, "a", ct.Options{})
	a.SetSkew(-2 * time.Minute)
	_, second := labLog(t, "b", ct.Options{})
	silent := newLog(t)
	var asked atomic.Int64
	silent.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			asked.Add(1)
		}
		w.Header()["Date"] = nil
		http.NotFound(w, r)
	})
	s := newSet(t, ctlog.Options{
		Logs:   []ctlog.Log{first, second, silent.asLog(t, "silent")},
		Policy: ctlog.PolicyConfig{Attempt: time.Second},
	})
	watch(t, s, ca.root)
	eventually(t, "a sample", func() bool {
		if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil {
			t.Error(err)
		}
		return !s.Status()[0].OK && asked.Load() > 0
	})
	pauseFor(t, 500*time.Millisecond)
	if n := asked.Load(); n > 10 { // for roots and for a head
		t.Errorf("asked %d times", n)
	}
}
