package shadow

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those of one proxy. All labels are closed sets.
type metrics struct {
	requests    *prometheus.CounterVec // by API and by who answered
	comparisons *prometheus.CounterVec // by outcome
	differences *prometheus.CounterVec // by kind
	failures    *prometheus.CounterVec // of the candidate, by what it was
	records     prometheus.Counter     // that could not be written
	seconds     prometheus.Histogram
	waiting     prometheus.Gauge
	share       prometheus.Gauge
	reachable   prometheus.Gauge
}

// Who answered a request.
const (
	byUpstream  = "upstream"
	byCandidate = "candidate"
	byFallback  = "fallback" // the upstream, because the candidate failed
	byNobody    = "nobody"
)

// What went wrong with the candidate.
const (
	failedConnection = "connection" // no answer, or no whole one
	failedServer     = "server"     // it said that it failed
	failedRested     = "resting"    // it was not asked, because it failed repeatedly
)

func newMetrics() *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_shadow_requests_total",
			Help: "Requests, by API (other: no request for a certificate) and by who answered.",
		}, []string{"api", "by"}),
		comparisons: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_shadow_comparisons_total", Help: "Requests for certificates, by outcome of the comparison.",
		}, []string{"outcome"}),
		differences: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_shadow_differences_total", Help: "Differences between the answers to a request, by kind.",
		}, []string{"kind"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_shadow_candidate_failures_total",
			Help: "Requests that were sent to the upstream because the candidate failed, by cause.",
		}, []string{"cause"}),
		records: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_shadow_record_failures_total", Help: "Records that could not be written.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mayfly_shadow_upstream_seconds", Help: "Time until the client had the answer of the upstream.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 60},
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_shadow_queue_bytes", Help: "Memory of the requests that wait to be compared, in bytes.",
		}),
		share: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_shadow_candidate_share",
			Help: "Share of the identities that the candidate serves, from 0 to 1.",
		}),
		reachable: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_shadow_upstream_reachable",
			Help: "Whether the upstream answered the last check (1) or not (0).",
		}),
	}
	for _, o := range Outcomes() {
		m.comparisons.WithLabelValues(string(o))
	}
	for _, k := range Kinds() {
		m.differences.WithLabelValues(string(k))
	}
	for _, cause := range []string{failedConnection, failedServer, failedRested} {
		m.failures.WithLabelValues(cause)
	}
	return m
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.requests, m.comparisons, m.differences, m.failures, m.records, m.seconds, m.waiting, m.share, m.reachable,
	}
}
