package reconcile

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// auditorMetrics are the metrics of an Auditor.
type auditorMetrics struct {
	alarms  *prometheus.CounterVec
	runs    *prometheus.CounterVec
	seconds prometheus.Histogram
	last    prometheus.Gauge
	dropped prometheus.Counter
	open    prometheus.Collector
}

func newAuditorMetrics(a *Auditor) *auditorMetrics {
	m := &auditorMetrics{
		alarms: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_audit_alarms_total",
			Help: "Findings of the auditor, by kind. An operator must look at any increase.",
		}, []string{"kind"}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_audit_runs_total", Help: "Audits, by whether everything could be read.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mayfly_audit_run_seconds", Help: "Duration of an audit.",
			Buckets: []float64{.01, .05, .25, 1, 5, 30, 120},
		}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_audit_complete_timestamp_seconds",
			Help: "Unix time of the last audit that could read everything.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_audit_grants_dropped_total",
			Help: "SCTs that are not audited because too many SCTs are queued or too many merge obligations are open " +
				"(only without a journal).",
		}),
		open: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_audit_alarms_open", Help: "Alarms that no operator has cleared.",
		}, func() float64 { return float64(len(a.Alarms())) }),
	}
	for _, k := range Kinds() {
		m.alarms.WithLabelValues(string(k))
	}
	for _, result := range []string{"complete", "incomplete"} {
		m.runs.WithLabelValues(result)
	}
	return m
}

// observe counts an audit that began at the given time.
func (m *auditorMetrics) observe(began time.Time, complete bool) {
	m.seconds.Observe(time.Since(began).Seconds())
	if complete {
		m.runs.WithLabelValues("complete").Inc()
		m.last.SetToCurrentTime()
		return
	}
	m.runs.WithLabelValues("incomplete").Inc()
}

// Collectors returns the metrics of the auditor.
func (a *Auditor) Collectors() []prometheus.Collector {
	m := a.metrics
	return []prometheus.Collector{m.alarms, m.runs, m.seconds, m.last, m.dropped, m.open}
}
