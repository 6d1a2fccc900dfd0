package ctlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/tbs"
)

// Submitter submits a precertificate to one log and returns an SCT in TLS encoding (RFC 6962 §3.2), which need not be
// verified. A [Failure] says whether to try again; after any other error the log is not tried again.
type Submitter interface {
	Submit(ctx context.Context, p tbs.Precertificate) (sct []byte, err error)
}

// Remote is a [Submitter] of a log outside this process; package remote implements it. A [Set] checks the key, the
// roots and the clock of such a log in the background. Dates are by the log's clock, and zero if the log did not send
// one. Errors are each a [Failure].
type Remote interface {
	// AddPreChain is like Submit, and also returns the log's time, which may be known even if there is an error.
	AddPreChain(ctx context.Context, p tbs.Precertificate) (sct []byte, date time.Time, err error)
	// Roots returns the DER of the roots that the log accepts.
	Roots(ctx context.Context) (roots [][]byte, date time.Time, err error)
	// Head reads and verifies the newest head. absent is a message for the operator if there is no head to read.
	Head(ctx context.Context) (absent string, err error)
	// Address identifies the server: two Remotes with one address are the same log.
	Address() string
}

// Log is a log of a [Set].
type Log struct {
	// Log is the description. Name, a metric label, is unique in the set, and so is Key. The log is used only within
	// its window, and only for certificates that expire within it: verifiers reject an SCT from outside. Where one
	// shard follows another, the windows should therefore overlap by more than the life of a certificate. A log without
	// Operator counts as one of an operator of its own.
	loglist.Log

	Submitter Submitter
	// Rate limits the submissions per second; 0 means no limit.
	Rate float64
	// Detached means that SCTs of this log are not embedded, because not every verifier has its key yet. The log
	// receives each precertificate in the background, once the other logs have returned enough SCTs.
	Detached bool
	// Health returns why a log in this process cannot accept entries, or nil. Optional.
	Health func() error
}

func (l Log) slot() Slot { return Slot{Name: l.Name, Operator: l.Operator, Embed: !l.Detached} }

// Options make a [Set].
type Options struct {
	// Logs in order of preference; those with the latest NotBefore come first.
	Logs []Log
	// Policy says how many SCTs are required, and how logs are tried. TrustedRoot is ignored.
	Policy PolicyConfig
	// Granted is called for every SCT that a Submit returns, before it returns. It MUST be cheap. Optional.
	Granted func(Grant)
	// Compute is called before an SCT is verified, and may wait for a processor; the function that it returns is called
	// afterwards. Optional.
	Compute func() (done func())
	// Previous is the set that this one replaces: the state of a log that stays the same (name, key and address) is
	// taken over. Optional.
	Previous *Set
	// Stopped is the result of [Set.Clock] of the previous set. It holds until the clocks of the logs of this set have
	// been sampled; without a log outside this process it is ignored.
	Stopped error
	// Now is the clock that SCTs and windows are compared with. Default: time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Grant is an SCT, and with it the log's obligation to merge the entry.
type Grant struct {
	// Log is the log's name.
	Log string
	// SCT is in TLS encoding (RFC 6962 §3.2).
	SCT            []byte
	Precertificate tbs.Precertificate
}

// Set is several logs under one policy. Its methods may be called by several goroutines.
type Set struct {
	logs    []*logState
	ranked  []*logState // the logs whose SCTs may be embedded, in order of preference
	policy  PolicyConfig
	now     func() time.Time
	logger  *slog.Logger
	granted func(Grant)
	compute func() (done func())
	metrics *metrics
	clock   clockGuard

	background sync.WaitGroup
	life       context.Context //nolint:containedctx // of probes that outlive their submission
	end        context.CancelFunc
}

// logState is a log with its state in the set.
type logState struct {
	Log
	id       [32]byte
	operator string // the part of the description that the policy uses
	remote   Remote // nil for a log in this process
	breaker  *breaker
	limiter  *rate.Limiter
	wake     chan struct{}           // asks the background work to check the log now
	queue    chan tbs.Precertificate // of a detached log

	mu          sync.Mutex
	warning     string    // of the last check
	rejects     string    // why the log will reject precertificates, according to its roots; an SCT disproves it
	accepted    time.Time // when the log last returned an SCT that verified
	quarantined string    // why the log is in quarantine; empty if it is not
	clock       clockSamples
}

// New makes a set. Its errors are each a [fault.Setting].
func New(o Options) (*Set, error) {
	s := &Set{policy: o.Policy.withDefaults(), now: o.Now, logger: o.Logger, granted: o.Granted, compute: o.Compute}
	if s.now == nil {
		s.now = time.Now
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if s.granted == nil {
		s.granted = func(Grant) {}
	}
	if s.compute == nil {
		s.compute = func() func() { return func() {} }
	}
	err := errors.Join(s.add(o.Logs), fault.Under(o.Policy.Check(), "policy"))
	if err == nil {
		slots := make([]Slot, 0, len(o.Logs))
		for _, l := range o.Logs {
			slots = append(slots, l.slot())
		}
		err = fault.Under(o.Policy.CheckFor(slots), "policy")
	}
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(s.logs, func(l *logState) bool { return l.remote != nil }) {
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

// takeOver copies the state of logs that are the same in both sets.
func (s *Set) takeOver(old *Set) {
	for _, l := range s.logs {
		for _, o := range old.logs {
			if l.Name == o.Name && l.id == o.id && l.remote != nil && o.remote != nil &&
				l.remote.Address() == o.remote.Address() {
				l.breaker.takeOver(o.breaker)
			}
		}
	}
}

// rank orders the logs whose SCTs may be embedded: the newest shard first, so that an old shard is no longer used as
// soon as there is a newer one.
func (s *Set) rank() {
	for _, l := range s.logs {
		if !l.Detached {
			s.ranked = append(s.ranked, l)
		}
	}
	slices.SortStableFunc(s.ranked, func(a, b *logState) int { return b.NotBefore.Compare(a.NotBefore) })
}

// add checks the logs and adds them to the set.
func (s *Set) add(logs []Log) error {
	var errs []error
	if len(logs) == 0 {
		errs = append(errs, fault.BadSetting("no log to submit to", "name a log"))
	}
	names, keys, created := map[string]bool{}, map[[32]byte]string{}, s.now()
	for i, l := range logs {
		at := []string{"logs", strconv.Itoa(i)} // the path in the configuration, which has the same order
		id, err := l.ID()
		if err == nil {
			err = loglist.CheckKey(l.Key)
		}
		switch other, twice := keys[id]; {
		case l.Name == "" || l.Submitter == nil:
			errs = append(errs, fault.BadSetting("a log without name or without submitter", "", at...))
		case names[l.Name]:
			errs = append(errs, fault.BadSetting(fmt.Sprintf("two logs have the name %q", l.Name),
				"give each log a different name", append(at, "name")...))
		case err != nil:
			errs = append(errs, fault.BadSetting(fmt.Sprintf("log %q: %v", l.Name, err),
				"write the key of this log", append(at, "public_key")...))
		case twice: // each log may give one SCT
			errs = append(errs, fault.BadSetting(fmt.Sprintf("logs %q and %q have the same key", other, l.Name),
				"name each log once", append(at, "public_key")...))
		}
		names[l.Name], keys[id] = true, l.Name
		if l.Rate < 0 {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("log %q: invalid rate %g", l.Name, l.Rate),
				"write a number above 0", append(at, "rate")...))
		}
		one := &logState{
			Log: l, id: id, operator: l.slot().operator(), breaker: &breaker{since: created},
			limiter: newLimiter(l.Rate), wake: make(chan struct{}, 1),
		}
		one.remote, _ = l.Submitter.(Remote)
		if l.Detached {
			one.queue = make(chan tbs.Precertificate, maxQueue)
		}
		s.logs = append(s.logs, one)
	}
	return errors.Join(errs...)
}

// newLimiter allows perSecond submissions a second, and as many at once as fit into one second; 0 means no limit.
func newLimiter(perSecond float64) *rate.Limiter {
	if perSecond == 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
}

// rateWait returns how long it takes until the rate allows another submission.
func (l *logState) rateWait() time.Duration {
	limit := l.limiter.Limit()
	missing := 1 - l.limiter.Tokens()
	if limit == rate.Inf || missing <= 0 {
		return 0
	}
	const most = time.Hour // prevents overflow for a very small rate
	if seconds := missing / float64(limit); seconds < most.Seconds() {
		return time.Duration(seconds*float64(time.Second)) + time.Millisecond
	}
	return most
}
