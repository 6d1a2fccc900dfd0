package ctlog_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// until polls the status of the first log.
func until(t *testing.T, s *ctlog.Set, what string, holds func(ctlog.Status) bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !holds(s.Status()[0]) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: status is %+v", what, s.Status()[0])
		}
	}
}

func watch(t *testing.T, s *ctlog.Set, root *x509.Certificate) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s.Watch(ctx, root)
	t.Cleanup(func() { cancel(); s.Wait() })
}

// B6: a log that does not accept our root is named in a warning, until it accepts the root.
func TestWatchRoots(t *testing.T) {
	t.Parallel()
	ours, other := newAuthority(t), newAuthority(t)
	l := newLog(t, other.root)
	s := newSet(t, ctlog.Options{
		Logs:   []ctlog.Log{l.asLog(t, "lab")},
		Policy: ctlog.PolicyConfig{Attempt: 200 * time.Millisecond},
	})
	watch(t, s, ours.root)
	until(t, s, "unknown root",
		func(st ctlog.Status) bool { return !st.OK && strings.Contains(st.Cause, "does not accept our root") })
	l.setRoots(other.root, ours.root)
	until(t, s, "known root", func(st ctlog.Status) bool { return st.OK && st.Warning == "" })
}

// B6: the warning about a log names only the root that the log does not accept.
func TestWatchSeveralRoots(t *testing.T) {
	t.Parallel()
	ca, next := newAuthority(t), newAuthority(t)
	both, one := newLog(t, ca.root, next.root), newLog(t, ca.root)
	s := newSet(t, ctlog.Options{
		Logs:   []ctlog.Log{one.asLog(t, "one"), both.asLog(t, "both")},
		Policy: ctlog.PolicyConfig{Attempt: 2 * time.Second}, // a busy machine is slow
	})
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); s.Wait() })
	s.Watch(ctx, ca.root, next.root)
	id := func(c *x509.Certificate) string { return fmt.Sprintf("%x", sha256.Sum256(c.Raw)) }
	until(t, s, "one root lacks", func(st ctlog.Status) bool {
		return st.OK && strings.Contains(st.Warning, id(next.root)) && !strings.Contains(st.Warning, id(ca.root)) &&
			strings.Contains(st.Warning, "of that chain")
	})
	if st := s.Status()[1]; st.Warning != "" {
		t.Errorf("status of the other log is %+v", st)
	}
	one.setRoots(ca.root, next.root)
	until(t, s, "no root lacks", func(st ctlog.Status) bool { return st.OK && st.Warning == "" })
}

// E12 in kind: a log that is dead at the start does not stop the set and is reported, and so is its recovery.
func TestWatchDeadLog(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	l := newLog(t, ca.root)
	inner := l.Config.Handler
	var up atomic.Bool
	l.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			reset(w, r, nil)
			return
		}
		inner.ServeHTTP(w, r)
	})
	c := &clock{}
	s := newSet(t, ctlog.Options{
		Logs: []ctlog.Log{l.asLog(t, "lab")}, Now: c.now,
		Policy: ctlog.PolicyConfig{Attempt: 200 * time.Millisecond},
	})
	watch(t, s, ca.root)
	until(t, s, "dead", func(st ctlog.Status) bool { return !st.OK && st.Cause != "" })
	c.advance(10 * time.Second)
	until(t, s, "still dead", func(st ctlog.Status) bool { return !st.OK })
	up.Store(true)
	until(t, s, "roots read", func(st ctlog.Status) bool { return !strings.Contains(st.Warning, "cannot be read") })
	c.advance(10 * time.Second)
	until(t, s, "alive", func(st ctlog.Status) bool { return st.OK })
	if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil {
		t.Error(err)
	}
}
