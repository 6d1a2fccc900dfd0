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

// Watch looks after the logs in the background until ctx ends, and returns at once. It reads a head of each remote log,
// which proves that the log has the pinned key: before that, or an SCT, the log does not count in [Set.Health]. It says
// in [Set.Status] if a log does not accept the root of the active chain, or one of the others (RFC 6962 §4.7). It tries
// a log that was set aside with the last precertificate that the log did not take, asks for the time while there is a
// doubt about it, and sends precertificates on to logs that are not embedded.
func (s *Set) Watch(ctx context.Context, active *x509.Certificate, others ...*x509.Certificate) {
	context.AfterFunc(ctx, s.end)
	for _, m := range s.members {
		if m.remote != nil {
			m.breaker.await()
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
		if due || doubt || w.breaker.isOpen() || w.breaker.unproven() {
			most := s.look(ctx, w)
			last, doubt = time.Now(), false
			if due && most == 0 {
				wait, next = 0, time.Now().Add(jittered(rootsEvery))
			} else if due {
				wait = min(max(2*wait, every), most)
				next = time.Now().Add(jittered(wait))
			}
		}
		s.retry(ctx, w.member)
		select {
		case <-ctx.Done():
			return
		case <-w.poke:
			doubt = true
		case <-tick.C:
		}
	}
}

// retry tries a log that was set aside with the last precertificate that the log did not take. Nobody waits for the
// SCT: it shows that the log takes precertificates again, so that readiness does not depend on requests, which a server
// that is not ready does not get.
func (s *Set) retry(ctx context.Context, m *member) {
	q, leave, ok := m.breaker.again(s.now())
	if !ok {
		return
	}
	if m.benchedFor() != "" || !m.bucket.take(time.Now()) {
		m.breaker.abandon(leave)
		return
	}
	_, took, err := s.ask(ctx, m, q)
	v := ending{took: took, pass: leave}
	if err != nil {
		if v.failure = failureOf(err); ctx.Err() != nil {
			v.failure = &Failure{Result: Abandoned, Err: err}
		}
	}
	s.conclude(m, q, v)
}

// look reads the log's head and its roots. It returns 0 if all of our roots are among them, else the longest time until
// the next look.
func (s *Set) look(ctx context.Context, w watched) (most time.Duration) {
	bounded, cancel := context.WithTimeout(ctx, s.policy.Attempt)
	defer cancel()
	sent := s.now()
	roots, date, err := w.remote.getRoots(bounded)
	if ctx.Err() != nil {
		return rootsBackoff
	}
	var warning, refuses string
	if err != nil {
		warning, most = "its roots cannot be read: "+err.Error(), readBackoff
	} else if refuses, warning = w.lacking(roots); refuses+warning != "" {
		most = rootsBackoff
		if w.took(time.Now().Add(-rootsBackoff)) { // whatever it says
			refuses, warning = "", strings.TrimSuffix(refuses+"; "+warning, "; ")
		}
	}
	if !date.IsZero() {
		s.hear(w.member, false, span{sent.Add(-time.Second), s.now()}.offset(date)) // to a second, rounded down
	} else {
		s.heardNothing(w.member)
	}
	if w.warn(warning, refuses) && warning+refuses != "" {
		s.log.Warn("log will not do", "log", w.Name, "warning", strings.Trim(refuses+"; "+warning, "; "))
	}
	var f *Failure
	if errors.As(err, &f) && f.silent() {
		if w.breaker.silent(s.now(), f) {
			s.log.Warn("log is set aside", "log", w.Name, "error", f)
		}
		return most
	}
	s.prove(ctx, w.member, err == nil)
	return most
}

// prove reads the log's head. Answers says that the log answered another question just now.
func (s *Set) prove(ctx context.Context, m *member, answers bool) {
	bounded, cancel := context.WithTimeout(ctx, s.policy.Attempt)
	defer cancel()
	absent, err := m.remote.head(bounded)
	var f *Failure
	switch {
	case ctx.Err() != nil:
	case err == nil && (absent == "" || answers):
		if m.breaker.read(s.now(), absent) {
			s.log.Info("log answers", "log", m.Name)
		}
	case err == nil:
		m.breaker.read(s.now(), absent)
	case errors.As(err, &f) && (f.Result == Unverified || f.silent()) && m.breaker.silent(s.now(), f):
		s.log.Warn("log is set aside", "log", m.Name, "error", f)
	}
}

// lacking says which of our roots the log does not accept, that of the active chain and others; "" is none.
func (w watched) lacking(accepted [][]byte) (active, others string) {
	has := func(c *x509.Certificate) bool {
		return slices.ContainsFunc(accepted, func(der []byte) bool { return bytes.Equal(der, c.Raw) })
	}
	if !has(w.active) {
		active = fmt.Sprintf("it does not accept our root %s and will refuse our precertificates; have the log's "+
			"operator add that certificate to the accepted roots", rootName(w.active))
	}
	var texts []string
	for _, c := range w.others {
		if !has(c) {
			texts = append(texts, fmt.Sprintf("it does not accept the root %s and would refuse the precertificates of that chain", rootName(c)))
		}
	}
	return active, strings.Join(texts, "; ")
}

// rootName tells roots with the same subject apart.
func rootName(c *x509.Certificate) string {
	return fmt.Sprintf("%q (SHA-256 %x)", c.Subject, sha256.Sum256(c.Raw))
}

// jittered is d, or up to a tenth more, so that many instances do not ask as one.
func jittered(d time.Duration) time.Duration {
	return d + rand.N(d/10+1) //nolint:gosec // jitter, no secret
}
