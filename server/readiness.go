package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/server/admission"
)

// Health is the state of one dependency.
type Health struct {
	OK bool
	// Advisory: the dependency is shown, but does not decide readiness.
	Advisory bool
	Warning  string // what to look at although it works
	Cause    string // why not OK
}

// Check is how one dependency, or a group of them, is asked. Ask or All is set. Both may take long, and may hang: they
// are called in the background, one call of a check at a time, and what they said last is what is reported.
type Check struct {
	Name string
	Ask  func() Health
	// All asks a group of dependencies at once; the names are those of the dependencies.
	All func() map[string]Health
}

// Readiness knows whether the dependencies of the server can issue. A sampler in the background asks them; reports are
// answered from memory and never wait (B4). A check that has not answered for staleAfter is not OK, which is visible in
// the report: a dependency that hangs is one that does not work. It is safe for concurrent use.
type Readiness struct {
	now    func() time.Time
	mu     sync.Mutex
	checks []*check
}

// How often dependencies are asked, and how old an answer may be.
const (
	sampleEvery = time.Second
	staleAfter  = 5 * time.Second
	firstAnswer = time.Second // how long Add and Replace wait for the first answers
)

// check is a Check with its last answers.
type check struct {
	Check
	busy  *atomic.Bool // it is being asked; a check that replaces another one of the same name shares it
	asked time.Time    // when it was given to the sampler, or last answered
	last  map[string]*answer
	said  bool // last is an answer; it may have no dependency
}

// answer is the last word of one dependency.
type answer struct {
	Health
	since time.Time // of the last change of OK
}

// NewReadiness returns a Readiness without dependencies.
func NewReadiness(now func() time.Time) *Readiness { return &Readiness{now: now} }

// Add adds a check, or replaces the one of the same name.
func (r *Readiness) Add(c Check) {
	r.mu.Lock()
	var all []Check
	for _, old := range r.checks {
		if old.Name != c.Name {
			all = append(all, old.Check)
		}
	}
	r.mu.Unlock()
	r.Replace(append(all, c))
}

// Replace puts checks in the place of all that are there. A dependency that was there keeps its past. It waits for the
// first answers for at most a second; a check that has not answered by then is not OK until it does.
func (r *Readiness) Replace(checks []Check) {
	r.mu.Lock()
	old := map[string]*check{}
	for _, c := range r.checks {
		old[c.Name] = c
	}
	r.checks = nil
	fresh := make([]*check, 0, len(checks))
	for _, one := range checks {
		c := &check{Check: one, busy: new(atomic.Bool), asked: r.now(), last: map[string]*answer{}}
		if before := old[one.Name]; before != nil {
			c.busy, c.last, c.said = before.busy, before.last, before.said
			if before.busy.Load() { // it hangs, perhaps: the new one is not asked before the old one has answered
				c.asked = before.asked
			}
		}
		fresh = append(fresh, c)
	}
	r.checks = fresh
	r.mu.Unlock()

	timer := time.NewTimer(firstAnswer)
	defer timer.Stop()
	for _, done := range r.sample() {
		select {
		case <-done:
		case <-timer.C:
			return
		}
	}
}

// sample asks every check that is not being asked. The channels are closed when they have answered.
func (r *Readiness) sample() []<-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []<-chan struct{}
	for _, c := range r.checks {
		if !c.busy.CompareAndSwap(false, true) {
			continue
		}
		done := make(chan struct{})
		out = append(out, done)
		go func() {
			defer close(done)
			defer c.busy.Store(false)
			r.store(c, c.ask())
		}()
	}
	return out
}

// ask calls the check. A check that panics is a dependency that does not work.
func (c *check) ask() (out map[string]Health) {
	defer func() {
		if p := recover(); p != nil {
			out = map[string]Health{c.Name: {Cause: fmt.Sprintf("the check panicked: %v", p)}}
		}
	}()
	if c.All != nil {
		return c.All()
	}
	return map[string]Health{c.Name: c.Ask()}
}

func (r *Readiness) store(c *check, said map[string]Health) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	next := make(map[string]*answer, len(said))
	for name, h := range said {
		a := &answer{Health: h, since: now}
		if before := c.last[name]; before != nil && before.OK == h.OK {
			a.since = before.since
		}
		next[name] = a
	}
	c.last, c.said, c.asked = next, true, now
}

// run samples until ctx ends. It does not wait for checks that hang.
func (r *Readiness) run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		r.sample()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// stale is the state of a check that has not answered in time; nil if it has.
func (c *check) stale(now time.Time) *Dependency {
	age := now.Sub(c.asked)
	if age <= staleAfter && c.said {
		return nil
	}
	d := &Dependency{Cause: "it was not asked yet", Since: c.asked}
	if age > staleAfter {
		d.Cause = fmt.Sprintf("no answer for %s: what is asked hangs", age.Truncate(time.Second))
	}
	return d
}

// Report is the page /readyz.
type Report struct {
	Ready        bool                  `json:"ready"`
	Dependencies map[string]Dependency `json:"dependencies"`
	Config       *InForce              `json:"config,omitempty"` // nil until there is one
	// Oldest is when the oldest answer in the report was given: reports are made from memory.
	Oldest time.Time `json:"oldest"`
}

// InForce is the configuration that requests run on.
type InForce struct {
	Generation uint64 `json:"generation"` // counts configurations, from 1
	Digest     string `json:"digest"`     // SHA-256, in hexadecimal
}

// Dependency is one line of a [Report].
type Dependency struct {
	OK      bool      `json:"ok"`
	Warning string    `json:"warning"`
	Cause   string    `json:"cause"`
	Since   time.Time `json:"since"` // of the last change of OK that was seen

	advisory bool
}

// Report says what every dependency said last.
func (r *Readiness) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	out := Report{
		Ready: true, Dependencies: make(map[string]Dependency, len(r.checks)),
		Oldest: now.UTC().Truncate(time.Second),
	}
	for _, c := range r.checks {
		if at := c.asked.UTC().Truncate(time.Second); at.Before(out.Oldest) {
			out.Oldest = at
		}
		late := c.stale(now)
		if late != nil && len(c.last) == 0 {
			out.add(c.Name, *late)
		}
		for name, a := range c.last {
			d := Dependency{OK: a.OK, Warning: a.Warning, Cause: a.Cause, Since: a.since, advisory: a.Advisory}
			if late != nil {
				d = *late // what hangs may be anything, so that it is not only for information
			}
			out.add(name, d)
		}
	}
	return out
}

func (r *Report) add(name string, d Dependency) {
	d.Since = d.Since.UTC().Truncate(time.Second)
	r.Ready = r.Ready && (d.OK || d.advisory)
	r.Dependencies[name] = d
}

// ready is the Ready of a report, for those who ask often.
func (r *Readiness) ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	for _, c := range r.checks {
		late := c.stale(now) != nil
		if late && len(c.last) == 0 {
			return false
		}
		for _, a := range c.last {
			if late || !a.OK && !a.Advisory {
				return false
			}
		}
	}
	return true
}

// unready is why the server itself is not ready; "" is that it is.
func (s *Server) unready() string {
	select {
	case <-s.stopping:
		return "stopping"
	default:
		return s.state.Load().cause
	}
}

// ready is whether requests would be served now: the Ready of [Server.report].
func (s *Server) ready() bool { return s.unready() == "" && s.readiness.ready() }

// report is the readiness of the server: its dependencies', once it has a core and until it stops.
func (s *Server) report() Report {
	r := s.readiness.Report()
	now := s.readiness.now()
	h := s.listening.health()
	r.add("listeners", Dependency{OK: h.OK, Warning: h.Warning, Since: s.began, advisory: h.Advisory})
	if why := s.unready(); why != "" {
		r.add("server", Dependency{Cause: why, Since: now})
	}
	if core := s.state.Load().core; core != nil {
		r.Config = &InForce{core.Generation, core.Digest}
	}
	return r
}

// causes says in one line why a report is not ready.
func (r Report) causes() string {
	var out []string
	for name, d := range r.Dependencies {
		if !d.OK && !d.advisory {
			out = append(out, name+": "+d.Cause)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// How readiness is followed for the log.
const (
	followEvery = 250 * time.Millisecond
	settleFirst = time.Second // how long the server may be starting before the log says that it is not ready
)

// follow writes to the log when the server becomes ready, and when and why it stops being so, until ctx ends.
func (s *Server) follow(ctx context.Context) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	said := "" // what the log said last
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		switch ready := s.ready(); {
		case ready && said != "ready":
			said = "ready"
			s.log.Info("ready")
		case !ready && said != "not ready" && (said != "" || time.Since(s.began) > settleFirst):
			if r := s.report(); !r.Ready {
				said = "not ready"
				s.log.Warn("not ready", "cause", r.causes())
			}
		}
	}
}

// readinessCollector has the metrics of readiness.
type readinessCollector struct{ *Server }

// Describe implements [prometheus.Collector]: dependencies come and go, so that nothing is promised.
func (readinessCollector) Describe(chan<- *prometheus.Desc) {}

var (
	readyDesc      = prometheus.NewDesc("mayfly_ready", "1 if /readyz says ready, 0 if not.", nil, nil)
	dependencyDesc = prometheus.NewDesc("mayfly_dependency_ready",
		"1 if the dependency works, 0 if not, by its name in /readyz.", []string{"dependency"}, nil)
	answerAgeDesc = prometheus.NewDesc("mayfly_readiness_age_seconds",
		"Age of the oldest result of a check that /readyz shows.", nil, nil)
)

// Collect implements [prometheus.Collector]: the readiness, from memory.
func (c readinessCollector) Collect(out chan<- prometheus.Metric) {
	r := c.report()
	number := func(ok bool) float64 {
		if ok {
			return 1
		}
		return 0
	}
	out <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, number(r.Ready))
	for name, d := range r.Dependencies {
		out <- prometheus.MustNewConstMetric(dependencyDesc, prometheus.GaugeValue, number(d.OK), name)
	}
	out <- prometheus.MustNewConstMetric(answerAgeDesc, prometheus.GaugeValue,
		max(0, c.readiness.now().Sub(r.Oldest).Truncate(time.Second).Seconds()))
}

// adminPages are for the operator. They MUST NOT be reachable from outside.
func (s *Server) adminPages(registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r := s.report()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !r.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(r) // an error means that the client disconnected
	})
	if registry != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	}
	profiles := http.NewServeMux()
	profiles.HandleFunc("GET /debug/pprof/", pprof.Index)
	profiles.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	profiles.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	profiles.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	profiles.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.profiling:
		case !onLoopback(r):
			http.Error(w,
				"profiles are served on loopback addresses only; write listen.profiling: true to serve them here",
				http.StatusForbidden)
			return
		case !hostname.IsLoopbackRequest(r.Host):
			// A page in a browser on this machine may have had its own name resolved to a loopback address (DNS
			// rebinding).
			http.Error(w,
				"profiles are served for the host names of loopback addresses only, as localhost or 127.0.0.1",
				http.StatusForbidden)
			return
		}
		profiles.ServeHTTP(w, r)
	})
	return mux
}

// onLoopback reports whether a request came in at a loopback address of this machine.
func onLoopback(r *http.Request) bool {
	at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && admission.AddressOf(at).IsLoopback()
}
