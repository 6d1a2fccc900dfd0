package ctlog_test

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// labLog starts a log with configurable faults, and opens it for a set.
func labLog(t testing.TB, name string, o ct.Options) (*ct.Log, ctlog.Log) {
	t.Helper()
	l := ct.New(t, o)
	return l, openLab(t, l, remote.Config{Name: name, URL: l.URL()})
}

func openLab(t testing.TB, l *ct.Log, c remote.Config) ctlog.Log {
	t.Helper()
	r, err := remote.Open(c, remote.Options{PublicKeyPEM: l.PublicKeyPEM(), UserAgent: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return ctlog.Log{Log: r.Log, Submitter: r, Rate: c.Rate, Detached: !c.Embeds()}
}

// signer returns the name of the log that issued raw for p. It fails the test unless raw verifies.
func signer(t testing.TB, raw []byte, p tbs.Precertificate, configured []ctlog.Log) string {
	t.Helper()
	s, err := tbs.ParseSCT(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range configured {
		spki, err := x509.MarshalPKIXPublicKey(m.Key)
		if err != nil {
			t.Fatal(err)
		}
		if s.LogID == sha256.Sum256(spki) && s.Verify(m.Key, p.Entry) == nil &&
			time.Since(s.Time()).Abs() < time.Minute {
			return m.Name
		}
	}
	t.Errorf("an SCT that does not verify: %x", raw)
	return ""
}

// wants returns the result that each fault must have, and the number of tries.
func wants(f ct.Fault) (result ctlog.Result, tries int) {
	switch f {
	case ct.BadSignature, ct.OtherLog, ct.OtherPrecert, ct.OtherIssuer, ct.X509Entry, ct.Replay, ct.UnsignedExtensions:
		return ctlog.Unverified, 3
	case ct.Future, ct.Past:
		return ctlog.Skewed, 3
	case ct.Version2, ct.Garbage, ct.HTML, ct.EmptyObject, ct.Huge, ct.Trailing, ct.TrailingBytes:
		return ctlog.Garbled, 3
	case ct.Redirect, ct.SeeOther, ct.Error404:
		return ctlog.Refused, 3
	case ct.Error400, ct.UnknownRoot, ct.Closed:
		return ctlog.Refused, 1
	case ct.TooMany, ct.TooManyDate, ct.TooManyHuge, ct.Error503Long: // for longer than the budget
		return ctlog.Busy, 1
	case ct.Error408, ct.TooManyPast, ct.TooManyShort, ct.Error503:
		return ctlog.Busy, 6
	case ct.Error500, ct.Error502, ct.Error504:
		return ctlog.Broken, 6
	case ct.Reset, ct.ResetAfter:
		return ctlog.Unreachable, 6
	case ct.Hang, ct.HangInBody, ct.SlowLoris:
		return ctlog.TimedOut, 3
	}
	return "", 0
}

// policyFor returns short limits if all logs fail, and otherwise limits that a busy machine meets.
func policyFor(who string) ctlog.PolicyConfig {
	if who == "all" {
		return ctlog.PolicyConfig{
			Attempt: 1300 * time.Millisecond, Stagger: 50 * time.Millisecond,
			Budget: 1500 * time.Millisecond,
		}
	}
	return ctlog.PolicyConfig{Attempt: 5 * time.Second, Stagger: 50 * time.Millisecond, Budget: 10 * time.Second}
}

// For every fault of the first log, the second log, or all logs: every returned SCT verifies, the error has the right
// class and comes in time, the log is not tried too often, and the set recovers when the fault ends. B1 // B2 // B3 //
// B8 // B9 // B10 // B11
func TestFaultMatrix(t *testing.T) {
	t.Parallel()
	authority := newAuthority(t)
	for _, f := range ct.Faults() {
		for _, who := range []string{"first", "second", "all"} {
			t.Run(string(f)+"/"+who, func(t *testing.T) {
				t.Parallel()
				a, first := labLog(t, "first", ct.Options{Roots: []*x509.Certificate{authority.root}})
				b, second := labLog(t, "second", ct.Options{Roots: []*x509.Certificate{authority.root}})
				c := &clock{}
				w := faultRun{
					authority: authority, clock: c, configured: []ctlog.Log{first, second},
					logs: map[string]*ct.Log{"first": a, "second": b}, fault: f, policy: policyFor(who),
				}
				w.set = newSet(t, ctlog.Options{Logs: w.configured, Policy: w.policy, Now: c.now})
				watch(t, w.set, authority.root)
				for _, l := range w.logs { // connections, and an SCT to replay
					w.alone(t, l)
				}
				if who == "all" {
					w.allFail(t)
				} else {
					w.oneFails(t, who)
				}
				w.recovers(t)
			})
		}
	}
}

type faultRun struct {
	authority  authority
	clock      *clock
	configured []ctlog.Log
	logs       map[string]*ct.Log
	fault      ct.Fault
	policy     ctlog.PolicyConfig
	set        *ctlog.Set
}

// alone makes the given log answer first.
func (w *faultRun) alone(t *testing.T, l *ct.Log) {
	t.Helper()
	for _, m := range w.configured {
		if w.logs[m.Name] == l {
			if _, err := m.Submitter.Submit(t.Context(), w.authority.precert(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// oneFails checks that the other log returns an SCT within the stagger, whether both are tried at once or not.
func (w *faultRun) oneFails(t *testing.T, who string) {
	t.Helper()
	w.logs[who].SetFault(w.fault)
	for range 8 {
		p := w.authority.precert(t)
		began := time.Now()
		scts, err := w.set.Submit(t.Context(), p)
		if err != nil || len(scts) != 1 {
			t.Fatalf("%d SCTs and %v", len(scts), err)
		}
		if got := signer(t, scts[0], p, w.configured); got == who {
			t.Errorf("the SCT is of the log that fails")
		}
		if took := time.Since(began); took > w.policy.Stagger+3*time.Second { // a machine under load
			t.Errorf("took %s", took)
		}
	}
	if calls := w.logs[who].Calls() - 1; calls > 8 {
		t.Errorf("%d calls for 8 requests", calls)
	}
}

// allFail checks for an error of the right class, in time, without too many tries.
func (w *faultRun) allFail(t *testing.T) {
	t.Helper()
	for _, l := range w.logs {
		l.SetFault(w.fault)
	}
	want, tries := wants(w.fault)
	began := time.Now()
	scts, err := w.set.Submit(t.Context(), w.authority.precert(t))
	took := time.Since(began)
	var one *ctlog.Failure
	switch {
	case w.fault == ct.Replay && err == nil: // the SCT of this very precertificate, the second time
	case scts != nil || !errors.As(err, &one) || one.Result != want:
		t.Errorf("%d SCTs and %v; want %s", len(scts), err, want)
	}
	if e := fault.From(err); err != nil && e.Kind != fault.Unavailable {
		t.Errorf("error %+v", e)
	}
	if took > w.policy.Budget+time.Second {
		t.Errorf("took %s", took)
	}
	for name, l := range w.logs {
		if got := l.Calls() - 1; got > tries {
			t.Errorf("log %s was asked %d times for one request, want at most %d", name, got, tries)
		}
	}
	if w.fault == ct.Replay {
		return
	}
	const callers = 8
	before := w.logs["first"].Calls()
	began = time.Now()
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			if _, err := w.set.Submit(t.Context(), w.authority.precert(t)); err == nil {
				t.Error("an SCT of logs that fail")
			}
		})
	}
	all.Wait()
	if rate, most := w.logs["first"].Calls()-before, 5+3*callers+int(time.Since(began).Seconds()*2); rate > most {
		t.Errorf("%d calls for %d requests in %s", rate, callers, time.Since(began))
	}
}

// recovers checks that the set recovers within five seconds, by its own clock.
func (w *faultRun) recovers(t *testing.T) {
	t.Helper()
	for _, l := range w.logs {
		l.SetFault(ct.None)
	}
	w.clock.advance(5 * time.Second)
	deadline := time.Now().Add(10 * time.Second)
	up := func(s ctlog.Status) bool { return s.OK && s.Warning == "" }
	for {
		p := w.authority.precert(t)
		p.NotBefore, p.NotAfter = p.NotBefore.Add(5*time.Second), p.NotAfter.Add(5*time.Second)
		scts, err := w.set.Submit(t.Context(), p)
		if err == nil {
			signer(t, scts[0], p, w.configured)
			if st := w.set.Status(); slices.ContainsFunc(st, up) && w.set.Clock() == nil && w.set.Health() == nil {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no recovery: %v, %+v", err, w.set.Status())
		}
		pauseFor(t, 10*time.Millisecond)
	}
}

// pauseFor waits between two polls.
func pauseFor(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	<-ctx.Done()
}

// The only log fails in every way, and then works again: within five seconds submissions succeed and the set is
// healthy, with and without requests. While the log fails, and a submission has shown it, the set is not healthy,
// however much time passes. B9 // B10
func TestRecoveryOfTheOnlyLog(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	var all sync.WaitGroup
	for _, f := range ct.Faults() {
		for _, quiet := range []bool{false, true} {
			all.Go(func() { recoverAlone(t, ca, f, quiet) })
		}
	}
	all.Wait()
}

// recoverAlone runs in a separate goroutine: it mostly waits, and the limit of parallel tests would be too low for all
// of them.
func recoverAlone(t *testing.T, ca authority, f ct.Fault, quiet bool) {
	l, m := labLog(t, "only", ct.Options{Roots: []*x509.Certificate{ca.root}})
	s := newSet(t, ctlog.Options{
		Logs:   []ctlog.Log{m},
		Policy: ctlog.PolicyConfig{Attempt: 1200 * time.Millisecond, Budget: 1500 * time.Millisecond},
	})
	watch(t, s, ca.root)
	submit := func() error { _, err := s.Submit(t.Context(), ca.precert(t)); return err }
	within := func(limit time.Duration, what string, holds func() bool) {
		for deadline := time.Now().Add(limit); !holds(); pauseFor(t, 20*time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("%s (quiet %t): not %s within %s: %+v", f, quiet, what, limit, s.Status())
				return
			}
		}
	}
	within(10*time.Second, "healthy at first", func() bool { return s.Health() == nil })
	within(20*time.Second, "issuing at first", func() bool { return submit() == nil })
	l.SetFault(f)
	within(20*time.Second, "seen", func() bool { _ = submit(); return s.Health() != nil || f == ct.Replay })
	for range 10 {
		if pauseFor(t, 50*time.Millisecond); s.Health() == nil && f != ct.Replay {
			t.Errorf("%s: healthy without a proof", f)
			break
		}
	}
	l.SetFault(ct.None)
	const limit = 5*time.Second + 5*time.Second // and what a machine under load takes
	if !quiet {
		within(limit, "issuing", func() bool { return submit() == nil })
	}
	within(limit, "healthy", func() bool { return s.Health() == nil })
}

// A fault that ends within the budget delays the submission, but does not fail it. B9
func TestBlip(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	var all sync.WaitGroup
	for _, f := range ct.Faults() {
		switch f {
		case ct.Error400, ct.UnknownRoot, ct.Closed, // the log says that the request is bad
			ct.TooMany, ct.TooManyDate, ct.TooManyHuge, ct.Error503Long: // see the next test
			continue
		}
		all.Go(func() {
			l, m := labLog(t, "only", ct.Options{})
			s := newSet(t, ctlog.Options{
				Logs:   []ctlog.Log{m},
				Policy: ctlog.PolicyConfig{Attempt: 2500 * time.Millisecond, Budget: 10 * time.Second},
			})
			l.SetFault(f)
			ended := make(chan struct{})
			go func() { // when the log has answered once
				defer close(ended)
				for l.Calls() == 0 {
					pauseFor(t, 5*time.Millisecond)
				}
				pauseFor(t, 20*time.Millisecond)
				l.SetFault(ct.None)
			}()
			if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil {
				t.Errorf("%s: %v", f, err)
			}
			<-ended
		})
	}
	all.Wait()
}

// Retry-After is obeyed, up to five seconds, if no other log is left and the budget allows it. B9
func TestLongRetryAfterIsWaitedFor(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	l, m := labLog(t, "only", ct.Options{})
	s := newSet(t, ctlog.Options{Logs: []ctlog.Log{m}})
	l.SetFault(ct.TooManyHuge)
	began := time.Now()
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil || l.Calls() > 3 {
			t.Errorf("%v after %d calls", err, l.Calls())
		}
	})
	eventually(t, "asked", func() bool { return l.Calls() > 0 })
	l.SetFault(ct.None)
	all.Wait()
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("took %s", took)
	}
}

// A log with a wrong pinned key does not count as usable, at the start and later; the cause names the key. With the
// right key the set is healthy without a request. B1
func TestWrongKey(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	l := ct.New(t, ct.Options{Roots: []*x509.Certificate{ca.root}})
	other := pki.PublicPEM(newKey(t, elliptic.P256()).Public())
	r, err := remote.Open(remote.Config{Name: "lab", URL: l.URL()}, remote.Options{PublicKeyPEM: other})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	c := &clock{}
	s := newSet(t, ctlog.Options{
		Logs: []ctlog.Log{{Name: "lab", Key: r.Key, Submitter: r}}, Now: c.now,
		Policy: ctlog.PolicyConfig{Attempt: time.Second},
	})
	watch(t, s, ca.root)
	eventually(t, "found out",
		func() bool { return !s.Status()[0].OK && strings.Contains(s.Status()[0].Cause, "pinned key") })
	_, err = s.Submit(t.Context(), ca.precert(t))
	if e := fault.From(err); e.Reason != fault.LogUnavailable ||
		!strings.Contains(e.Meta["cause"], "does not verify with the configured key") {
		t.Errorf("%+v", e)
	}
	c.advance(50 * time.Second)
	for range 20 {
		if pauseFor(t, 50*time.Millisecond); s.Health() == nil {
			t.Fatal("healed by the passing of time")
		}
	}
	if got := l.Calls(); got > 3 { // and no submissions in the background, which a head has shown to be in vain
		t.Errorf("%d calls", got)
	}
}
