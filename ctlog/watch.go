package ctlog

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	rootsEvery   = 24 * time.Hour // how often a log that accepts our root is asked again whether it does
	rootsBackoff = time.Hour      // how often one that does not, at most
)

// Watch looks after the remote logs in the background until ctx ends, and returns at once: it warns in [Set.Status] if a log
// does not accept root (RFC 6962 §4.7), and finds out whether a log that was set aside answers at all.
func (s *Set) Watch(ctx context.Context, root *x509.Certificate) {
	for _, m := range s.members {
		if remote, ok := m.Submitter.(*Remote); ok {
			s.watchers.Go(func() { s.watch(ctx, watched{m, remote, root}) })
		}
	}
}

// Wait returns when the background work has ended.
func (s *Set) Wait() { s.watchers.Wait() }

type watched struct {
	*member
	remote *Remote
	root   *x509.Certificate
}

func (s *Set) watch(ctx context.Context, w watched) {
	tick := time.NewTicker(s.stagger)
	defer tick.Stop()
	var next time.Time // of the roots; real time
	var pause time.Duration
	for {
		due := !time.Now().Before(next)
		if due || w.breaker.isOpen() {
			accepted := s.look(ctx, w)
			if due && accepted {
				pause, next = 0, time.Now().Add(jittered(rootsEvery))
			} else if due {
				pause = min(max(2*pause, s.stagger), rootsBackoff)
				next = time.Now().Add(jittered(pause))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look asks for the log's roots and reports whether ours is among them.
func (s *Set) look(ctx context.Context, w watched) bool {
	bounded, cancel := context.WithTimeout(ctx, s.attempt)
	defer cancel()
	roots, err := w.remote.Roots(bounded)
	if ctx.Err() != nil {
		return false
	}
	warning := ""
	switch {
	case err != nil:
		warning = "its roots cannot be read: " + err.Error()
		var f *Failure
		if errors.As(err, &f) && f.silent() && w.breaker.silent(s.now(), f.Error()) {
			s.log.Warn("log is set aside", "log", w.Name, "error", f)
		}
	case !slices.ContainsFunc(roots, func(der []byte) bool { return bytes.Equal(der, w.root.Raw) }):
		warning = fmt.Sprintf("it does not accept our root %q and will refuse our precertificates", w.root.Subject)
	}
	if w.warn(warning) && warning != "" {
		s.log.Warn("log will not do", "log", w.Name, "warning", warning)
	}
	return warning == ""
}

// jittered is d, or up to a tenth more, so that many instances do not ask as one.
func jittered(d time.Duration) time.Duration {
	return d + rand.N(d/10+1) //nolint:gosec // jitter, no secret
}
