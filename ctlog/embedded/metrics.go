package embedded

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the logs of one store. The label log is a shard's [Shard.Label].
type metrics struct {
	entries      *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	cosignatures *prometheus.CounterVec
	cosigned     *prometheus.GaugeVec
	size         *prometheus.GaugeVec
	covered      *prometheus.GaugeVec
	age          *prometheus.GaugeVec
	shards       *prometheus.GaugeVec

	mu   sync.Mutex
	logs map[string]*Log
}

func newMetrics() *metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_embedded_log_entries_total", Help: "Entries for the embedded log, by shard and result.",
		}, []string{"log", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mayfly_embedded_log_submit_seconds", Help: "Time until an entry is on disk.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}, []string{"log"}),
		cosignatures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_embedded_log_cosignatures_total", Help: "Requests for cosignatures, by shard, witness and result.",
		}, []string{"log", "witness", "result"}),
		cosigned: gauge("mayfly_embedded_log_cosigned_count", "Cosignatures that the published checkpoint carries.", "log"),
		size:     gauge("mayfly_embedded_log_tree_count", "Entries in the tree.", "log"),
		covered:  gauge("mayfly_embedded_log_checkpoint_count", "Entries that the published checkpoint covers.", "log"),
		age:      gauge("mayfly_embedded_log_checkpoint_age_seconds", "Age of the published checkpoint.", "log"),
		shards:   gauge("mayfly_embedded_log_shards_count", "Shards of the embedded log, by state: future, current or closed.", "state"),
		logs:     map[string]*Log{},
	}
	return m
}

// watch has the log's tree and checkpoint looked at whenever metrics are asked for.
func (m *metrics) watch(l *Log) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.logs[l.label] = l
}

func (m *metrics) forget(l *Log) {
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
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(out)
	}
}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for label, l := range m.logs {
		if n, err := l.reader.IntegratedSize(context.Background()); err == nil {
			m.size.WithLabelValues(label).Set(float64(n))
		}
		if n, at, err := l.published(); err == nil {
			m.covered.WithLabelValues(label).Set(float64(n))
			m.age.WithLabelValues(label).Set(time.Since(at).Seconds())
		}
	}
	for _, c := range m.all() {
		c.Collect(out)
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.entries, m.seconds, m.cosignatures, m.cosigned, m.size, m.covered, m.age, m.shards}
}
