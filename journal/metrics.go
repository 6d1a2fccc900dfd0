package journal

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one journal. The label kind is a [Kind], sink is stdout, syslog or otlp.
type metrics struct {
	records      *prometheus.CounterVec
	seconds      prometheus.Histogram
	group        prometheus.Histogram
	failures     prometheus.Counter
	dropped      prometheus.Counter
	copyFailures *prometheus.CounterVec
	gauges       []prometheus.Collector
}

func newMetrics() *metrics {
	m := &metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_journal_records_total", Help: "Records that are durable, by kind.",
		}, []string{"kind"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mayfly_journal_commit_seconds", Help: "Time in which a group of records became durable.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}),
		group: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mayfly_journal_group_records", Help: "Records that became durable together.", Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 1024},
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_journal_failures_total", Help: "Times that the journal could no longer be written.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_journal_dropped_total", Help: "Denials that came faster than they are written, and were only counted.",
		}),
		copyFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_journal_copy_failures_total", Help: "Batches that a sink did not take.",
		}, []string{"sink"}),
	}
	for _, k := range []Kind{Start, Stop, Reload, Trial, Intent, Outcome, Alarm, Recovered, Dropped, Event} {
		m.records.WithLabelValues(string(k))
	}
	return m
}

// watch adds what is read when somebody asks.
func (m *metrics) watch(j *Journal) {
	m.gauges = append(m.gauges, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "mayfly_journal_queue_records", Help: "Records that wait to be written.",
	}, func() float64 { return float64(j.queued()) }))
	for _, c := range j.copies {
		m.copyFailures.WithLabelValues(c.name)
		m.gauges = append(m.gauges, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_journal_copy_lag_records", Help: "Records that a sink does not have yet.", ConstLabels: prometheus.Labels{"sink": c.name},
		}, func() float64 { return float64(c.lag()) }))
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
	return append([]prometheus.Collector{m.records, m.seconds, m.group, m.failures, m.dropped, m.copyFailures}, m.gauges...)
}
