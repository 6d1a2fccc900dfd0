package ctlog_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/testkit/ct"
)

// B4: a log whose key is not published receives every precertificate, and its SCTs are verified, but embedded in no
// certificate.
func TestDetachedLog(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, first := labLog(t, "old", ct.Options{})
	l, second := labLog(t, "new", ct.Options{})
	second.Detached = true
	configured := []ctlog.Log{second, first}
	s := newSet(t, ctlog.Options{Logs: configured})
	watch(t, s, ca.root)
	submit := func() {
		t.Helper()
		p := ca.precert(t)
		scts, err := s.Submit(t.Context(), p)
		if err != nil || len(scts) != 1 || signer(t, scts[0], p, configured) != "old" {
			t.Fatalf("%d SCTs, %v", len(scts), err)
		}
		eventually(t, "passed on", func() bool {
			return slices.ContainsFunc(l.Entries(), func(der []byte) bool { return slices.Equal(der, p.DER) })
		})
	}
	for range 3 {
		submit()
	}
	eventually(t, "counted", func() bool { return gauge(t, s, "mayfly_ctlog_attempts_total new accepted") == 3 })

	l.SetFault(ct.BadSignature)
	submit()
	eventually(t, "verified", func() bool { return gauge(t, s, "mayfly_ctlog_attempts_total new unverified") == 1 })
	if err := s.Health(); err != nil {
		t.Error(err)
	}
}

// A detached log that is dead or slow delays no request, uses bounded memory, and is reported.
func TestDeadDetachedLog(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, first := labLog(t, "old", ct.Options{})
	l, second := labLog(t, "new", ct.Options{})
	second.Detached = true
	l.SetFault(ct.Hang)
	s := newSet(t, ctlog.Options{
		Logs:   []ctlog.Log{first, second},
		Policy: ctlog.PolicyConfig{Attempt: 500 * time.Millisecond},
	})
	watch(t, s, ca.root)
	p := ca.precert(t)
	began := time.Now()
	for range 400 {
		if _, err := s.Submit(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > 20*time.Second { // one that waited for the dead log would take 200
		t.Errorf("400 requests took %s", took)
	}
	eventually(t, "dropped", func() bool { return gauge(t, s, "mayfly_ctlog_attempts_total new dropped") > 100 })
	if l.Calls() > 30 {
		t.Errorf("%d calls of a dead log", l.Calls())
	}
	eventually(t, "seen", func() bool { return !s.Status()[1].OK })
	if err := s.Health(); err != nil {
		t.Error(err)
	}
}

// The rate limits submissions in the background, too.
func TestDetachedLogHasARate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, first := labLog(t, "old", ct.Options{})
	l, second := labLog(t, "new", ct.Options{})
	second.Detached, second.Rate = true, 4
	s := newSet(t, ctlog.Options{Logs: []ctlog.Log{first, second}})
	watch(t, s, ca.root)
	began := time.Now()
	for range 7 {
		if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "passed on", func() bool { return len(l.Entries()) == 7 })
	if took := time.Since(began); took < 700*time.Millisecond { // four at once, then one each quarter of a second
		t.Errorf("7 entries in %s", took)
	}
}

// The queue of a detached log is dropped and counted when the set is replaced.
func TestDetachedQueueIsGivenUp(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, first := labLog(t, "old", ct.Options{})
	_, second := labLog(t, "new", ct.Options{})
	second.Detached, second.Rate = true, .1 // one at once, the next in ten seconds
	s := newSet(t, ctlog.Options{Logs: []ctlog.Log{first, second}})
	ctx, reload := context.WithCancel(t.Context())
	defer reload()
	s.Watch(ctx, ca.root)
	for range 6 {
		if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil {
			t.Fatal(err)
		}
	}
	const queue = "mayfly_ctlog_background_queue_entries new"
	eventually(t, "taken up", func() bool { return gauge(t, s, queue) == 3 }) // one is sent, two wait for the rate
	reload()
	eventually(t, "given up", func() bool {
		return gauge(t, s, queue) == 0 && gauge(t, s, "mayfly_ctlog_attempts_total new dropped") == 5
	})
}
