package provider

import "github.com/prometheus/client_golang/prometheus"

// metrics of a pool. The label issuer is a key of the configuration.
type metrics struct{ fetches *prometheus.CounterVec }

func newMetrics() *metrics {
	return &metrics{fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_oidc_fetches_total", Help: "Fetches of keys, by entry of the configuration and result.",
	}, []string{"issuer", "result"})}
}

// forget deletes the series of an entry that was removed.
func (m *metrics) forget(entry string) {
	m.fetches.DeletePartialMatch(prometheus.Labels{"issuer": entry})
}

// Collectors returns the metrics of the pool.
func (p *Pool) Collectors() []prometheus.Collector {
	return []prometheus.Collector{p.metrics.fetches, p.slots, fetchTimes{p}}
}

// fetchTimes reports when the keys of exact issuers were fetched, so that an alert can precede their expiry.
type fetchTimes struct{ pool *Pool }

var fetchedDesc = prometheus.NewDesc("mayfly_oidc_keys_fetched_timestamp_seconds",
	"When the keys that verify an entry's tokens were fetched, in seconds since 1970.",
	[]string{"issuer"}, nil)

// Describe implements [prometheus.Collector].
func (fetchTimes) Describe(out chan<- *prometheus.Desc) { out <- fetchedDesc }

// Collect implements [prometheus.Collector].
func (f fetchTimes) Collect(out chan<- prometheus.Metric) {
	var all []*provider
	f.pool.mu.Lock()
	for _, e := range f.pool.exact {
		if e.cancel != nil { // the providers of the configuration in force
			all = append(all, e.provider)
		}
	}
	f.pool.mu.Unlock()
	for _, one := range all {
		if keyring := one.keyring.Load(); keyring != nil {
			out <- prometheus.MustNewConstMetric(fetchedDesc, prometheus.GaugeValue,
				float64(keyring.fetched.UnixMilli())/1000, one.entry)
		}
	}
}
