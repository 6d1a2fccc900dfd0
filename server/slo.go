package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/span"
	"github.com/mayfly-ca/mayfly/server/admission"
)

// sloMetrics count the requests for certificates by whose fault it is that there is none. The label has the values of
// [fault.Parties] and "none".
type sloMetrics struct {
	requests map[fault.Party]prometheus.Counter
	issued   prometheus.Histogram
	vector   *prometheus.CounterVec
}

// noParty is the party of a request that got its certificate.
const noParty fault.Party = "none"

// patience is how long a caller must have waited before its disconnecting without a certificate is the server's fault.
const patience = time.Second

func newSLOMetrics() *sloMetrics {
	m := &sloMetrics{
		vector: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_slo_requests_total",
			Help: "Requests for certificates, by the party at fault if no certificate was issued: caller, provider, " +
				"log, signer, store, journal or us; none if a certificate was issued.",
		}, []string{"fault"}),
		issued: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "mayfly_slo_issued_seconds",
			Help:    "Time from decoded request to certificate, of requests that got one.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2, 5, 10, 20},
		}),
		requests: map[fault.Party]prometheus.Counter{},
	}
	for _, p := range append(fault.Parties(), noParty) {
		m.requests[p] = m.vector.WithLabelValues(string(p))
	}
	return m
}

// count counts a request for a certificate that ended after took; failure is nil if it got the certificate.
func (m *sloMetrics) count(s span.Span, failure *fault.Error, took time.Duration) {
	if failure == nil {
		s.Observe(m.issued, took.Seconds())
	}
	m.requests[blame(failure, took)].Inc()
}

// blame returns whose fault it is that a request has no certificate.
func blame(f *fault.Error, took time.Duration) fault.Party {
	switch {
	case f == nil:
		return noParty
	case (f.Kind == fault.Canceled || f.Kind == fault.DeadlineExceeded) && took > patience:
		return fault.PartyUs
	}
	return f.Party
}

// noRoom returns the error of a request for which a budget has no place: the caller has used up its share, or all
// callers together have used up the budget.
func noRoom(b *admission.Budget[admission.Source], cause error) *fault.Error {
	f := fault.New(fault.RateLimited, cause).WithRetryAfter(time.Second)
	if b.Exhausted() {
		return f.By(fault.PartyUs)
	}
	return f
}
