package ctlog_test

import (
	"slices"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/testkit/ct"
)

// BenchmarkSubmit submits to two logs that take 20 ms each. A third log that never answers should not increase the
// latency. It reports the latency in milliseconds, and the calls to the dead log for each hundred submissions.
func BenchmarkSubmit(b *testing.B) {
	for _, bench := range []struct {
		name   string
		dead   bool
		policy ctlog.PolicyConfig
	}{
		{"all=well", false, ctlog.PolicyConfig{}},
		{"one=dead", true, ctlog.PolicyConfig{}},
		{"one=dead/parallel=1", true, ctlog.PolicyConfig{Parallel: 1}},
		{"one=dead/min_scts=2", true, ctlog.PolicyConfig{MinSCTs: 2}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			ca := newAuthority(b)
			hole, first := labLog(b, "dead", ct.Options{})
			configured := []ctlog.Log{first}
			if bench.dead {
				hole.SetFault(ct.Hang)
			} else {
				configured = nil
			}
			for _, name := range []string{"a", "b"} {
				_, m := labLog(b, name, ct.Options{Latency: 20 * time.Millisecond})
				configured = append(configured, m)
			}
			s := newSet(b, ctlog.Options{Logs: configured, Policy: bench.policy})
			p := ca.precert(b)
			took := make([]time.Duration, 0, b.N)
			for b.Loop() {
				began := time.Now()
				if _, err := s.Submit(b.Context(), p); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			ms := func(percent int) float64 { return took[len(took)*percent/100].Seconds() * 1e3 }
			b.ReportMetric(ms(50), "p50-ms")
			b.ReportMetric(ms(99), "p99-ms")
			b.ReportMetric(100*float64(hole.Calls())/float64(len(took)), "dead-calls/100")
		})
	}
}
