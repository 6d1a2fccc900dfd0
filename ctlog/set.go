package ctlog

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tbs"
)

// defaultBudget leaves room below the 20 s that a request may take.
const defaultBudget = 12 * time.Second

// Submitter takes a precertificate and returns an SCT in TLS encoding (RFC 6962 §3.2): a [Remote], or a log in this process.
// An error that is a [Failure] says whether to ask again; any other one says no.
type Submitter interface {
	Submit(ctx context.Context, p tbs.Precertificate) (sct []byte, err error)
}

// Member is a log of a [Set].
type Member struct {
	// Name is unique in the set. It is a metric label.
	Name string
	// Key is the pinned key.
	Key       crypto.PublicKey
	Submitter Submitter
	// NotBefore and NotAfter are the log's validity; zero is unbounded. The log is asked only for certificates whose NotAfter
	// lies in it (NotAfter itself excluded), and only within it: verifiers reject an SCT from outside. Where one shard follows
	// another, the two should therefore overlap by more than the life of a certificate.
	NotBefore, NotAfter time.Time
	Operator            string
}

// Options make a [Set].
type Options struct {
	// Members in the order in which they are asked.
	Members []Member
	// MinSCTs is the number of SCTs wanted, each of another member. 0 is 1.
	MinSCTs int
	// Budget bounds a whole Submit; 0 is 12 s. Attempt bounds one attempt at one log; 0 is 4 s. After a quarter of it, another
	// log is asked as well.
	Budget, Attempt time.Duration
	// Now is the clock that SCTs and validities are held against; nil is time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Set is several logs under one policy. Its methods may be called by several goroutines.
type Set struct {
	members         []*member
	need            int
	budget, attempt time.Duration
	stagger         time.Duration
	now             func() time.Time
	log             *slog.Logger
	metrics         *metrics
	watchers        sync.WaitGroup
	crew            crew // makes the attempts
}

type member struct {
	Member
	id      [32]byte
	breaker *breaker

	mu      sync.Mutex
	warning string
}

// New makes a set. Its errors are each a [fault.Setting].
func New(o Options) (*Set, error) {
	s := &Set{need: max(o.MinSCTs, 1), budget: o.Budget, attempt: o.Attempt, now: o.Now, log: o.Logger, crew: newCrew()}
	if s.budget <= 0 {
		s.budget = defaultBudget
	}
	if s.attempt <= 0 {
		s.attempt = defaultAttempt
	}
	s.stagger = s.attempt / 4
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := errors.Join(s.add(o.Members), (PolicyConfig{MinSCTs: o.MinSCTs}).checkFor(len(o.Members))); err != nil {
		return nil, err
	}
	s.metrics = newMetrics(s)
	return s, nil
}

// add checks the members and takes them in.
func (s *Set) add(members []Member) error {
	var errs []error
	if len(members) == 0 {
		errs = append(errs, fault.BadSetting("no log to submit to", "name a log"))
	}
	names, keys, began := map[string]bool{}, map[[32]byte]string{}, s.now()
	for _, m := range members {
		id, err := logID(m.Key)
		if err == nil {
			err = checkKey(m.Key)
		}
		switch other, twice := keys[id]; {
		case m.Name == "" || m.Submitter == nil:
			errs = append(errs, fault.BadSetting("a log without name or without submitter", ""))
		case names[m.Name]:
			errs = append(errs, fault.BadSetting(fmt.Sprintf("two logs have the name %q", m.Name), "give each log a name of its own"))
		case err != nil:
			errs = append(errs, fault.BadSetting(fmt.Sprintf("log %q: %v", m.Name, err), "give the log's own key"))
		case twice: // one SCT per log
			errs = append(errs, fault.BadSetting(fmt.Sprintf("logs %q and %q have the same key", other, m.Name), "name each log once"))
		}
		names[m.Name], keys[id] = true, m.Name
		s.members = append(s.members, &member{Member: m, id: id, breaker: &breaker{since: began}})
	}
	return errors.Join(errs...)
}

// checkFor is Check, with the number of logs known.
func (c PolicyConfig) checkFor(logs int) error {
	if err := c.Check(); err != nil {
		return fault.Under(err, "policy")
	}
	if c.MinSCTs > logs && logs > 0 {
		return fault.BadSetting(fmt.Sprintf("%d SCTs of %d logs: each must be of another log", c.MinSCTs, logs),
			"name more logs, or ask for fewer SCTs", "policy", "min_scts")
	}
	return nil
}

// MinSCTs is the number of SCTs that a Submit returns.
func (s *Set) MinSCTs() int { return s.need }

// Status is the state of one log.
type Status struct {
	Name string
	// OK is false while the log is set aside.
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
		ok, cause, since := m.breaker.state(now)
		st := Status{Name: m.Name, OK: ok, Cause: cause, Warning: m.warned(), Since: since}
		if ok && cause != "" {
			st.Warning, st.Cause = "not asked since it failed: "+cause, ""
		}
		if st.Warning == "" {
			st.Warning = m.ending(now)
		}
		all = append(all, st)
	}
	return all
}

func (m *member) warned() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.warning
}

func (m *member) warn(text string) (changed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed = m.warning != text
	m.warning = text
	return changed
}

// ending warns of a validity that does not hold now.
func (m *member) ending(now time.Time) string {
	switch {
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
