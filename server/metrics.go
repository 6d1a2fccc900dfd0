package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server/admission"
	"github.com/mayfly-ca/mayfly/server/uses"
)

// metrics are those of one server. Labels: method from the API, transport grpc or rest, code, reason and client from
// closed tables (F10); entry from the issuer file.
type metrics struct {
	requests  *prometheus.CounterVec
	legacy    *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	repeated  prometheus.Counter
	inFlight  prometheus.Gauge
	panics    prometheus.Counter
	slo       *sloMetrics
	limited   *prometheus.CounterVec
	uses      *prometheus.CounterVec
	admission []prometheus.Collector
}

func newMetrics(a *admission.Controller) *metrics {
	return &metrics{
		slo: newSLOMetrics(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_server_requests_total", Help: "Requests, by method, transport, gRPC code and reason.",
		}, []string{"method", "transport", "code", "reason"}),
		legacy: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_server_v1_requests_total", Help: "Requests of the older API, by method and kind of client.",
		}, []string{"method", "client"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mayfly_server_request_seconds", Help: "Time from decoded request to answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}, []string{"method"}),
		repeated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_server_repeated_certificates_total",
			Help: "Repeated requests that got the certificate of the first one again (api.idempotent_retry).",
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_server_requests_running",
			Help: "Requests that are running.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_server_panics_total",
			Help: "Requests that ended in a panic.",
		}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_limit_refusals_total",
			Help: "Requests that were refused by limits.source, limits.issuer or limits.identity, " +
				"by limit and issuer entry.",
		}, []string{"limit", "entry"}),
		uses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_token_uses_total",
			Help: "Uses of tokens of the issuer entries that limit them, by entry and result.",
		}, []string{"entry", "result"}),
		admission: []prometheus.Collector{
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "mayfly_server_requests_waiting", Help: "Requests in the queue for a processor.",
			}, func() float64 { return float64(a.Waiting()) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "mayfly_server_refusals_waiting",
				Help: "Requests that wait for their refusal, because refusals are limited to a " +
					"share of the processors.",
			}, func() float64 { return float64(a.RefusalsWaiting()) }),
		},
	}
}

// begin makes the series of refusals, which are rare, before the first one: a series that begins with 1 does not
// increase.
func (m *metrics) begin(issuers *oidc.Verifier) {
	m.limited.WithLabelValues(limitSource, "")
	if issuers == nil {
		return
	}
	for _, i := range issuers.Issuers() {
		if !i.CountsUses {
			continue
		}
		for _, r := range uses.Results() {
			m.uses.WithLabelValues(i.URL, string(r))
		}
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return append([]prometheus.Collector{
		m.requests, m.legacy, m.seconds, m.repeated, m.inFlight, m.panics, m.limited, m.uses,
		m.slo.vector, m.slo.issued,
	}, m.admission...)
}
