package server

import "github.com/prometheus/client_golang/prometheus"

// metrics of one server. Labels: method from the API, transport grpc or rest, code and reason from closed tables (F10).
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
	panics   prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_server_requests_total", Help: "Requests, by method, transport, gRPC code and reason.",
		}, []string{"method", "transport", "code", "reason"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mayfly_server_request_seconds", Help: "Time from decoded request to answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}, []string{"method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "mayfly_server_requests_running", Help: "Requests that are running."}),
		panics:   prometheus.NewCounter(prometheus.CounterOpts{Name: "mayfly_server_panics_total", Help: "Requests that ended in a panic."}),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.seconds, m.inFlight, m.panics}
}
