package ctlog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// lifetime is the validity of a certificate. A log's window has to cover that time from now on.
const lifetime = 10 * time.Minute

// MinSCTs returns the number of SCTs that a Submit returns.
func (s *Set) MinSCTs() int { return s.policy.MinSCTs }

// Status is the state of one log.
type Status struct {
	Name string
	// OK is false while the log is set aside or in quarantine.
	OK bool
	// Warning is what may fail; Cause is why the log is not OK. Both are for the operator.
	Warning, Cause string
	// Since is when OK last changed.
	Since time.Time
}

// Status returns the state of each log, in the order of the options.
func (s *Set) Status() []Status {
	now := s.now()
	all := make([]Status, 0, len(s.logs))
	for _, l := range s.logs {
		all = append(all, s.status(l, now))
	}
	return all
}

func (s *Set) status(l *logState, now time.Time) Status {
	ok, cause, since := l.breaker.state()
	warning, rejects := l.warnings()
	st := Status{Name: l.Name, OK: ok, Cause: cause, Warning: warning, Since: since}
	if ok && rejects != "" {
		st.OK, st.Cause = false, rejects
	}
	if st.Warning == "" {
		st.Warning = l.breaker.warning()
	}
	if l.Health != nil {
		if err := l.Health(); err != nil {
			st.OK, st.Cause = false, err.Error()
		}
	}
	if why := l.quarantine(); why != "" {
		st.OK, st.Cause = false, "quarantined: "+why
	}
	if st.Warning == "" {
		st.Warning = l.windowWarning(now, s.hasSuccessor(l))
	}
	return st
}

// hasSuccessor reports whether another log whose SCTs may be embedded continues after the window of l has closed.
func (s *Set) hasSuccessor(l *logState) bool {
	return slices.ContainsFunc(s.ranked, func(o *logState) bool {
		return o != l && (o.NotAfter.IsZero() || o.NotAfter.After(l.NotAfter)) &&
			(o.NotBefore.IsZero() || o.NotBefore.Before(l.NotAfter))
	})
}

// Health returns why a Submit would fail now, or nil: too few logs, or logs of too few operators, are usable, within
// their window and not in quarantine. The text is for the operator.
func (s *Set) Health() error {
	now := s.now()
	up, operators, all, down := 0, map[string]bool{}, 0, []string{}
	for _, l := range s.ranked {
		all++
		st := s.status(l, now)
		switch {
		case !st.OK:
			down = append(down, st.Name+": "+st.Cause)
		case !l.Covers(now, now.Add(lifetime)):
			down = append(down, st.Name+": its window does not cover a certificate issued now")
		default:
			up++
			operators[l.operator] = true
		}
	}
	switch need := s.policy; {
	case up < need.MinSCTs:
		return fmt.Errorf("%d of %d logs can return SCTs, %d are needed; %s", up, all, need.MinSCTs,
			strings.Join(down, "; "))
	case len(operators) < need.MinOperators:
		return fmt.Errorf("the logs that can return SCTs have %d operators, %d are needed; %s", len(operators),
			need.MinOperators, strings.Join(down, "; "))
	}
	return nil
}

// Quarantine stops the use of a log that violated its merge obligation, until [Set.Release]. The cause is shown as the
// reason why the log is down. It reports whether there is such a log. A later set does not inherit the quarantine.
func (s *Set) Quarantine(name, cause string) bool {
	if cause == "" {
		cause = "no cause was given"
	}
	for _, l := range s.logs {
		if l.Name == name {
			if l.setQuarantine(cause) {
				s.logger.Warn("log is quarantined", "log", name, "cause", cause)
			}
			return true
		}
	}
	return false
}

// Release ends the quarantine of a log. It reports whether there is such a log.
func (s *Set) Release(name string) bool {
	for _, l := range s.logs {
		if l.Name == name {
			if l.setQuarantine("") {
				s.logger.Info("log is released from quarantine", "log", name)
			}
			return true
		}
	}
	return false
}

func (l *logState) setQuarantine(cause string) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed = l.quarantined != cause
	l.quarantined = cause
	return changed
}

// quarantine returns why the log is in quarantine; empty if it is not.
func (l *logState) quarantine() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.quarantined
}

func (l *logState) warnings() (warning, rejects string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.warning, l.rejects
}

func (l *logState) setWarning(warning, rejects string) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed = l.warning != warning || l.rejects != rejects
	l.warning, l.rejects = warning, rejects
	return changed
}

// recordAccepted records that the log accepted a precertificate, whatever its list of roots says.
func (l *logState) recordAccepted() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rejects, l.accepted = "", time.Now()
}

// acceptedSince reports whether the log accepted a precertificate after a time.
func (l *logState) acceptedSince(t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accepted.After(t)
}

// endsSoon is how long before the end of a log's window there is a warning.
const endsSoon = 30 * 24 * time.Hour

// windowWarning warns of a window that is not open now, or that closes soon while the log has no successor in the set.
func (l *logState) windowWarning(now time.Time, hasSuccessor bool) string {
	switch {
	case !l.NotAfter.IsZero() && now.Before(l.NotAfter) && l.NotAfter.Sub(now) < endsSoon && !hasSuccessor:
		return "its validity ends at " + l.NotAfter.UTC().Format(time.RFC3339) +
			", and no log follows it; add the next shard to ct.logs"
	case !l.NotBefore.IsZero() && now.Before(l.NotBefore):
		return "is not used before " + l.NotBefore.UTC().Format(time.RFC3339)
	case l.Closed(now):
		return "is no longer used: its validity ended at " + l.NotAfter.UTC().Format(time.RFC3339)
	}
	return ""
}

// unusable returns why the log may not be tried at all for a certificate that expires at notAfter, or nil.
func (l *logState) unusable(now, notAfter time.Time) error {
	if why := l.quarantine(); why != "" {
		return fmt.Errorf("quarantined: %s", why)
	}
	if !l.Covers(now, notAfter) {
		return errors.New("its window does not cover this certificate from now to its end")
	}
	return nil
}
