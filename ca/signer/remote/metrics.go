package remote

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the metrics of one guard. The label "operation" is sign, probe, verify or an operation of the backend;
// "result" is success or a [Kind].
type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	wait    prometheus.Histogram
	running prometheus.GaugeFunc
	hung    prometheus.GaugeFunc
}

func newMetrics(g *Guard) *metrics {
	return &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_signer_calls_total",
			Help: "Calls of the service that has the CA key, by operation and result.",
		}, []string{"operation", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mayfly_signer_call_seconds", Help: "Duration of a call of the service that has the CA key.",
			Buckets: []float64{
				.001, .0025, .005, .0075, .01, .015, .02, .03, .05, .075, .1, .15, .25, .5, 1, 2, 5, 10,
			},
		}, []string{"operation"}),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mayfly_signer_wait_seconds",
			Help: "How long a call waited because as many as allowed (limits.concurrent) were running.",
			Buckets: []float64{
				.0001, .001, .0025, .005, .01, .015, .02, .03, .05, .075, .1, .15, .25, .5, 1, 2, 4, 10,
			},
		}),
		running: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_signer_running_calls", Help: "Calls of the service that has the CA key, running now.",
		}, func() float64 { return float64(len(g.slots)) }),
		hung: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_signer_hung_calls", Help: "Of the running calls, those whose time is over.",
		}, func() float64 { return float64(g.hung.Load()) }),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.calls, m.seconds, m.wait, m.running, m.hung}
}

// count counts a call by its result.
func (m *metrics) count(operation string, err error) {
	m.calls.WithLabelValues(operation, resultOf(err)).Inc()
}

// resultOf returns the result of a call.
func resultOf(err error) string {
	if err == nil {
		return "success"
	}
	return kindOf(err).String()
}
