package ctlog

import (
	"fmt"
	"sync"
	"time"
)

const (
	// maxSkew is how far a log's clock may be from ours.
	maxSkew = 60 * time.Second
	// sampleLife is how long a sample of a log's clock counts.
	sampleLife = 60 * time.Second
	// sampleEvery is the shortest time between two requests to a log for its time.
	sampleEvery = 5 * time.Second
	// minSkewedSCTs is how many skewed SCTs in a row a log without a Date header needs as evidence against our clock: a
	// single one is evidence against the log.
	minSkewedSCTs = 3
)

// interval is a period of time that includes both its ends.
type interval struct{ from, to time.Time }

// offset returns how far t lies outside the interval; 0 if t is in it.
func (w interval) offset(t time.Time) time.Duration {
	switch {
	case t.Before(w.from):
		return t.Sub(w.from)
	case t.After(w.to):
		return t.Sub(w.to)
	}
	return 0
}

// sample is a log's clock minus ours. at is real time.
type sample struct {
	offset time.Duration
	at     time.Time
}

func (s sample) recent(now time.Time) bool { return !s.at.IsZero() && now.Sub(s.at) < sampleLife }
func (s sample) ahead() bool               { return s.offset > maxSkew }
func (s sample) behind() bool              { return s.offset < -maxSkew }

// clockSamples has the last samples of one log's clock. The timestamp of a verified SCT is signed but may be wrong; the
// Date header of an HTTP answer (RFC 9110 §6.6.1) is not signed and has a resolution of a second.
type clockSamples struct {
	sct, date  sample
	skewedSCTs int       // in a row, all ahead or all behind
	silentAt   time.Time // when the log was last asked for its time without returning it
}

// recordSCT records the timestamp of an SCT.
func (c *clockSamples) recordSCT(s sample) {
	same := s.ahead() && c.sct.ahead() || s.behind() && c.sct.behind()
	switch {
	case !s.ahead() && !s.behind():
		c.skewedSCTs = 0
	case same && c.sct.recent(s.at):
		c.skewedSCTs++
	default:
		c.skewedSCTs = 1
	}
	c.sct = s
}

// comparison is the result of comparing our clock with that of a log.
type comparison int

const (
	unknown comparison = iota
	agrees
	ahead  // the log's clock is ahead of ours
	behind // the log's clock is behind ours
)

// compare returns whether the log's clock agrees with ours, and by how much it differs. A log whose two samples
// contradict each other counts as one that agrees; a log with a single SCT as its only sample counts as unknown.
func (c clockSamples) compare(now time.Time) (comparison, time.Duration) {
	result, offset := unknown, time.Duration(0)
	for _, s := range []sample{c.sct, c.date} {
		one := agrees
		switch {
		case !s.recent(now):
			continue
		case s.ahead():
			one = ahead
		case s.behind():
			one = behind
		}
		if one == agrees || result != unknown && result != one {
			return agrees, 0
		}
		result, offset = one, s.offset
	}
	if !c.date.recent(now) && c.skewedSCTs < minSkewedSCTs {
		return unknown, 0
	}
	return result, offset
}

// clockGuard stops submissions while this machine's clock is wrong.
type clockGuard struct {
	mu      sync.Mutex
	stopped error // why no certificate may be issued; empty if one may
}

// recordOffset records a sample of a log's clock; signed says that it comes from an SCT.
func (s *Set) recordOffset(l *logState, signed bool, offset time.Duration) {
	if l.remote == nil {
		return // a log in this process uses this machine's clock
	}
	s.metrics.offset.WithLabelValues(l.Name).Set(offset.Seconds())
	now := time.Now()
	l.mu.Lock()
	if one := (sample{offset, now}); signed {
		l.clock.recordSCT(one)
	} else {
		l.clock.date = one
	}
	l.mu.Unlock()
	s.compareClocks(now)
}

// recordDate records the Date header of an answer to a request that was sent at a time; date is zero if the header is
// absent.
func (s *Set) recordDate(l *logState, sent, date time.Time) {
	if date.IsZero() {
		return
	}
	offset := dateSpan(sent, s.now()).offset(date)
	l.mu.Lock()
	same := l.clock.date.offset == 0 && offset == 0 && time.Since(l.clock.date.at) < time.Second
	l.mu.Unlock()
	if !same {
		s.recordOffset(l, false, offset)
	}
}

// dateSpan returns the values that the Date header of an answer may have: it is rounded down to a second.
func dateSpan(sent, received time.Time) interval { return interval{sent.Add(-time.Second), received} }

// recordSilence records that a log was asked for its time and did not return it: the decision no longer waits for its
// sample.
func (s *Set) recordSilence(l *logState) {
	now := time.Now()
	l.mu.Lock()
	l.clock.silentAt = now
	l.mu.Unlock()
	s.compareClocks(now)
}

// compareClocks decides whether our clock is wrong: every log with a recent sample disagrees, all in one direction, and
// at least one of the samples is signed. Our clock counts as right again as soon as one log agrees, or when all samples
// are old and no log that can be asked for its time disagrees again. A log without a Date header gives samples only
// with SCTs, which are not requested while nothing is issued; then the next SCT decides, and is not used if it
// disagrees.
func (s *Set) compareClocks(now time.Time) {
	s.clock.mu.Lock()
	defer s.clock.mu.Unlock()
	least, signed, missing := time.Duration(0), false, false
	count := map[comparison]int{}
	for _, l := range s.logs {
		if l.remote == nil || l.quarantine() != "" {
			continue
		}
		l.mu.Lock()
		samples := l.clock
		l.mu.Unlock()
		result, offset := samples.compare(now)
		count[result]++
		missing = missing || result == unknown && !l.breaker.isOpen() && !(sample{at: samples.silentAt}).recent(now)
		if result == ahead || result == behind {
			signed = signed || samples.sct.recent(now)
			if least == 0 || offset.Abs() < least.Abs() {
				least = offset
			}
		}
	}
	disagree := count[agrees] == 0 && (count[ahead] == 0) != (count[behind] == 0)
	switch was := s.clock.stopped; {
	case was == nil && disagree && signed && !missing:
		s.clock.stopped = clockError(least)
		s.logger.Error("nothing is issued until the clock is right", "cause", s.clock.stopped.Error())
	case was == nil && (count[ahead] > 0 || count[behind] > 0):
		s.requestTime(now)
	case was != nil && disagree:
		s.clock.stopped = clockError(least)
	case was != nil && (count[agrees] > 0 || count[ahead]+count[behind] == 0 && !missing):
		s.clock.stopped = nil
		s.logger.Info("the clock no longer disagrees with the logs", "logs_that_agree", count[agrees])
		for _, l := range s.logs {
			l.breaker.resetSkew(s.now())
		}
	}
}

// requestTime makes the background work ask for the time of every log that was not asked in the last seconds.
func (s *Set) requestTime(now time.Time) {
	for _, l := range s.logs {
		l.mu.Lock()
		recent := now.Sub(l.clock.date.at) < sampleEvery || now.Sub(l.clock.silentAt) < sampleEvery
		l.mu.Unlock()
		if !recent {
			l.wakeUp()
		}
	}
}

// wakeUp makes the background work check the log soon.
func (l *logState) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func clockError(offset time.Duration) error {
	word := "behind"
	if offset < 0 {
		word = "ahead of"
	}
	return fmt.Errorf("this machine's clock is %d s %s all logs", int(offset.Abs().Seconds()+.5), word)
}

// Clock returns an error if this machine's clock forbids issuance, or nil. The text may be shown to clients.
func (s *Set) Clock() error {
	s.clock.mu.Lock()
	defer s.clock.mu.Unlock()
	return s.clock.stopped
}

// skewError is an SCT that verifies except for its timestamp.
type skewError struct {
	error
	offset time.Duration
}
