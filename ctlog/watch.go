package ctlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

const (
	rootsEvery   = 24 * time.Hour // how often a log that accepts our root is asked again whether it does
	rootsBackoff = time.Hour      // how often one that does not, at least
	readBackoff  = time.Minute    // how often one whose roots cannot be read, at least
	clockEvery   = 2              // looks are this many ticks apart while our clock is in doubt
)

// Watch looks after the logs in the background until ctx ends, and returns at once: it warns in [Set.Status] if a remote log does
// not accept the root of the active chain, or one of the others (RFC 6962 §4.7), finds out whether a log that was set aside
// answers at all, asks for the time while there is a doubt about it, and sends precertificates on to logs that are not embedded.
func (s *Set) Watch(ctx context.Context, active *x509.Certificate, others ...*x509.Certificate) {
	context.AfterFunc(ctx, s.end)
	for _, m := range s.members {
		if m.remote != nil {
			s.watchers.Go(func() { s.watch(ctx, watched{m, active, others}) })
		}
		if m.Detached {
			for range senders {
				s.watchers.Go(func() { s.send(ctx, m) })
			}
		}
	}
}

// Wait ends the attempts that nobody waits for, and returns when the background work has ended. That of [Set.Watch] ends with
// its context.
func (s *Set) Wait() {
	s.end()
	s.watchers.Wait()
}

type watched struct {
	*member
	active *x509.Certificate
	others []*x509.Certificate
}

func (s *Set) watch(ctx context.Context, w watched) {
	every := s.policy.Attempt / 4
	tick := time.NewTicker(every)
	defer tick.Stop()
	var next, last time.Time // of the roots; of the last look; real time
	var wait time.Duration
	doubt := false
	for {
		now := time.Now()
		due := !now.Before(next)
		doubt = doubt || s.Clock() != nil && now.Sub(last) >= clockEvery*every
		if due || doubt || w.breaker.isOpen() {
			most := s.look(ctx, w)
			last, doubt = time.Now(), false
			if due && most == 0 {
				wait, next = 0, time.Now().Add(jittered(rootsEvery))
			} else if due {
				wait = min(max(2*wait, every), most)
				next = time.Now().Add(jittered(wait))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-w.poke:
			doubt = true
		case <-tick.C:
		}
	}
}

// look asks for the log's roots and returns 0 if all of ours are among them, else the longest time until the next look.
func (s *Set) look(ctx context.Context, w watched) (most time.Duration) {
	bounded, cancel := context.WithTimeout(ctx, s.policy.Attempt)
	defer cancel()
	sent := s.now()
	roots, date, err := w.remote.roots(bounded)
	if ctx.Err() != nil {
		return rootsBackoff
	}
	var warning string
	if err != nil {
		warning, most = "its roots cannot be read: "+err.Error(), readBackoff
		var f *Failure
		if errors.As(err, &f) && f.silent() && w.breaker.silent(s.now(), f.Error()) {
			s.log.Warn("log is set aside", "log", w.Name, "error", f)
		}
	} else {
		if warning = w.lacking(roots); warning != "" {
			most = rootsBackoff
		}
	}
	if !date.IsZero() { // to a second, rounded down
		s.hear(w.member, false, span{sent.Add(-time.Second), s.now()}.offset(date))
	} else {
		s.heardNothing(w.member)
	}
	if w.warn(warning) && warning != "" {
		s.log.Warn("log will not do", "log", w.Name, "warning", warning)
	}
	return most
}

// lacking says which of our roots the log does not accept; "" is none.
func (w watched) lacking(accepted [][]byte) string {
	has := func(c *x509.Certificate) bool {
		return slices.ContainsFunc(accepted, func(der []byte) bool { return bytes.Equal(der, c.Raw) })
	}
	var texts []string
	if !has(w.active) {
		texts = append(texts, fmt.Sprintf("it does not accept our root %s and will refuse our precertificates", rootName(w.active)))
	}
	for _, c := range w.others {
		if !has(c) {
			texts = append(texts, fmt.Sprintf("it does not accept the root %s and would refuse the precertificates of that chain", rootName(c)))
		}
	}
	return strings.Join(texts, "; ")
}

// rootName tells roots with the same subject apart.
func rootName(c *x509.Certificate) string {
	return fmt.Sprintf("%q (SHA-256 %x)", c.Subject, sha256.Sum256(c.Raw))
}

// jittered is d, or up to a tenth more, so that many instances do not ask as one.
func jittered(d time.Duration) time.Duration {
	return d + rand.N(d/10+1) //nolint:gosec // jitter, no secret
}
