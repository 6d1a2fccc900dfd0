package ca

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one authority. The label "result" is success, refused, orphan (a precertificate without certificate) or failed.
type metrics struct {
	certificates   *prometheus.CounterVec
	signerFailures prometheus.Counter
	seconds        *prometheus.HistogramVec
	expiry         prometheus.Gauge
}

func newMetrics(expiry time.Time) *metrics {
	m := &metrics{
		certificates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_ca_certificates_total", Help: "Certificates asked for, by how it went.",
		}, []string{"result"}),
		signerFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_ca_signer_failures_total", Help: "Signatures that the CA's key did not make.",
		}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mayfly_ca_stage_seconds", Help: "Time in each stage of issuance.",
			Buckets: []float64{.0001, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"stage"}),
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_ca_expiry_timestamp_seconds", Help: "When the first certificate of the chain expires.",
		}),
	}
	for _, r := range []result{succeeded, refused, orphaned, failed} {
		m.certificates.WithLabelValues(string(r))
	}
	m.expiry.Set(float64(expiry.Unix()))
	return m
}

type result string

const (
	succeeded result = "success"
	refused   result = "refused"
	orphaned  result = "orphan"
	failed    result = "failed"
)

func (m *metrics) stage(name string, from time.Time) {
	m.seconds.WithLabelValues(name).Observe(time.Since(from).Seconds())
}

// Collectors returns the metrics of the authority.
func (a *Authority) Collectors() []prometheus.Collector {
	m := a.metrics
	return []prometheus.Collector{m.certificates, m.signerFailures, m.seconds, m.expiry}
}
