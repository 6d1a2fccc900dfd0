package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/server"
)

// newRegistry returns a registry with metrics of the Go runtime, the process and the build.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	b := version.Read()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_build_info", Help: "1; the labels say what the binary was built from.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "go_version": b.GoVersion},
	})
	info.Set(1)
	fips := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_fips140_info",
		Help: "1; the labels say whether FIPS 140-3 is off, on, or the only mode (enforced), and the " +
			"version of Go's module.",
		ConstLabels: prometheus.Labels{"state": b.FIPS140.State, "module": b.FIPS140.Module},
	})
	fips.Set(1)
	r.MustRegister(fips, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info)
	return r
}

// checks returns the checks of /readyz. The CA and the set of logs decide readiness. A single log or provider that
// fails is shown, but does not make the CA unready, because it may not affect other requests.
func (s *snapshot) checks() []server.Check {
	out := []server.Check{
		{Name: "ca", Ask: func() server.Health {
			h := s.authority.Health()
			return server.Health{OK: h.OK, Warning: h.Warning, Cause: h.Cause}
		}},
		{Name: "ct", Ask: s.logHealth},
		{Name: "clock", Ask: s.clockHealth},
		s.journal.check(),
		{Name: "identity providers", Ask: s.providerPools},
	}
	if f := version.FIPS140(); f.State != "off" {
		out = append(out, server.Check{
			Name: "FIPS 140-3: " + f.State + ", module " + f.Module,
			Ask: func() server.Health {
				return server.Health{OK: true, Advisory: true}
			},
		})
	}
	out = append(out, signerChecks("signer", s.files.key, false)...)
	out = append(out, s.mldsaChecks()...)
	if s.embedded != nil {
		out = append(out, s.shardChecks()...)
	}
	if s.logs != nil {
		out = append(out, server.Check{Name: "logs", All: s.remoteLogs})
	}
	return append(out, server.Check{Name: "issuers", All: s.allIssuers})
}

// signerChecks returns the check of a key outside this process; none for another key.
func signerChecks(name string, key *signer.Key, advisory bool) []server.Check {
	if !key.Remote() {
		return nil
	}
	return []server.Check{{Name: name, Ask: func() server.Health {
		if err := key.Usable(context.Background()); err != nil {
			return server.Health{Advisory: advisory, Cause: err.Error()}
		}
		return server.Health{OK: true, Advisory: advisory}
	}}}
}

// remoteLogs returns the health of each log that is not a shard of the embedded log.
func (s *snapshot) remoteLogs() map[string]server.Health {
	out := map[string]server.Health{}
	for _, st := range s.logs.Status() {
		if st.Name != "embedded" && !strings.HasPrefix(st.Name, "embedded-") {
			out["log "+st.Name] = logLine(st)
		}
	}
	return out
}

func logLine(st ctlog.Status) server.Health {
	return server.Health{OK: st.OK, Advisory: true, Warning: st.Warning, Cause: st.Cause}
}

// allIssuers returns the health of each configured issuer.
func (s *snapshot) allIssuers() map[string]server.Health {
	out := map[string]server.Health{}
	for _, st := range s.issuers.Status() {
		out["issuer "+st.Issuer] = server.Health{OK: st.OK, Advisory: true, Warning: st.Warning, Cause: st.Cause}
	}
	return out
}

// logHealth returns whether enough logs are available for the policy.
func (s *snapshot) logHealth() server.Health {
	if s.logs == nil {
		return server.Health{OK: true, Warning: "certificates are not logged (ct.none): " + s.noLog}
	}
	if err := s.logs.Health(); err != nil {
		return server.Health{Cause: err.Error()}
	}
	var down []string
	all := slices.DeleteFunc(s.logs.Status(), func(st ctlog.Status) bool { return s.idle(st.Name) })
	for _, st := range all {
		if !st.OK {
			down = append(down, st.Name+": "+st.Cause)
		}
	}
	return server.Health{OK: true, Warning: strings.Join(down, "; ")}
}

// clockHealth returns whether this machine's clock is accurate enough to issue certificates.
func (s *snapshot) clockHealth() server.Health {
	if err := s.clockProblem(); err != nil {
		return server.Health{Cause: err.Error()}
	}
	return server.Health{OK: true}
}

// clockProblem returns why this machine's clock is wrong, or nil.
func (s *snapshot) clockProblem() error {
	if err := s.clock.Check(time.Now()); err != nil || s.logs == nil {
		return err
	}
	return s.logs.Clock()
}

// noneGauge returns the metric that says whether certificates are issued without a log.
func (s *snapshot) noneGauge() prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_ct_none_ratio",
		Help: "1 if certificates are issued without a log (ct.none), 0 if every one is logged.",
	})
	if s.logs == nil {
		g.Set(1)
	}
	return g
}

func (s *snapshot) logStatus(name string) server.Health {
	for _, st := range s.logs.Status() {
		if st.Name == name {
			return logLine(st)
		}
	}
	return server.Health{Advisory: true, Cause: "the log is not in the current configuration"}
}

// fullFor is how long /readyz warns after a fetch of provider keys was refused.
const fullFor = time.Minute

// providerPools warns if key fetches were refused because all slots were in use. It is only a warning, because any
// client can cause such fetches for providers that are matched by a pattern.
func (s *snapshot) providerPools() server.Health {
	var full []string
	for _, p := range s.issuers.Fetches() {
		if !p.LastRefused.IsZero() && time.Since(p.LastRefused) < fullFor {
			full = append(full,
				fmt.Sprintf("too many %s identity providers are asked for keys at once; the last "+
					"request was refused at %s",
					strings.ReplaceAll(p.Class, "_", " "), p.LastRefused.UTC().Format(time.RFC3339)))
		}
	}
	return server.Health{OK: true, Advisory: true, Warning: strings.Join(full, "; ")}
}

// logCount returns the number of remote logs and open shards.
func (s *snapshot) logCount() int {
	n := len(s.files.logs)
	if s.embedded != nil {
		n += len(s.embedded.Open())
	}
	return n
}
