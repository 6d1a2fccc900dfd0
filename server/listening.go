package server

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// listening has the limits of the listeners.
type listening struct {
	http, grpc, admin *connections
}

// adminConnections is the limit of connections of the admin listener: a scrape or a probe needs one.
const adminConnections = 256

func newListening(s *Server) *listening {
	b := bounds{most: s.limits.Connections, share: s.limits.PerSource, trust: s.proxies, log: s.log}
	rest, native := b, b
	rest.name, rest.age = "http", s.limits.Age       // net/http has write deadlines
	native.name, native.write = "grpc", writeTimeout // the gRPC library has the age
	return &listening{
		http: newConnections(rest), grpc: newConnections(native),
		admin: newConnections(bounds{name: "admin", most: adminConnections, log: s.log}),
	}
}

func (l *listening) all() []*connections { return []*connections{l.http, l.grpc, l.admin} }

// health is the entry of the listeners in the readiness report. It is advisory: clients that use up the connections
// must not be able to take the server out of service.
func (l *listening) health() Health {
	var warnings []string
	for _, c := range l.all() {
		warnings = append(warnings, c.warning())
	}
	return Health{OK: true, Advisory: true, Warning: strings.Join(slices.DeleteFunc(warnings,
		func(w string) bool { return w == "" }), "; ")}
}

// boundsCollector has the metrics of the limits on connections, streams and waits.
type boundsCollector struct{ *Server }

var (
	connectionsDesc = prometheus.NewDesc("mayfly_server_connections", "Open connections, by listener.",
		[]string{"listener"}, nil)
	limitDesc = prometheus.NewDesc("mayfly_server_connections_limit",
		"Limit of open connections, by listener.", []string{"listener"}, nil)
	refusedDesc = prometheus.NewDesc("mayfly_server_connections_refused_total",
		"Connections that were refused, by listener and cause: the source or the listener is at its "+
			"limit.", []string{"listener", "cause"}, nil)
	evictedDesc = prometheus.NewDesc("mayfly_server_connections_evicted_total",
		"Idle connections that were closed for new ones, because the source or the listener was at its "+
			"limit.",
		[]string{"listener"}, nil)
	floodedDesc = prometheus.NewDesc("mayfly_server_connections_flooded_total",
		"Connections that were closed because they sent much data without a complete request.",
		[]string{"listener"}, nil)
	handshakesDesc = prometheus.NewDesc("mayfly_tls_handshakes_waiting",
		"TLS handshakes that wait for a processor.", nil, nil)
	handshakesRefusedDesc = prometheus.NewDesc("mayfly_tls_handshakes_refused_total",
		"TLS handshakes that were refused, because too many wait for a processor, in total or from one source.", nil,
		nil)
	receivingDesc = prometheus.NewDesc("mayfly_server_requests_receiving",
		"Requests that are being received.", nil, nil)
	longStreamsDesc = prometheus.NewDesc("mayfly_server_streams_standing",
		"Streams that stay open: health watches and reflection.", nil, nil)
	unreceivedDesc = prometheus.NewDesc("mayfly_server_requests_unreceived_total",
		"Requests that were not received, by cause: too slow, too many at once, too many long-lived "+
			"streams.",
		[]string{"cause"}, nil)
	providersDesc = prometheus.NewDesc("mayfly_server_provider_waits",
		"Requests that wait for an identity provider before their tokens are verified.", nil, nil)
	providersRefusedDesc = prometheus.NewDesc("mayfly_server_provider_waits_refused_total",
		"Requests that were refused because too many others wait for identity providers.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (b boundsCollector) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(b, out) }

// Collect implements [prometheus.Collector].
func (b boundsCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for _, c := range b.listening.all() {
		gauge(connectionsDesc, c.count(), c.name)
		gauge(limitDesc, c.most, c.name)
		for cause, name := range refusalCauses {
			counter(refusedDesc, c.refused[cause].Load(), c.name, name)
		}
		counter(evictedDesc, c.evicted.Load(), c.name)
		counter(floodedDesc, c.flooded.Load(), c.name)
	}
	gauge(handshakesDesc, b.handshakes.admission.Waiting())
	counter(handshakesRefusedDesc, b.handshakes.refused.Load())
	receiving, refused := b.streams.receiving.Taken()
	gauge(receivingDesc, receiving)
	_, busy := b.streams.open.Taken()
	counter(unreceivedDesc, refused+busy, "too_many")
	longLived, refused := b.streams.longLived.Taken()
	gauge(longStreamsDesc, longLived)
	counter(unreceivedDesc, refused, "too_many_standing")
	counter(unreceivedDesc, b.streams.timeouts.Load(), "timeout")
	waits, refused := b.admission.AwaitingProviders()
	gauge(providersDesc, waits)
	counter(providersRefusedDesc, refused)
}
