package ctlog

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// skew is how far a log's clock may be from ours.
	skew = 60 * time.Second
	// lately is how long what a log said of the time counts.
	lately = 60 * time.Second
	// askAgain is how long a log is not asked for the time again because of a doubt.
	askAgain = 5 * time.Second
)

// reading is what a log said of the time: its clock minus ours. at is real time.
type reading struct {
	offset time.Duration
	at     time.Time
}

func (r reading) recent(now time.Time) bool { return !r.at.IsZero() && now.Sub(r.at) < lately }

// testimony is the last that a log said of the time: by the timestamp of a verified SCT, which is signed but may be
// nonsense, and by the Date of an HTTP answer (RFC 9110 §6.6.1), which is not signed and good to a second. row is how
// many SCTs one after the other were ahead, or behind; mute is when the log was asked in vain.
type testimony struct {
	sct, date reading
	row       int
	mute      time.Time
}

// enough is how many SCTs in a row it takes for a log without Date to speak against our clock: one is evidence against
// the log.
const enough = 3

func (r reading) ahead() bool  { return r.offset > skew }
func (r reading) behind() bool { return r.offset < -skew }

// hear takes down the timestamp of an SCT.
func (t *testimony) hear(r reading) {
	same := r.ahead() && t.sct.ahead() || r.behind() && t.sct.behind()
	switch {
	case !r.ahead() && !r.behind():
		t.row = 0
	case same && t.sct.recent(r.at):
		t.row++
	default:
		t.row = 1
	}
	t.sct = r
}

// verdict of one log on our clock.
type verdict int

const (
	unheardOf verdict = iota
	agrees
	later   // its clock is ahead of ours
	earlier // its clock is behind ours
)

// verdict returns what the log says, and by how much it differs. A log that contradicts itself is no witness against
// us, nor is one that says nothing but a single SCT.
func (t testimony) verdict(now time.Time) (verdict, time.Duration) {
	out, by := unheardOf, time.Duration(0)
	for _, r := range []reading{t.sct, t.date} {
		v := agrees
		switch {
		case !r.recent(now):
			continue
		case r.ahead():
			v = later
		case r.behind():
			v = earlier
		}
		if v == agrees || out != unheardOf && out != v {
			return agrees, 0
		}
		out, by = v, r.offset
	}
	if !t.date.recent(now) && t.row < enough {
		return unheardOf, 0
	}
	return out, by
}

// clockWatch compares our clock with those of the logs.
type clockWatch struct {
	mu      sync.Mutex
	stopped error // why nothing may be issued
}

// offset is how far t lies outside of the span.
func (w span) offset(t time.Time) time.Duration {
	switch {
	case t.Before(w.from):
		return t.Sub(w.from)
	case t.After(w.to):
		return t.Sub(w.to)
	}
	return 0
}

// hear takes down what a log said of the time.
func (s *Set) hear(m *member, signed bool, offset time.Duration) {
	if m.remote == nil {
		return // a log in this process has our clock
	}
	s.metrics.offset.WithLabelValues(m.Name).Set(offset.Seconds())
	now := time.Now()
	m.mu.Lock()
	if r := (reading{offset, now}); signed {
		m.clock.hear(r)
	} else {
		m.clock.date = r
	}
	m.mu.Unlock()
	s.compareClocks(now)
}

// hearDate takes down the Date of an answer to what was sent at a time; the zero time is an answer without one.
func (s *Set) hearDate(m *member, sent, date time.Time) {
	if date.IsZero() {
		return
	}
	offset := span{sent.Add(-time.Second), s.now()}.offset(date) // it is to a second, rounded down
	m.mu.Lock()
	fresh := m.clock.date.offset == 0 && offset == 0 && time.Since(m.clock.date.at) < time.Second
	m.mu.Unlock()
	if !fresh { // else it says what it said a moment ago
		s.hear(m, false, offset)
	}
}

// heardNothing takes down that a log was asked for the time and did not tell it: nobody waits for it any more.
func (s *Set) heardNothing(m *member) {
	now := time.Now()
	m.mu.Lock()
	m.clock.mute = now
	m.mu.Unlock()
	s.compareClocks(now)
}

// compareClocks decides whether it is our clock that is wrong: every log that answered lately says so, all in one direction, and
// at least one of them under its signature. It is ours no more as soon as one of them agrees with us, or when what they said is
// old and none of those that can be asked says it again: a log without Date speaks in SCTs only, which nobody asks for while
// nothing is issued. The next SCT then decides; one that disagrees is no use to anybody.
func (s *Set) compareClocks(now time.Time) {
	s.clock.mu.Lock()
	defer s.clock.mu.Unlock()
	least, signed, missing := time.Duration(0), false, false
	count := map[verdict]int{}
	for _, m := range s.members {
		if m.remote == nil || m.benchedFor() != "" {
			continue
		}
		m.mu.Lock()
		said := m.clock
		m.mu.Unlock()
		v, by := said.verdict(now)
		count[v]++
		missing = missing || v == unheardOf && !m.breaker.isOpen() && !(reading{at: said.mute}).recent(now)
		if v == later || v == earlier {
			signed = signed || said.sct.recent(now)
			if least == 0 || by.Abs() < least.Abs() {
				least = by
			}
		}
	}
	against := count[agrees] == 0 && (count[later] == 0) != (count[earlier] == 0)
	switch was := s.clock.stopped; {
	case was == nil && against && signed && !missing:
		s.clock.stopped = clockError(least)
		s.log.Error("nothing is issued until the clock is right", "cause", s.clock.stopped.Error())
	case was == nil && (count[later] > 0 || count[earlier] > 0):
		s.askTime(now)
	case was != nil && against:
		s.clock.stopped = clockError(least)
	case was != nil && (count[agrees] > 0 || count[later]+count[earlier] == 0 && !missing):
		s.clock.stopped = nil
		s.log.Info("the clock does not disagree with the logs any more", "logs_that_agree", count[agrees])
		for _, m := range s.members {
			m.breaker.forgive(s.now())
		}
	}
}

// askTime has the background work ask every log for its time that has not told it, and was not asked in vain, in the last seconds.
func (s *Set) askTime(now time.Time) {
	for _, m := range s.members {
		m.mu.Lock()
		fresh := now.Sub(m.clock.date.at) < askAgain || now.Sub(m.clock.mute) < askAgain
		m.mu.Unlock()
		if !fresh {
			m.nudge()
		}
	}
}

// nudge has the background work look at the log soon.
func (m *member) nudge() {
	select {
	case m.poke <- struct{}{}:
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

// Clock returns why nothing may be issued because of this machine's clock, or nil. The text is for callers, too.
func (s *Set) Clock() error {
	s.clock.mu.Lock()
	defer s.clock.mu.Unlock()
	return s.clock.stopped
}

// skewError is an SCT that verifies but for its timestamp.
type skewError struct {
	error
	offset time.Duration
}

// offsetOf returns the offset in err, if there is one.
func offsetOf(err error) (time.Duration, bool) {
	var e *skewError
	if errors.As(err, &e) {
		return e.offset, true
	}
	return 0, false
}
