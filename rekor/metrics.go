package rekor

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/rekor/entry"
)

// metrics are the metrics of the write API.
type metrics struct {
	entries   *prometheus.CounterVec
	seconds   prometheus.Histogram
	badProofs prometheus.Counter
	waiting   prometheus.GaugeFunc
}

func newMetrics(s *Service) *metrics {
	m := &metrics{
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_rekor_entries_total",
			Help: "Requests to log an entry, by the kind of the entry (none: it is not valid) and the result: logged, " +
				"denied or failed.",
		}, []string{"kind", "result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mayfly_rekor_log_seconds",
			Help: "Time from a verified entry to its inclusion in a published checkpoint.",
			Buckets: []float64{
				.005, .01, .02, .03, .05, .075, .1, .15, .2, .3, .5, 1, 2.5, 5, 10, 20,
			},
		}),
		badProofs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_rekor_bad_proofs_total",
			Help: "Inclusion proofs of the log that did not verify, so that the entry was not confirmed.",
		}),
		waiting: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_rekor_waiting_entries", Help: "Entries that wait for the log.",
		}, func() float64 { return float64(len(s.waiting)) }),
	}
	for _, result := range []journal.Result{journal.Logged, journal.Denied, journal.Failed} {
		m.entries.WithLabelValues(entry.HashedRekord, string(result))
	}
	m.entries.WithLabelValues("none", string(journal.Denied))
	return m
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.entries, m.seconds, m.badProofs, m.waiting}
}
