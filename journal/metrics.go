package journal

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the metrics of one journal. The label kind is a [Kind].
type metrics struct {
	records  *prometheus.CounterVec
	seconds  prometheus.Histogram
	group    prometheus.Histogram
	failures prometheus.Counter
	dropped  prometheus.Counter
	others   []prometheus.Collector
}

func newMetrics() *metrics {
	m := &metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_journal_records_total", Help: "Records that are durable, by kind.",
		}, []string{"kind"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mayfly_journal_commit_seconds", Help: "Time to make a group of records durable.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}),
		group: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mayfly_journal_group_records", Help: "Number of records in a group.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 1024},
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_journal_failures_total", Help: "Number of times that the journal could not be written.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_journal_dropped_total", Help: "Denials that were only counted, because there were too many.",
		}),
	}
	for _, k := range []Kind{Start, Stop, Reload, Trial, Intent, Outcome, Alarm, Recovered, Dropped, Event, Rekor} {
		m.records.WithLabelValues(string(k))
	}
	return m
}

// watch adds the metrics that are read from the journal when they are collected.
func (m *metrics) watch(j *Journal) {
	m.others = append(m.others, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "mayfly_journal_queue_records", Help: "Records that wait to be written.",
	}, func() float64 { return float64(j.queued()) }))
	if j.copies != nil {
		m.others = append(m.others, j.copies.Collectors()...)
	}
}

func (m *metrics) committed(all []entry, took time.Duration) {
	for _, e := range all {
		m.records.WithLabelValues(string(e.record.Kind)).Inc()
	}
	m.seconds.Observe(took.Seconds())
	m.group.Observe(float64(len(all)))
}

func (m *metrics) collectors() []prometheus.Collector {
	return append([]prometheus.Collector{m.records, m.seconds, m.group, m.failures, m.dropped}, m.others...)
}
