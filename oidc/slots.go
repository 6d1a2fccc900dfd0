package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// class says on whose account a fetch is made, by what is known of its provider. Each class has slots of its own:
// providers that hang cannot take the slots of providers that are known to be good.
type class uint8

const (
	knownGood  class = iota // its keys are in hand, and the last fetch succeeded
	configured              // an entry of the operator's that has not been asked yet
	failing                 // an entry or a provider whose keys are in hand, and the last fetch failed
	unproven                // a token named it and it matches a pattern; it has never served keys
	classes
)

var classNames = [classes]string{"known_good", "configured", "failing", "unproven"}

// share is how many of something may be held at once: in all, by one entry of the configuration, by one host, and by
// one source of requests. Zero is no limit.
type share struct{ total, entry, host, source int }

// fetchShares are how many fetches run at once. Fetches that no request waits for get at most half of a total and of a
// host's share, so that a start with very many entries leaves room for requests.
var fetchShares = [classes]share{
	knownGood:  {total: 32, host: 16},
	configured: {total: 48, host: 24},
	failing:    {total: 48, host: 16},
	unproven:   {total: 48, entry: 16, host: 8, source: 24},
}

// queueFactor is how many fetches of unproven providers may run or be queued, as a multiple of how many may run.
const queueFactor = 4

// caller is on whose behalf a fetch is made.
type caller struct {
	request bool       // a request waits for the fetch
	source  netip.Addr // of the request; the zero address: unknown, or there is none
}

// claim is what something held counts against. The zero claim is the total.
type claim struct {
	entry, host string
	source      netip.Addr
}

// limit is a claim with its share, and the word for it in metrics.
type limit struct {
	claim
	name string
	max  int
}

// limits are the claims of a holder. Below a pattern, which anybody can invent providers for, a source has at most half
// of each other share too, so that one source never holds all of it.
func (s share) limits(entry, host string, source netip.Addr) []limit {
	out := []limit{{claim{}, "total", s.total}}
	if s.entry > 0 {
		out = append(out, limit{claim{entry: entry}, "entry", s.entry})
	}
	if s.host > 0 {
		if s.entry == 0 {
			entry = "" // hosts of entries of the operator's own: all entries together
		}
		out = append(out, limit{claim{entry: entry, host: host}, "host", s.host})
	}
	if s.source > 0 && source.IsValid() {
		narrow := out[1:]
		out = append(out, limit{claim{source: source}, "source", s.source})
		for _, l := range narrow {
			if s.entry > 0 {
				l.source = source
				out = append(out, limit{l.claim, "source", (l.max + 1) / 2})
			}
		}
	}
	return out
}

// tally counts what is held under each claim.
type tally map[claim]int

// full returns the word for the first limit that is reached; "" for none. scale multiplies the limits.
func (t tally) full(all []limit, scale int) string {
	for _, l := range all {
		if t[l.claim] >= l.max*scale {
			return l.name
		}
	}
	return ""
}

func (t tally) add(all []limit, n int) {
	for _, l := range all {
		if t[l.claim] += n; t[l.claim] == 0 {
			delete(t, l.claim)
		}
	}
}

// slots lets fetches run, or has them wait in a queue. It does no I/O.
type slots struct {
	now func() time.Time

	mu      sync.Mutex
	lanes   [classes]lane
	refused *prometheus.CounterVec // class, limit
}

// lane is the state of one class.
type lane struct {
	running, admitted tally
	queue             []*turn // in the order in which they came
	lastRefused       time.Time
}

// turn is the place of one fetch: in the queue, or running.
type turn struct {
	slots   *slots
	class   class
	limits  []limit
	request bool          // needs slots.mu
	ready   chan struct{} // closed when the fetch may run
}

func newSlots(now func() time.Time) *slots {
	s := &slots{now: now, refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_oidc_fetches_refused_total",
		Help: "Fetches that were refused because too many run or wait, by class of provider and by the " +
			"limit that was reached.",
	}, []string{"class", "limit"})}
	for c := range s.lanes {
		s.lanes[c].running, s.lanes[c].admitted = tally{}, tally{}
	}
	return s
}

var errFull = errors.New("too many providers are being asked at once")

// apply asks for a turn for a fetch of the entry and from the host of at. Only the queue of unproven providers is
// bounded here: the number of the others is that of the entries and of the providers that are remembered.
func (s *slots) apply(c class, at claim, who caller) (*turn, error) {
	t := &turn{slots: s, class: c, request: who.request, ready: make(chan struct{})}
	t.limits = fetchShares[c].limits(at.entry, at.host, who.source)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.lanes[c]
	if c == unproven {
		if name := l.admitted.full(t.limits, queueFactor); name != "" {
			s.refused.WithLabelValues(classNames[c], name).Inc()
			l.lastRefused = s.now()
			return nil, fmt.Errorf("%w (class %s, limit %s)", errFull, classNames[c], name)
		}
	}
	l.admitted.add(t.limits, 1)
	if l.fits(t) { // those in the queue do not fit: nothing was given back since they were looked at
		l.run(t)
	} else {
		l.queue = append(l.queue, t)
	}
	return t, nil
}

// next starts what may run: those that a request waits for, then the others. It needs the mutex of the slots.
func (l *lane) next() {
	for _, requests := range []bool{true, false} {
		l.queue = slices.DeleteFunc(l.queue, func(t *turn) bool {
			if t.request != requests || !l.fits(t) {
				return false
			}
			l.run(t)
			return true
		})
	}
}

func (l *lane) run(t *turn) {
	l.running.add(t.limits, 1)
	close(t.ready)
}

func (l *lane) fits(t *turn) bool {
	if t.request {
		return l.running.full(t.limits, 1) == ""
	}
	for _, one := range t.limits {
		if l.running[one.claim] >= (one.max+1)/2 {
			return false
		}
	}
	return true
}

// wait returns nil when the fetch may run; the caller MUST then call done. After an error the turn is given back.
func (t *turn) wait(ctx context.Context) error {
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
	}
	t.slots.mu.Lock()
	defer t.slots.mu.Unlock()
	l := &t.slots.lanes[t.class]
	if i := slices.Index(l.queue, t); i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
		l.admitted.add(t.limits, -1)
		return fmt.Errorf("%w (class %s)", errFull, classNames[t.class])
	}
	return nil // it began to run meanwhile
}

// done gives the slot back.
func (t *turn) done() {
	t.slots.mu.Lock()
	defer t.slots.mu.Unlock()
	l := &t.slots.lanes[t.class]
	l.running.add(t.limits, -1)
	l.admitted.add(t.limits, -1)
	l.next()
}

// hurry says that a request waits for the fetch now.
func (t *turn) hurry() {
	t.slots.mu.Lock()
	defer t.slots.mu.Unlock()
	if !t.request {
		t.request = true
		t.slots.lanes[t.class].next()
	}
}

// PoolStatus is the state of the fetches of one class of providers.
type PoolStatus struct {
	Class           string // known_good, configured, failing or unproven
	Running, Queued int
	Limit           int       // how many may run at once
	LastRefused     time.Time // when a fetch was refused because too many ran or waited; zero: never
}

func (s *slots) status() []PoolStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]PoolStatus, 0, classes)
	for c := range s.lanes {
		l := &s.lanes[c]
		out = append(out, PoolStatus{
			Class: classNames[c], Running: l.running[claim{}], Queued: len(l.queue), Limit: fetchShares[c].total,
			LastRefused: l.lastRefused,
		})
	}
	return out
}

var (
	runningDesc = prometheus.NewDesc("mayfly_oidc_fetches_running",
		"Fetches of keys that run now, by class of provider.", []string{"class"}, nil)
	queuedDesc = prometheus.NewDesc("mayfly_oidc_fetches_queued",
		"Fetches of keys that wait for a slot, by class of provider.", []string{"class"}, nil)
)

// Describe implements [prometheus.Collector].
func (s *slots) Describe(out chan<- *prometheus.Desc) {
	out <- runningDesc
	out <- queuedDesc
	s.refused.Describe(out)
}

// Collect implements [prometheus.Collector].
func (s *slots) Collect(out chan<- prometheus.Metric) {
	for _, p := range s.status() {
		out <- prometheus.MustNewConstMetric(runningDesc, prometheus.GaugeValue, float64(p.Running), p.Class)
		out <- prometheus.MustNewConstMetric(queuedDesc, prometheus.GaugeValue, float64(p.Queued), p.Class)
	}
	s.refused.Collect(out)
}
