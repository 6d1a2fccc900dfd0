package provider

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/span"
)

// class is the class of a fetch, by the history of its provider. Each class has its own slots: providers that do not
// answer cannot take the slots of providers that are known to be good.
type class uint8

const (
	knownGood  class = iota // keys are cached, and the last fetch succeeded
	configured              // an exact entry that has not been fetched yet
	failing                 // the last fetch failed
	unproven                // the issuer of a token matched a pattern, and has never served keys
	classes
)

var classNames = [classes]string{"known_good", "configured", "failing", "unproven"}

// quota is the number of slots that may be used at once: in total, by one entry of the configuration, for one host, and
// by the requests of one client. Zero means no limit.
type quota struct{ total, entry, host, client int }

// quotas limit the fetches that run at once. Fetches that no request waits for get at most half of the quotas for total
// and host, so that slots are left for requests when a configuration with very many entries starts.
var quotas = [classes]quota{
	knownGood:  {total: 32, host: 16},
	configured: {total: 48, host: 24},
	failing:    {total: 48, host: 16},
	unproven:   {total: 48, entry: 16, host: 8, client: 24},
}

// queueFactor is how many fetches of unproven providers may run or wait, as a multiple of how many may run.
const queueFactor = 4

// caller is the origin of a fetch.
type caller struct {
	request bool       // a request waits for the fetch
	client  netip.Addr // address of the request; the zero address if it is unknown or there is no request
	step    span.Span  // of the request
}

// scope is what a quota applies to. The zero scope is the total.
type scope struct {
	entry, host string
	client      netip.Addr
}

// limit is the quota of one scope.
type limit struct {
	scope
	name string // name in metrics
	max  int
}

// limits lists the limits that apply to a fetch. If client has a quota, one client gets at most half of the other
// quotas too, so that a single client cannot exhaust them: anyone can invent issuers that match a pattern.
func (q quota) limits(entry, host string, client netip.Addr) []limit {
	out := []limit{{scope{}, "total", q.total}}
	if q.entry > 0 {
		out = append(out, limit{scope{entry: entry}, "entry", q.entry})
	}
	if q.host > 0 {
		if q.entry == 0 {
			entry = "" // all entries together may have this many for the host
		}
		out = append(out, limit{scope{entry: entry, host: host}, "host", q.host})
	}
	if q.client > 0 && client.IsValid() {
		narrow := out[1:]
		out = append(out, limit{scope{client: client}, "source", q.client})
		for _, l := range narrow {
			if q.entry > 0 {
				l.client = client
				out = append(out, limit{l.scope, "source", (l.max + 1) / 2})
			}
		}
	}
	return out
}

// counts has the number of slots for each scope.
type counts map[scope]int

// exceeded returns the name of the first limit that is reached; empty if none is. factor multiplies the limits.
func (c counts) exceeded(all []limit, factor int) string {
	for _, l := range all {
		if c[l.scope] >= l.max*factor {
			return l.name
		}
	}
	return ""
}

func (c counts) add(all []limit, n int) {
	for _, l := range all {
		if c[l.scope] += n; c[l.scope] == 0 {
			delete(c, l.scope)
		}
	}
}

// slots limits how many fetches run at once and queues the others. It does no I/O.
type slots struct {
	now func() time.Time

	mu      sync.Mutex
	classes [classes]classSlots
	refused *prometheus.CounterVec // by class and limit
}

// classSlots are the slots of one class.
type classSlots struct {
	running, admitted counts  // admitted fetches: running or queued
	queue             []*slot // queued fetches in order of arrival
	lastRefused       time.Time
}

// slot is the place of one fetch, queued or running.
type slot struct {
	slots   *slots
	class   class
	limits  []limit
	request bool          // a request waits; guarded by slots.mu
	ready   chan struct{} // closed when the fetch may run
}

func newSlots(now func() time.Time) *slots {
	s := &slots{now: now, refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_oidc_fetches_refused_total",
		Help: "Fetches that were refused because too many run or wait, by class of provider and by the " +
			"limit that was reached.",
	}, []string{"class", "limit"})}
	for c := range s.classes {
		s.classes[c].running, s.classes[c].admitted = counts{}, counts{}
	}
	return s
}

var errNoSlot = errors.New("keys of too many providers are being fetched at once")

// reserve returns a slot for a fetch of the entry and from the host of at. Only the queue of unproven providers is
// limited here: the other queues are limited by the number of entries and of cached providers.
func (s *slots) reserve(c class, at scope, by caller) (*slot, error) {
	one := &slot{slots: s, class: c, request: by.request, ready: make(chan struct{})}
	one.limits = quotas[c].limits(at.entry, at.host, by.client)
	s.mu.Lock()
	defer s.mu.Unlock()
	of := &s.classes[c]
	if c == unproven {
		if name := of.admitted.exceeded(one.limits, queueFactor); name != "" {
			s.refused.WithLabelValues(classNames[c], name).Inc()
			of.lastRefused = s.now()
			return nil, fmt.Errorf("%w (class %s, limit %s)", errNoSlot, classNames[c], name)
		}
	}
	of.admitted.add(one.limits, 1)
	if of.canRun(one) { // no queued fetch can run: no slot was released since the queue was last examined
		of.run(one)
	} else {
		of.queue = append(of.queue, one)
	}
	return one, nil
}

// runQueued starts the queued fetches that fit: first those that a request waits for. The caller holds slots.mu.
func (c *classSlots) runQueued() {
	for _, request := range []bool{true, false} {
		c.queue = slices.DeleteFunc(c.queue, func(s *slot) bool {
			if s.request != request || !c.canRun(s) {
				return false
			}
			c.run(s)
			return true
		})
	}
}

func (c *classSlots) run(s *slot) {
	c.running.add(s.limits, 1)
	close(s.ready)
}

func (c *classSlots) canRun(s *slot) bool {
	if s.request {
		return c.running.exceeded(s.limits, 1) == ""
	}
	for _, l := range s.limits {
		if c.running[l.scope] >= (l.max+1)/2 {
			return false
		}
	}
	return true
}

// wait returns nil when the fetch may run; the caller MUST then call release. If wait returns an error, the slot has
// been released.
func (s *slot) wait(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
	}
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	of := &s.slots.classes[s.class]
	if i := slices.Index(of.queue, s); i >= 0 {
		of.queue = slices.Delete(of.queue, i, i+1)
		of.admitted.add(s.limits, -1)
		return fmt.Errorf("%w (class %s)", errNoSlot, classNames[s.class])
	}
	return nil // it became ready in the meantime
}

// release ends the use of the slot.
func (s *slot) release() {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	of := &s.slots.classes[s.class]
	of.running.add(s.limits, -1)
	of.admitted.add(s.limits, -1)
	of.runQueued()
}

// prioritize records that a request waits for the fetch now.
func (s *slot) prioritize() {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	if !s.request {
		s.request = true
		s.slots.classes[s.class].runQueued()
	}
}

// ClassStatus is the state of the fetches of one class of providers.
type ClassStatus struct {
	Class           string // known_good, configured, failing or unproven
	Running, Queued int
	Limit           int       // number that may run at once
	LastRefused     time.Time // when a fetch was refused because too many ran or waited; zero: never
}

func (s *slots) status() []ClassStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ClassStatus, 0, classes)
	for c := range s.classes {
		of := &s.classes[c]
		out = append(out, ClassStatus{
			Class: classNames[c], Running: of.running[scope{}], Queued: len(of.queue), Limit: quotas[c].total,
			LastRefused: of.lastRefused,
		})
	}
	return out
}

var (
	runningDesc = prometheus.NewDesc("mayfly_oidc_fetches_running",
		"Current fetches of keys, by class of provider.", []string{"class"}, nil)
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
	for _, c := range s.status() {
		out <- prometheus.MustNewConstMetric(runningDesc, prometheus.GaugeValue, float64(c.Running), c.Class)
		out <- prometheus.MustNewConstMetric(queuedDesc, prometheus.GaugeValue, float64(c.Queued), c.Class)
	}
	s.refused.Collect(out)
}
