package ctlog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// lifetime is how long a certificate lives: what a log's validity has to cover from now on.
const lifetime = 10 * time.Minute

// MinSCTs is the number of SCTs that a Submit returns.
func (s *Set) MinSCTs() int { return s.policy.MinSCTs }

// Status is the state of one log.
type Status struct {
	Name string
	// OK is false while the log is set aside or benched.
	OK bool
	// Warning is what will or may fail; Cause is why the log is not OK. Both are for the operator.
	Warning, Cause string
	// Since is when OK last changed.
	Since time.Time
}

// Status returns the state of each log, in the order of the members.
func (s *Set) Status() []Status {
	now := s.now()
	all := make([]Status, 0, len(s.members))
	for _, m := range s.members {
		all = append(all, s.status(m, now))
	}
	return all
}

func (s *Set) status(m *member, now time.Time) Status {
	ok, cause, since := m.breaker.state()
	warning, refuses := m.warned()
	st := Status{Name: m.Name, OK: ok, Cause: cause, Warning: warning, Since: since}
	if ok && refuses != "" {
		st.OK, st.Cause = false, refuses
	}
	if st.Warning == "" {
		st.Warning = m.breaker.warning()
	}
	if m.Health != nil {
		if err := m.Health(); err != nil {
			st.OK, st.Cause = false, err.Error()
		}
	}
	if why := m.benchedFor(); why != "" {
		st.OK, st.Cause = false, "benched: "+why
	}
	if st.Warning == "" {
		st.Warning = m.ending(now, s.succeeded(m))
	}
	return st
}

// succeeded reports whether a log that may be embedded goes on after the end of m.
func (s *Set) succeeded(m *member) bool {
	return slices.ContainsFunc(s.ranked, func(o *member) bool {
		return o != m && (o.NotAfter.IsZero() || o.NotAfter.After(m.NotAfter)) &&
			(o.NotBefore.IsZero() || o.NotBefore.Before(m.NotAfter))
	})
}

// Health returns why a Submit would not succeed now, or nil: too few logs, or logs of too few operators, are up, within their
// validity and not benched. The text is for the operator.
func (s *Set) Health() error {
	now := s.now()
	up, operators, all, down := 0, map[string]bool{}, 0, []string{}
	for _, m := range s.ranked {
		all++
		st := s.status(m, now)
		switch {
		case !st.OK:
			down = append(down, st.Name+": "+st.Cause)
		case !m.covers(now, now.Add(lifetime)):
			down = append(down, st.Name+": its validity does not cover a certificate of now")
		default:
			up++
			operators[m.operator] = true
		}
	}
	switch need := s.policy; {
	case up < need.MinSCTs:
		return fmt.Errorf("%d of %d logs can give SCTs, %d needed; %s", up, all, need.MinSCTs, strings.Join(down, "; "))
	case len(operators) < need.MinOperators:
		return fmt.Errorf("the logs that can give SCTs are of %d operators, %d needed; %s", len(operators),
			need.MinOperators, strings.Join(down, "; "))
	}
	return nil
}

// Bench takes the log out of use, because it broke a promise: it is not asked at all, and is down with this cause, until
// [Set.Unbench]. It reports whether there is such a log. A later set has to be told, too.
func (s *Set) Bench(name, cause string) bool {
	if cause == "" {
		cause = "no cause was given"
	}
	for _, m := range s.members {
		if m.Name == name {
			if m.bench(cause) {
				s.log.Warn("log is benched", "log", name, "cause", cause)
			}
			return true
		}
	}
	return false
}

// Unbench takes the log into use again. It reports whether there is such a log.
func (s *Set) Unbench(name string) bool {
	for _, m := range s.members {
		if m.Name == name {
			if m.bench("") {
				s.log.Info("log is benched no more", "log", name)
			}
			return true
		}
	}
	return false
}

func (m *member) bench(cause string) (changed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed = m.benched != cause
	m.benched = cause
	return changed
}

func (m *member) benchedFor() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.benched
}

func (m *member) warned() (warning, refuses string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.warning, m.refuses
}

func (m *member) warn(warning, refuses string) (changed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed = m.warning != warning || m.refuses != refuses
	m.warning, m.refuses = warning, refuses
	return changed
}

// accepts is told that the log took a precertificate, whatever its roots say.
func (m *member) accepts() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuses, m.taken = "", time.Now()
}

// took reports whether the log took a precertificate after a time.
func (m *member) took(since time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.taken.After(since)
}

// endsSoon is how long before the end of a log's validity there is a warning.
const endsSoon = 30 * 24 * time.Hour

// ending warns of a validity that does not hold now, or ends soon and has no successor in the set.
func (m *member) ending(now time.Time, succeeded bool) string {
	switch {
	case !m.NotAfter.IsZero() && now.Before(m.NotAfter) && m.NotAfter.Sub(now) < endsSoon && !succeeded:
		return "its validity ends at " + m.NotAfter.UTC().Format(time.RFC3339) +
			", and no log follows it; add the next shard to ct.logs"
	case !m.NotBefore.IsZero() && now.Before(m.NotBefore):
		return "is not asked before " + m.NotBefore.UTC().Format(time.RFC3339)
	case !m.NotAfter.IsZero() && !now.Before(m.NotAfter):
		return "is not asked any more: its validity ended at " + m.NotAfter.UTC().Format(time.RFC3339)
	}
	return ""
}

// covers reports whether the log may be asked now for a certificate that ends at notAfter.
func (m *member) covers(now, notAfter time.Time) bool {
	from, to := m.NotBefore, m.NotAfter
	return (from.IsZero() || !now.Before(from) && !notAfter.Before(from)) &&
		(to.IsZero() || now.Before(to) && notAfter.Before(to))
}

// refusal is why the log may not be asked for p at all, or nil.
func (m *member) refusal(now, notAfter time.Time) error {
	if why := m.benchedFor(); why != "" {
		return fmt.Errorf("benched: %s", why)
	}
	if !m.covers(now, notAfter) {
		return errors.New("its validity does not cover this certificate from now to its end")
	}
	return nil
}
