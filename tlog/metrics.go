package tlog

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Metrics are those of the logs of a process. The label log is a shard's [Shard.Label].
type Metrics struct {
	entries      *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	cosignatures *prometheus.CounterVec
	cosigned     *prometheus.GaugeVec
	size         *prometheus.GaugeVec
	covered      *prometheus.GaugeVec
	age          *prometheus.GaugeVec
	shards       *prometheus.GaugeVec // of the CT log
	rekorShards  *prometheus.GaugeVec

	mu   sync.Mutex
	logs map[string]*Log
}

// NewMetrics makes metrics.
func NewMetrics() *Metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_embedded_log_entries_total", Help: "Entries for the embedded log, by shard and result.",
		}, []string{"log", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mayfly_embedded_log_submit_seconds", Help: "Time until an entry is on disk.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}, []string{"log"}),
		cosignatures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_embedded_log_cosignatures_total",
			Help: "Requests for cosignatures, by shard, witness and result.",
		}, []string{"log", "witness", "result"}),
		cosigned: gauge("mayfly_embedded_log_checkpoint_cosignatures",
			"Cosignatures that the published checkpoint carries.", "log"),
		size: gauge("mayfly_embedded_log_tree_entries", "Entries in the tree.", "log"),
		covered: gauge("mayfly_embedded_log_checkpoint_entries",
			"Entries that the published checkpoint covers.", "log"),
		age: gauge("mayfly_embedded_log_checkpoint_age_seconds", "Age of the published checkpoint.", "log"),
		shards: gauge("mayfly_embedded_log_shards",
			"Shards of the embedded log, by state: future, current or closed.", "state"),
		rekorShards: gauge("mayfly_rekor_log_shards",
			"Shards of the Rekor log, by state: future, current or closed.", "state"),
		logs: map[string]*Log{},
	}
	return m
}

// alias is the former name of a gauge, for existing dashboards and alerts. Names that end in _count are reserved for
// histograms and summaries (OpenMetrics), so the former names are untyped.
type alias struct {
	desc *prometheus.Desc
	of   *prometheus.GaugeVec
}

func (m *Metrics) aliases() []alias {
	former := func(name, help, label string, of *prometheus.GaugeVec) alias {
		return alias{prometheus.NewDesc(name, help, []string{label}, nil), of}
	}
	return []alias{
		former("mayfly_embedded_log_cosigned_count",
			"Former name of mayfly_embedded_log_checkpoint_cosignatures, untyped.", "log", m.cosigned),
		former("mayfly_embedded_log_tree_count",
			"Former name of mayfly_embedded_log_tree_entries, untyped.", "log", m.size),
		former("mayfly_embedded_log_checkpoint_count",
			"Former name of mayfly_embedded_log_checkpoint_entries, untyped.", "log", m.covered),
		former("mayfly_embedded_log_shards_count", "Former name of mayfly_embedded_log_shards, untyped.",
			"state", m.shards),
	}
}

// collect sends the series of the gauge under the former name.
func (a alias) collect(out chan<- prometheus.Metric) {
	series := make(chan prometheus.Metric)
	go func() {
		defer close(series)
		a.of.Collect(series)
	}()
	for one := range series {
		var data dto.Metric
		if err := one.Write(&data); err != nil || len(data.GetLabel()) != 1 {
			continue // does not happen for a gauge with one label
		}
		out <- prometheus.MustNewConstMetric(a.desc, prometheus.UntypedValue, data.GetGauge().GetValue(),
			data.GetLabel()[0].GetValue())
	}
}

// add includes the log's tree and checkpoint in the metrics.
func (m *Metrics) add(l *Log) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.logs[l.label] = l
}

func (m *Metrics) remove(l *Log) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.logs[l.label] == l {
		delete(m.logs, l.label)
		for _, g := range []*prometheus.GaugeVec{m.size, m.covered, m.age, m.cosigned} {
			g.DeleteLabelValues(l.label)
		}
	}
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(out)
	}
	for _, a := range m.aliases() {
		out <- a.desc
	}
}

// Collect implements [prometheus.Collector]. It reads no file: see [Log.watchFiles].
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for label, l := range m.logs {
		seen := l.snapshot.Load()
		if seen == nil || seen.err != nil {
			continue
		}
		m.size.WithLabelValues(label).Set(float64(seen.size))
		m.covered.WithLabelValues(label).Set(float64(seen.covered))
		m.age.WithLabelValues(label).Set(time.Since(seen.written).Seconds())
	}
	for _, c := range m.all() {
		c.Collect(out)
	}
	for _, a := range m.aliases() {
		a.collect(out)
	}
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.entries, m.seconds, m.cosignatures, m.cosigned, m.size, m.covered, m.age, m.shards, m.rekorShards,
	}
}
