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
	// Advisory: the dependency is shown, but does not affect readiness.
	Advisory bool
	Warning  string // a problem of a dependency that works
	Cause    string // why OK is false
}

// Check is how one dependency, or a group of dependencies, is checked. Exactly one of Ask and All is set. Both may take
// long, and may hang: they are called in the background, one call of a check at a time, and the report has their last
// results.
type Check struct {
	Name string
	Ask  func() Health
	// All checks a group of dependencies at once; the keys are the names of the dependencies.
	All func() map[string]Health
}

// Readiness knows whether the dependencies of the server work. A sampler in the background checks them; reports are
// made from memory and never wait (B4). A check without a result for staleAfter counts as failed, and the report says
// so: a dependency that hangs does not work. It is safe for concurrent use.
type Readiness struct {
	now    func() time.Time
	mu     sync.Mutex
	checks []*check
}

// How often checks run, and how old a result may be.
const (
	sampleEvery = time.Second
	staleAfter  = 5 * time.Second
	firstAnswer = time.Second // how long Add and Replace wait for the first results
)

// check is a Check with its last results.
type check struct {
	Check
	busy     *atomic.Bool // set while the check runs; shared with a check of the same name that it replaces
	asked    time.Time    // when it was given to the sampler, or last returned a result
	last     map[string]*answer
	answered bool // last is the result; a group may have no dependency
}

// answer is the last result of one dependency.
type answer struct {
	Health
	since time.Time // when OK last changed
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

// Replace replaces all checks. A dependency of the same name keeps the time of its last change. Replace waits for the
// first results for at most a second; a check without a result by then is not OK until it has one.
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
			c.busy, c.last, c.answered = before.busy, before.last, before.answered
			if before.busy.Load() { // the old check may hang: the new one runs only after the old one has returned
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

// sample runs every check that is not running. The channels are closed when the checks have returned.
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

// ask runs the check. A check that panics counts as failed.
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

func (r *Readiness) store(c *check, results map[string]Health) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	next := make(map[string]*answer, len(results))
	for name, h := range results {
		a := &answer{Health: h, since: now}
		if before := c.last[name]; before != nil && before.OK == h.OK {
			a.since = before.since
		}
		next[name] = a
	}
	c.last, c.answered, c.asked = next, true, now
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

// stale returns the state of a check without a result in time; nil if it has one.
func (c *check) stale(now time.Time) *Dependency {
	age := now.Sub(c.asked)
	if age <= staleAfter && c.answered {
		return nil
	}
	d := &Dependency{Cause: "the check has not run yet", Since: c.asked}
	if age > staleAfter {
		d.Cause = fmt.Sprintf("no result for %s: the check hangs", age.Truncate(time.Second))
	}
	return d
}

// Report is the page /readyz.
type Report struct {
	Ready        bool                  `json:"ready"`
	Dependencies map[string]Dependency `json:"dependencies"`
	Config       *InForce              `json:"config,omitempty"` // nil until there is one
	// Oldest is the time of the oldest result in the report, which is made from memory.
	Oldest time.Time `json:"oldest"`
}

// InForce is the configuration that serves requests now.
type InForce struct {
	Generation uint64 `json:"generation"` // number of the loaded configuration, from 1
	Digest     string `json:"digest"`     // SHA-256, in hexadecimal
}

// Dependency is one entry of a [Report].
type Dependency struct {
	OK      bool      `json:"ok"`
	Warning string    `json:"warning"`
	Cause   string    `json:"cause"`
	Since   time.Time `json:"since"` // when OK was last seen to change
	// Advisory: the dependency does not affect Ready.
	Advisory bool `json:"advisory,omitempty"`
}

// Report returns the last result of every check.
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
			d := Dependency{OK: a.OK, Warning: a.Warning, Cause: a.Cause, Since: a.since, Advisory: a.Advisory}
			if late != nil {
				d = *late // a check that hangs may contain any dependency, so the entry is not advisory
			}
			out.add(name, d)
		}
	}
	return out
}

func (r *Report) add(name string, d Dependency) {
	d.Since = d.Since.UTC().Truncate(time.Second)
	r.Ready = r.Ready && (d.OK || d.Advisory)
	r.Dependencies[name] = d
}

// ready returns the Ready of a report without making the report.
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

// unready returns why the server itself is not ready; empty if it is.
func (s *Server) unready() string {
	select {
	case <-s.stopping:
		return "stopping"
	default:
		return s.state.Load().cause
	}
}

// ready reports whether requests would be served now: the Ready of [Server.report].
func (s *Server) ready() bool { return s.unready() == "" && s.readiness.ready() }

// report returns the readiness of the server: that of its dependencies, and false before it has a core and while it
// stops.
func (s *Server) report() Report {
	r := s.readiness.Report()
	now := s.readiness.now()
	h := s.listening.health()
	r.add("listeners", Dependency{OK: h.OK, Warning: h.Warning, Since: s.began, Advisory: h.Advisory})
	if why := s.unready(); why != "" {
		r.add("server", Dependency{Cause: why, Since: now})
	}
	if core := s.state.Load().core; core != nil {
		r.Config = &InForce{core.Generation, core.Digest}
	}
	return r
}

// causes returns in one line why a report is not ready.
func (r Report) causes() string {
	var out []string
	for name, d := range r.Dependencies {
		if !d.OK && !d.Advisory {
			out = append(out, name+": "+d.Cause)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// How changes of readiness are logged.
const (
	followEvery = 250 * time.Millisecond
	startGrace  = time.Second // how long the server may be starting before the log says that it is not ready
)

// follow logs when the server becomes ready, and when and why it is no longer ready, until ctx ends.
func (s *Server) follow(ctx context.Context) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	logged, since := "", s.began // the last state that was logged, and when
	for {
		s.followed.Store(time.Now().UnixNano())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		switch ready := s.ready(); {
		case ready && logged != "ready":
			s.log.Info("ready", "after", time.Since(since))
			logged, since = "ready", time.Now()
			s.onReadiness("")
		case !ready && logged != "not ready" && (logged != "" || time.Since(s.began) > startGrace):
			if r := s.report(); !r.Ready {
				s.log.Warn("not ready", "cause", r.causes(), "after", time.Since(since))
				logged, since = "not ready", time.Now()
				s.onReadiness(r.causes())
			}
		}
	}
}

// aliveFor is how old the last round of [Server.follow] may be in a process that works.
const aliveFor = 10 * time.Second

// Alive reports whether the server evaluates its readiness, which it does several times a second. A process that does
// not is stuck.
func (s *Server) Alive() bool { return time.Since(time.Unix(0, s.followed.Load())) < aliveFor }

// readinessCollector has the metrics of readiness.
type readinessCollector struct{ *Server }

// Describe implements [prometheus.Collector]. It sends nothing, because dependencies come and go (an unchecked
// collector).
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

// adminPages are the pages for the operator. They MUST NOT be reachable by others.
func (s *Server) adminPages(o Options) http.Handler {
	registry := o.Registry
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
		mux.Handle("GET /metrics", promhttp.HandlerFor(registry,
			promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second, EnableOpenMetrics: true}))
	}
	if o.Canary != nil {
		mux.Handle("GET /canary", o.Canary)
		mux.Handle("POST /canary", ownPage(o.Canary))
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
				"profiles are served on loopback addresses only; set listen.profiling: true to serve them here",
				http.StatusForbidden)
			return
		case !hostname.IsLoopbackRequest(r.Host):
			// A browser on this machine may be on a page whose host name now resolves to a loopback address (DNS
			// rebinding).
			http.Error(w,
				"profiles are served only if the Host header names a loopback address, such as localhost or 127.0.0.1",
				http.StatusForbidden)
			return
		}
		profiles.ServeHTTP(w, r)
	})
	return mux
}

// ownPage refuses the requests that a page of another site makes from a browser on this machine: those with another
// origin, and those to a loopback address under a name that is not one (DNS rebinding).
func ownPage(page http.Handler) http.Handler {
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if onLoopback(r) && !hostname.IsLoopbackRequest(r.Host) {
			http.Error(w, "the Host header must name a loopback address, such as localhost or 127.0.0.1",
				http.StatusForbidden)
			return
		}
		page.ServeHTTP(w, r)
	}))
}

// onLoopback reports whether a request was received at a loopback address of this machine.
func onLoopback(r *http.Request) bool {
	at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && admission.AddressOf(at).IsLoopback()
}
