package server

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"

	"github.com/mayfly-ca/mayfly/internal/version"
	fulciolegacypb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v1beta"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// fulcioMetrics are the metrics of Fulcio v1.8.8 under their original names, so that its dashboards continue to work.
// Those of HTTP are counted for each request; the others are made from the server's own metrics when they are read.
type fulcioMetrics struct {
	own      *metrics
	latency  *prometheus.HistogramVec
	requests *prometheus.CounterVec
	build    prometheus.Gauge
}

func newFulcioMetrics(own *metrics) *fulcioMetrics {
	v := version.Read()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fulcio_build_info",
		Help: "A metric with a constant '1' value labeled by version, revision, branch, and goversion from which " +
			"fulcio was built.",
		ConstLabels: prometheus.Labels{
			"version": v.Version, "revision": v.Commit, "build_date": v.Date, "goversion": v.GoVersion,
		},
	})
	build.Set(1)
	return &fulcioMetrics{
		own: own, build: build,
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fulcio_api_latency", Help: "API Latency on calls",
		}, []string{"code", "method"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total", Help: "Count all HTTP requests",
		}, []string{"code", "method"}),
	}
}

// counted counts the requests over REST. The labels are from closed sets: the library writes "unknown" in place of a
// method or a status that does not exist.
func (m *fulcioMetrics) counted(next http.Handler) http.Handler {
	return promhttp.InstrumentHandlerCounter(m.requests, promhttp.InstrumentHandlerDuration(m.latency, next))
}

var (
	// It is untyped: a counter whose name does not end in _total gets that end in the format OpenMetrics.
	fulcioCertsDesc   = prometheus.NewDesc("fulcio_new_certs", "The total number of certificates generated", nil, nil)
	grpcLabels        = []string{"grpc_type", "grpc_service", "grpc_method"}
	fulcioStartedDesc = prometheus.NewDesc("grpc_server_started_total",
		"Total number of RPCs started on the server.", grpcLabels, nil)
	fulcioReceivedDesc = prometheus.NewDesc("grpc_server_msg_received_total",
		"Total number of RPC stream messages received on the server.", grpcLabels, nil)
	fulcioSentDesc = prometheus.NewDesc("grpc_server_msg_sent_total",
		"Total number of gRPC stream messages sent by the server.", grpcLabels, nil)
	fulcioHandledDesc = prometheus.NewDesc("grpc_server_handled_total",
		"Total number of RPCs completed on the server, regardless of success or failure.",
		append(append([]string(nil), grpcLabels...), "grpc_code"), nil)
)

// Describe implements [prometheus.Collector].
func (m *fulcioMetrics) Describe(out chan<- *prometheus.Desc) {
	m.latency.Describe(out)
	m.requests.Describe(out)
	m.build.Describe(out)
	for _, d := range []*prometheus.Desc{
		fulcioCertsDesc, fulcioStartedDesc, fulcioReceivedDesc, fulcioSentDesc, fulcioHandledDesc,
	} {
		out <- d
	}
}

// rpc is a method of the API, as the metrics of gRPC name it.
type rpc struct{ service, method string }

// rpcOf returns the method of a label value of mayfly_server_requests_total; false for requests that were not received.
func rpcOf(method string) (rpc, bool) {
	if method == unreceived {
		return rpc{}, false
	}
	if legacy, ok := strings.CutPrefix(method, "v1."); ok {
		return rpc{fulciolegacypb.CA_ServiceDesc.ServiceName, legacy}, true
	}
	return rpc{fulciopb.CA_ServiceDesc.ServiceName, method}, true
}

// Collect implements [prometheus.Collector]. As in Fulcio, requests over REST count as gRPC requests too, and the
// methods of the API exist from the start. A request counts as started when it ends.
func (m *fulcioMetrics) Collect(out chan<- prometheus.Metric) {
	m.latency.Collect(out)
	m.requests.Collect(out)
	m.build.Collect(out)
	out <- prometheus.MustNewConstMetric(fulcioCertsDesc, prometheus.UntypedValue, valueOf(m.own.slo.requests[noParty]))
	handled := map[rpc]map[string]float64{}
	for _, method := range fulciopb.CA_ServiceDesc.Methods {
		of := map[string]float64{}
		for c := codes.OK; c <= codes.Unauthenticated; c++ {
			of[c.String()] = 0
		}
		handled[rpc{fulciopb.CA_ServiceDesc.ServiceName, method.MethodName}] = of
	}
	series := make(chan prometheus.Metric)
	go func() {
		m.own.requests.Collect(series)
		close(series)
	}()
	for one := range series {
		written := &dto.Metric{}
		if one.Write(written) != nil {
			continue // a counter can always be written
		}
		labels := map[string]string{}
		for _, l := range written.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		if of, ok := rpcOf(labels["method"]); ok {
			if handled[of] == nil {
				handled[of] = map[string]float64{}
			}
			handled[of][labels["code"]] += written.GetCounter().GetValue()
		}
	}
	for of, counts := range handled {
		total := 0.0
		for code, n := range counts {
			total += n
			out <- prometheus.MustNewConstMetric(fulcioHandledDesc, prometheus.CounterValue, n, "unary", of.service,
				of.method, code)
		}
		for d, n := range map[*prometheus.Desc]float64{
			fulcioStartedDesc: total, fulcioReceivedDesc: total, fulcioSentDesc: counts[codes.OK.String()],
		} {
			out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, n, "unary", of.service, of.method)
		}
	}
}

func valueOf(c prometheus.Counter) float64 {
	m := &dto.Metric{}
	if c.Write(m) != nil {
		return 0 // a counter can always be written
	}
	return m.GetCounter().GetValue()
}
