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
	rootsEvery   = 24 * time.Hour // between two reads of the roots of a log that accepts ours
	rootsBackoff = time.Hour      // longest time between two reads of the roots of a log that does not accept ours
	readBackoff  = time.Minute    // longest time between two reads of roots that cannot be read
	clockTicks   = 2              // ticks between two checks while our clock may be wrong
)

// roots are the roots of the CA's chains.
type roots struct {
	active *x509.Certificate
	others []*x509.Certificate
}

// Watch checks the logs in the background until ctx ends, and returns at once. It reads a head of each remote log,
// which proves that the log has the pinned key: before that, or an SCT, the log does not count in [Set.Health]. It
// reports in [Set.Status] if a log does not accept the root of the active chain, or one of the others (RFC 6962 §4.7).
// It tries a log that was set aside with the last precertificate that failed there, asks the logs for their time while
// our clock may be wrong, and submits precertificates to detached logs.
func (s *Set) Watch(ctx context.Context, active *x509.Certificate, others ...*x509.Certificate) {
	context.AfterFunc(ctx, s.end)
	for _, l := range s.logs {
		if l.remote != nil {
			l.breaker.requireProof()
			s.background.Go(func() { s.watch(ctx, l, roots{active, others}) })
		}
		if l.Detached {
			for range senders {
				s.background.Go(func() { s.send(ctx, l) })
			}
		}
	}
}

// Wait ends the probes that outlive their submissions, and returns when all background work has ended. The work of
// [Set.Watch] ends with its context.
func (s *Set) Wait() {
	s.end()
	s.background.Wait()
}

func (s *Set) watch(ctx context.Context, l *logState, ours roots) {
	every := s.policy.Attempt / 4
	tick := time.NewTicker(every)
	defer tick.Stop()
	var nextRoots, lastCheck time.Time // real time
	var wait time.Duration
	checkNow := false
	for {
		now := time.Now()
		rootsDue := !now.Before(nextRoots)
		checkNow = checkNow || s.Clock() != nil && now.Sub(lastCheck) >= clockTicks*every
		if rootsDue || checkNow || l.breaker.isOpen() || l.breaker.unproven() {
			most := s.check(ctx, l, ours)
			lastCheck, checkNow = time.Now(), false
			if rootsDue && most == 0 {
				wait, nextRoots = 0, time.Now().Add(jittered(rootsEvery))
			} else if rootsDue {
				wait = min(max(2*wait, every), most)
				nextRoots = time.Now().Add(jittered(wait))
			}
		}
		s.retry(ctx, l)
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
			checkNow = true
		case <-tick.C:
		}
	}
}

// retry tries a log that was set aside with the last precertificate that failed there. The SCT is not used: it shows
// that the log accepts precertificates again. Readiness then does not depend on requests: a server that is not ready
// receives none.
func (s *Set) retry(ctx context.Context, l *logState) {
	r, p, ok := l.breaker.retry(s.now())
	if !ok {
		return
	}
	if l.quarantine() != "" || !l.limiter.Allow() {
		l.breaker.abandon(p)
		return
	}
	_ = s.tryAlone(ctx, l, r, p) // the breaker has recorded the failure
}

// check reads the log's head and its roots. It returns 0 if the log accepts all of our roots, else the longest time
// until the next check.
func (s *Set) check(ctx context.Context, l *logState, ours roots) (most time.Duration) {
	bounded, cancel := context.WithTimeout(ctx, s.policy.Attempt)
	defer cancel()
	sent := s.now()
	observe := s.metrics.checked(l.Name, "roots")
	accepted, date, err := l.remote.Roots(bounded)
	if ctx.Err() != nil {
		return rootsBackoff
	}
	observe(err)
	var warning, rejects string
	if err != nil {
		warning, most = "its roots cannot be read: "+err.Error(), readBackoff
	} else if rejects, warning = ours.missingIn(accepted); rejects+warning != "" {
		most = rootsBackoff
		// the log answered a request, whatever its list of roots says
		if l.acceptedSince(time.Now().Add(-rootsBackoff)) {
			rejects, warning = "", strings.TrimSuffix(rejects+"; "+warning, "; ")
		}
	}
	if !date.IsZero() {
		s.recordOffset(l, false, dateSpan(sent, s.now()).offset(date))
	} else {
		s.recordSilence(l)
	}
	if l.setWarning(warning, rejects) && warning+rejects != "" {
		s.logger.Warn("log may not accept precertificates", "log", l.Name,
			"warning", strings.Trim(rejects+"; "+warning, "; "))
	}
	if f, ok := errors.AsType[*Failure](err); ok && f.unanswered() {
		if l.breaker.failInBackground(s.now(), f) {
			s.logger.Warn("log is set aside", "log", l.Name, "error", f)
		}
		return most
	}
	s.prove(ctx, l, err == nil)
	return most
}

// prove reads the log's head. answers says that the log has just answered another request.
func (s *Set) prove(ctx context.Context, l *logState, answers bool) {
	bounded, cancel := context.WithTimeout(ctx, s.policy.Attempt)
	defer cancel()
	observe := s.metrics.checked(l.Name, "head")
	absent, err := l.remote.Head(bounded)
	if ctx.Err() == nil {
		observe(err)
	}
	f, _ := errors.AsType[*Failure](err)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		if closed := l.breaker.recordHead(s.now(), absent); closed && (absent == "" || answers) {
			s.logger.Info("log answers", "log", l.Name)
		}
	case f != nil && (f.Result == Unverified || f.unanswered()) && l.breaker.failInBackground(s.now(), f):
		s.logger.Warn("log is set aside", "log", l.Name, "error", f)
	}
}

// missingIn returns messages about our roots that a log does not accept: that of the active chain, and the others.
func (r roots) missingIn(accepted [][]byte) (active, others string) {
	has := func(c *x509.Certificate) bool {
		return slices.ContainsFunc(accepted, func(der []byte) bool { return bytes.Equal(der, c.Raw) })
	}
	if !has(r.active) {
		active = fmt.Sprintf("the log does not accept our root %s and will reject our precertificates; ask the log's "+
			"operator to add that certificate to the accepted roots", rootName(r.active))
	}
	var texts []string
	for _, c := range r.others {
		if !has(c) {
			texts = append(texts, fmt.Sprintf("the log does not accept the root %s and would reject the "+
				"precertificates of that chain", rootName(c)))
		}
	}
	return active, strings.Join(texts, "; ")
}

// rootName distinguishes roots with the same subject.
func rootName(c *x509.Certificate) string {
	return fmt.Sprintf("%q (SHA-256 %x)", c.Subject, sha256.Sum256(c.Raw))
}

// jittered returns d plus up to a tenth, so that several servers do not send their requests together.
func jittered(d time.Duration) time.Duration {
	return d + rand.N(d/10+1) //nolint:gosec // jitter, no secret
}
