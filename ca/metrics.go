package ca

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/span"
)

// metrics of one authority. The label "result" is success, refused, orphan (a precertificate without certificate) or
// failed.
type metrics struct {
	certificates   *prometheus.CounterVec
	signerFailures prometheus.Counter
	seconds        *prometheus.HistogramVec
	expiry         prometheus.Gauge
	precertExpiry  prometheus.Gauge // of the precertificate signing certificate, if there is one

	precertFailures prometheus.Counter

	// The series that every request updates, looked up once.
	results map[result]prometheus.Counter
	stages  [stageCount]prometheus.Observer
}

// stage is a part of issuance that is timed.
type stage uint8

const (
	stageBuild stage = iota
	stageSign
	stageLog
	stageVerify
	stageCount
)

func (s stage) String() string { return [...]string{"draft", "sign", "log", "verify"}[s] }

func newMetrics(expiry time.Time) *metrics {
	m := &metrics{
		certificates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_ca_certificates_total", Help: "Requests for a certificate, by result.",
		}, []string{"result"}),
		signerFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_ca_signer_failures_total", Help: "Signatures that the CA key failed to make.",
		}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mayfly_ca_stage_seconds", Help: "Duration of each stage of issuance.",
			Buckets: []float64{.0001, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"stage"}),
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_ca_expiry_timestamp_seconds",
			Help: "When the first certificate of the chain expires, in seconds since 1970.",
		}),
	}
	m.precertExpiry = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_ca_precert_issuer_expiry_timestamp_seconds",
		Help: "When the precertificate signing certificate expires, in seconds since 1970; " +
			"only with ca.precert_issuer.",
	})
	m.precertFailures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "mayfly_ca_precert_issuer_failures_total",
		Help: "Renewals of the precertificate signing certificate that failed; only with ca.precert_issuer.",
	})
	m.results = map[result]prometheus.Counter{}
	for _, r := range []result{succeeded, refused, orphaned, failed} {
		m.results[r] = m.certificates.WithLabelValues(string(r))
	}
	for s := range stageCount {
		m.stages[s] = m.seconds.WithLabelValues(s.String())
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

// stage adds the time of a stage, with the trace of the request as an exemplar.
func (m *metrics) stage(ctx context.Context, s stage, from time.Time) {
	span.In(ctx).Observe(m.stages[s], time.Since(from).Seconds())
}

// Collectors returns the metrics of the authority.
func (a *Authority) Collectors() []prometheus.Collector {
	m := a.metrics
	all := []prometheus.Collector{m.certificates, m.signerFailures, m.seconds, m.expiry}
	if a.precerts != nil {
		all = append(all, m.precertExpiry, m.precertFailures)
	}
	if a.signer.remote != nil {
		all = append(all, a.signer.remote.Collectors()...)
	}
	return all
}
