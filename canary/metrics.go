package canary

import "github.com/prometheus/client_golang/prometheus"

// metrics of the runs. The label "stage" is one of [Stages].
type metrics struct {
	seconds     *prometheus.HistogramVec
	runs        *prometheus.CounterVec
	failures    *prometheus.CounterVec
	lastSuccess prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mayfly_canary_seconds", Help: "Duration of each stage of a run of the canary.",
			Buckets: []float64{.0001, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}, []string{"stage"}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_canary_runs_total", Help: "Runs of the canary, by result: success or failure.",
		}, []string{"result"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_canary_failures_total", Help: "Runs of the canary that failed, by the stage that failed.",
		}, []string{"stage"}),
		lastSuccess: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_canary_last_success_timestamp_seconds",
			Help: "When the last run of the canary that succeeded began, in seconds since 1970; 0: no run has " +
				"succeeded.",
		}),
	}
	for _, result := range []string{"success", "failure"} {
		m.runs.WithLabelValues(result)
	}
	for _, stage := range Stages() {
		m.failures.WithLabelValues(stage)
	}
	return m
}

// Collectors returns the metrics.
func (c *Canary) Collectors() []prometheus.Collector {
	m := c.metrics
	return []prometheus.Collector{m.seconds, m.runs, m.failures, m.lastSuccess}
}

// count counts a run.
func (m *metrics) count(r *Run) {
	for _, s := range r.Stages {
		m.seconds.WithLabelValues(s.Stage).Observe(s.Seconds)
	}
	if !r.OK {
		m.runs.WithLabelValues("failure").Inc()
		m.failures.WithLabelValues(r.Stage).Inc()
		return
	}
	m.runs.WithLabelValues("success").Inc()
	m.lastSuccess.Set(float64(r.Began.Unix()))
}
