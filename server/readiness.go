package server

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Health is the state of one dependency.
type Health struct {
	OK bool
	// Advisory: the dependency is shown, but does not decide readiness.
	Advisory bool
	Warning  string // what to look at although it works
	Cause    string // why not OK
}

// Readiness asks the dependencies whether the server can issue. It is safe for concurrent use.
type Readiness struct {
	now    func() time.Time
	mu     sync.Mutex
	checks []*check
}

type check struct {
	name  string
	ask   func() Health
	ok    bool
	since time.Time
}

// NewReadiness returns a Readiness without dependencies.
func NewReadiness(now func() time.Time) *Readiness { return &Readiness{now: now} }

// Add adds a dependency, or replaces the one of the same name. ask MUST return at once.
func (r *Readiness) Add(name string, ask func() Health) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &check{name: name, ask: ask, ok: ask().OK, since: r.now()}
	if i := slices.IndexFunc(r.checks, func(c *check) bool { return c.name == name }); i >= 0 {
		r.checks[i] = c
		return
	}
	r.checks = append(r.checks, c)
}

// Check is a dependency: its name, and how to ask it. Ask MUST return at once.
type Check struct {
	Name string
	Ask  func() Health
}

// Replace puts checks in the place of all that are there. One that was there under the same name keeps its past.
func (r *Readiness) Replace(checks []Check) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := map[string]*check{}
	for _, c := range r.checks {
		old[c.name] = c
	}
	r.checks = nil
	for _, one := range checks {
		c := old[one.Name]
		if c == nil {
			c = &check{name: one.Name, ok: one.Ask().OK, since: r.now()}
		}
		r.checks = append(r.checks, &check{name: one.Name, ask: one.Ask, ok: c.ok, since: c.since})
	}
}

// Report is the page /readyz.
type Report struct {
	Ready        bool                  `json:"ready"`
	Dependencies map[string]Dependency `json:"dependencies"`
	Config       *InForce              `json:"config,omitempty"` // nil until there is one
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
}

// Report asks every dependency.
func (r *Readiness) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := Report{Ready: true, Dependencies: make(map[string]Dependency, len(r.checks))}
	for _, c := range r.checks {
		h := c.ask()
		if h.OK != c.ok {
			c.ok, c.since = h.OK, r.now()
		}
		out.Ready = out.Ready && (h.OK || h.Advisory)
		out.Dependencies[c.name] = Dependency{OK: h.OK, Warning: h.Warning, Cause: h.Cause, Since: c.since.UTC().Truncate(time.Second)}
	}
	return out
}

// report is the readiness of the server: its dependencies', once it has a core and until it stops.
func (s *Server) report() Report {
	r := s.readiness.Report()
	refuse := func(cause string) {
		r.Ready = false
		r.Dependencies["server"] = Dependency{Cause: cause, Since: s.readiness.now().UTC().Truncate(time.Second)}
	}
	if st := s.state.Load(); st.core == nil {
		refuse(st.cause)
	} else {
		r.Config = &InForce{st.core.Generation, st.core.Digest}
	}
	select {
	case <-s.stopping:
		refuse("stopping")
	default:
	}
	return r
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
		_ = json.NewEncoder(w).Encode(r) // the client is gone: nobody to tell
	})
	if registry != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	}
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
