package find

import "github.com/prometheus/client_golang/prometheus"

// metrics are those of one index. The label log has the names of the logs in the configuration.
type metrics struct {
	entries, skipped *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_find_entries_total", Help: "Log entries that the index has read, by log.",
		}, []string{"log"}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_find_entries_skipped_total",
			Help: "Log entries that are not in the index because they are unreadable, by log.",
		}, []string{"log"}),
	}
}

func (m *metrics) add(log string, b batch) {
	m.entries.WithLabelValues(log).Add(float64(b.entries))
	m.skipped.WithLabelValues(log).Add(float64(b.skipped))
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.entries, m.skipped}
}
