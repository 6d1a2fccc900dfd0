package ctlog

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tbs"
)

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
	// Operator is who runs the log; "" is somebody of the log's own.
	Operator string
	// Rate is how many submissions a second the log is sent; 0 is no limit.
	Rate float64
	// Detached: SCTs of this log are not embedded, as not every verifier knows its key yet. It gets each precertificate in the
	// background, once the others have given enough SCTs.
	Detached bool
	// Health says at once why a log in this process cannot take entries, or nil. A nil func is a log of which only requests
	// find out.
	Health func() error
}

// seat is the member as a policy sees it.
func (m Member) seat() Seat { return Seat{Name: m.Name, Operator: m.Operator, Embed: !m.Detached} }

// Options make a [Set].
type Options struct {
	// Members in the order in which they are asked, those with the latest NotBefore first.
	Members []Member
	// Policy says how many SCTs are wanted, and how logs are asked. TrustedRoot is not looked at.
	Policy PolicyConfig
	// Granted is called for every SCT that a Submit returns, before it returns. It MUST be cheap. Nil is nobody.
	Granted func(Grant)
	// Compute is called before an SCT is verified, and may wait for a processor; what it returns is called after it. Nil is nobody.
	Compute func() (done func())
	// Previous is the set that this one takes the place of: what it knows of a log that stays the same (name, key and
	// address) goes over. Optional.
	Previous *Set
	// Stopped is what [Set.Clock] of the set before said: the doubt about our clock goes over to this one, until its logs have
	// spoken. Without a log that can speak it is not looked at.
	Stopped error
	// Now is the clock that SCTs and validities are held against; nil is time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Grant is an SCT, and with it the promise of a log to show the entry.
type Grant struct {
	// Log is the member's name.
	Log string
	// SCT is in TLS encoding (RFC 6962 §3.2).
	SCT            []byte
	Precertificate tbs.Precertificate
}

// Set is several logs under one policy. Its methods may be called by several goroutines.
type Set struct {
	members []*member
	ranked  []*member // those that may be embedded, in the order in which they are asked
	policy  PolicyConfig
	now     func() time.Time
	log     *slog.Logger
	granted func(Grant)
	compute func() (done func())
	metrics *metrics
	clock   clockWatch

	watchers sync.WaitGroup
	life     context.Context //nolint:containedctx // of attempts that nobody waits for
	end      context.CancelFunc
	crew     crew // makes the attempts
}

type member struct {
	Member
	id       [32]byte
	operator string  // as the policy counts it
	remote   *Remote // nil: a log in this process
	breaker  *breaker
	bucket   *bucket
	poke     chan struct{}           // somebody wants to know how it is
	queue    chan tbs.Precertificate // of a detached log

	mu      sync.Mutex
	warning string    // of the last look
	refuses string    // why the log will refuse what it is sent, as far as it says so; an SCT disproves it
	taken   time.Time // when the log last gave an SCT that verified
	benched string
	clock   testimony
}

// New makes a set. Its errors are each a [fault.Setting].
func New(o Options) (*Set, error) {
	s := &Set{policy: o.Policy.withDefaults(), now: o.Now, log: o.Logger, granted: o.Granted, compute: o.Compute, crew: newCrew()}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.granted == nil {
		s.granted = func(Grant) {}
	}
	if s.compute == nil {
		s.compute = func() func() { return func() {} }
	}
	err := errors.Join(s.add(o.Members), fault.Under(o.Policy.Check(), "policy"))
	if err == nil {
		seats := make([]Seat, 0, len(o.Members))
		for _, m := range o.Members {
			seats = append(seats, m.seat())
		}
		err = fault.Under(o.Policy.CheckFor(seats), "policy")
	}
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(s.members, func(m *member) bool { return m.remote != nil }) {
		s.clock.stopped = o.Stopped
	}
	s.life, s.end = context.WithCancel(context.Background())
	if o.Previous != nil {
		s.takeOver(o.Previous)
	}
	s.rank()
	s.metrics = newMetrics(s)
	return s, nil
}

// takeOver takes what another set knows of logs that are the same here.
func (s *Set) takeOver(old *Set) {
	for _, m := range s.members {
		for _, o := range old.members {
			if m.Name == o.Name && m.id == o.id && m.remote != nil && o.remote != nil &&
				m.remote.address == o.remote.address {
				m.breaker.takeOver(o.breaker)
			}
		}
	}
}

// rank orders the logs that may be embedded: the newest shard first, so that an old one is left alone as soon as there is another.
func (s *Set) rank() {
	for _, m := range s.members {
		if !m.Detached {
			s.ranked = append(s.ranked, m)
		}
	}
	slices.SortStableFunc(s.ranked, func(a, b *member) int { return b.NotBefore.Compare(a.NotBefore) })
}

// add checks the members and takes them in.
func (s *Set) add(members []Member) error {
	var errs []error
	if len(members) == 0 {
		errs = append(errs, fault.BadSetting("no log to submit to", "name a log"))
	}
	names, keys, began := map[string]bool{}, map[[32]byte]string{}, s.now()
	for i, m := range members {
		at := []string{"logs", strconv.Itoa(i)} // where the members are in the configuration's order
		id, err := logID(m.Key)
		if err == nil {
			err = checkKey(m.Key)
		}
		switch other, twice := keys[id]; {
		case m.Name == "" || m.Submitter == nil:
			errs = append(errs, fault.BadSetting("a log without name or without submitter", "", at...))
		case names[m.Name]:
			errs = append(errs, fault.BadSetting(fmt.Sprintf("two logs have the name %q", m.Name), "give each log a name of its own", append(at, "name")...))
		case err != nil:
			errs = append(errs, fault.BadSetting(fmt.Sprintf("log %q: %v", m.Name, err), "give the log's own key", append(at, "public_key")...))
		case twice: // one SCT per log
			errs = append(errs, fault.BadSetting(fmt.Sprintf("logs %q and %q have the same key", other, m.Name), "name each log once", append(at, "public_key")...))
		}
		names[m.Name], keys[id] = true, m.Name
		if m.Rate < 0 {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("log %q: a rate of %g", m.Name, m.Rate), "write a number above 0", append(at, "rate")...))
		}
		one := &member{Member: m, id: id, operator: m.seat().operator(), breaker: &breaker{since: began}, bucket: newBucket(m.Rate, time.Now()), poke: make(chan struct{}, 1)}
		one.remote, _ = m.Submitter.(*Remote)
		if m.Detached {
			one.queue = make(chan tbs.Precertificate, maxQueue)
		}
		s.members = append(s.members, one)
	}
	return errors.Join(errs...)
}
