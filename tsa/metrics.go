package tsa

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// result is how a request ended.
type result string

const (
	resultSuccess result = "success"
	resultRefused result = "refused" // the request is wrong
	resultLimited result = "limited" // too many requests, or not ready
	resultClock   result = "clock"   // the clock forbids timestamps
	resultFailed  result = "failed"  // the key did not sign
)

// metrics of one authority.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  prometheus.Histogram
	stopped  prometheus.GaugeFunc

	queries   *prometheus.CounterVec
	offset    *prometheus.GaugeVec
	confirmed prometheus.Gauge
}

func newMetrics(a *Authority) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_tsa_requests_total", Help: "Requests for a timestamp, by result.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "mayfly_tsa_request_seconds",
			Help:    "Duration of a request for a timestamp, until the answer.",
			Buckets: []float64{.0001, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		stopped: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_tsa_stopped_ratio",
			Help: "1 if no timestamps are made because this machine's clock may be wrong or the authority's chain has " +
				"expired, 0 otherwise.",
		}, func() float64 {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.stopped != "" {
				return 1
			}
			return 0
		}),
	}
	m.queries = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_tsa_clock_queries_total",
		Help: "Requests to a time server, by what its answer says about this machine's clock: agrees, disagrees, " +
			"unsure, failed.",
	}, []string{"server", "result"})
	m.offset = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "mayfly_tsa_clock_offset_seconds",
		Help: "Clock of a time server minus this machine's, in the last usable answer.",
	}, []string{"server"})
	m.confirmed = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_tsa_clock_confirmed_timestamp_seconds",
		Help: "When more than half of the time servers agreed with this machine's clock last, in " +
			"seconds since 1970; 0: " +
			"they have not, or none are configured.",
	})
	for _, r := range []result{resultSuccess, resultRefused, resultLimited, resultClock, resultFailed} {
		m.requests.WithLabelValues(string(r))
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.seconds, m.stopped, m.queries, m.offset, m.confirmed}
}

func (m *metrics) count(r result, took time.Duration) {
	m.requests.WithLabelValues(string(r)).Inc()
	m.seconds.Observe(took.Seconds())
}
