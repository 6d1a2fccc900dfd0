// Package tracing decides which requests are traced, and exports their spans to an OpenTelemetry collector (OTLP/HTTP).
//
// A [Tracer] starts the span of a request; package internal/span adds the steps. A nil Tracer traces nothing. Only the
// operator's sampling rate and, with parent: follow, a bounded number of callers decide what is sampled.
//
// Export MUST NOT delay requests: at most maxQueued spans wait for the collector, further ones are dropped and counted,
// and each request to the collector has a time limit. Everything is set by [Config]: the environment variables of
// OpenTelemetry have no effect. Each OTLP request has the headers of the configuration, which are never logged.
package tracing

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
	"github.com/mayfly-ca/mayfly/internal/span"
)

// Limits of the export.
const (
	maxQueued   = 4096 // spans that have ended and that the collector has not accepted; about 2 KiB each
	batch       = 512  // spans of one request to the collector
	batchEvery  = 2 * time.Second
	maxAnswer   = 64 << 10 // bytes of an answer of the collector
	maxRequest  = 4 << 20  // bytes of a request to the collector
	retryFirst  = time.Second
	retryMost   = 5 * time.Second
	retryFor    = 20 * time.Second // after the first attempt of a batch
	closeTime   = 5 * time.Second
	followRate  = 10 // requests a second that are sampled because their caller does
	followBurst = 20

	maxParent = 256 // bytes of traceparent; version 00 has 55
	maxState  = 512 // bytes of tracestate (W3C Trace Context §3.3.1.5)
)

// Options for [Open].
type Options struct {
	Version string       // of the program
	Logger  *slog.Logger // nil: no log
}

// Tracer starts the spans of requests. It is safe for concurrent use. A nil Tracer starts none.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	sample   float64
	follow   *rate.Limiter // nil: the trace context of callers is ignored
	queue    *queue
	exporter sdk.SpanExporter
}

// Open returns a tracer. It sends nothing. The tracer of a nil Config is nil. Its errors are [fault.Setting] values.
func Open(c *Config, o Options) (*Tracer, error) {
	if c == nil {
		return nil, nil //nolint:nilnil // a nil tracer traces nothing
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	exporter, secrets, err := c.OTLP.exporter()
	if err != nil {
		return nil, fault.Under(err, "otlp")
	}
	t := &Tracer{sample: defaultSample, queue: newQueue(exporter, secrets, o.Logger), exporter: exporter}
	if c.Sample != nil {
		t.sample = *c.Sample
	}
	if c.Parent == parentFollow {
		t.follow = rate.NewLimiter(followRate, followBurst)
	}
	t.provider = sdk.NewTracerProvider(
		sdk.WithSampler(sdk.AlwaysSample()), // of the spans that Start starts
		sdk.WithSpanProcessor(t.queue),
		sdk.WithResource(resource.NewSchemaless(describe(o.Version)...)),
		sdk.WithRawSpanLimits(sdk.SpanLimits{
			AttributeValueLengthLimit: 256, AttributeCountLimit: 32, EventCountLimit: 8, LinkCountLimit: 8,
			AttributePerEventCountLimit: 8, AttributePerLinkCountLimit: 8, AttributeValueDepthLimit: 4,
		}),
	)
	t.tracer = t.provider.Tracer(span.Scope)
	return t, nil
}

// describe returns the attributes of the resource.
func describe(version string) []attribute.KeyValue {
	out := []attribute.KeyValue{
		attribute.String("service.name", "mayfly"), attribute.String("service.version", version),
	}
	if host, err := os.Hostname(); err == nil {
		out = append(out, attribute.String("host.name", host))
	}
	return out
}

// Inspect returns the errors with which [Open] would fail. It sends nothing.
func (c *Config) Inspect() error {
	if c == nil {
		return nil
	}
	_, _, err := c.OTLP.exporter()
	return fault.Under(err, "otlp")
}

// exporter returns the client of the collector, and the values of the headers, which are secrets. Every option is set,
// so that no environment variable decides.
func (c *OTLPConfig) exporter() (_ sdk.SpanExporter, secrets []string, err error) {
	headers, roots, err := c.Read()
	if err != nil {
		return nil, nil, err
	}
	timeout := c.timeout()
	out, err := otlptracehttp.New(context.Background(),
		otlptracehttp.WithTLSClientConfig(nil), // the client has its own
		otlptracehttp.WithEndpointURL(c.Endpoint("/v1/traces")),
		otlptracehttp.WithHeaders(headers),
		otlptracehttp.WithTimeout(timeout),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithEncoding(otlptracehttp.EncodingProtobuf),
		otlptracehttp.WithMaxRequestSize(maxRequest),
		otlptracehttp.WithMaxResponseSize(maxAnswer),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: true, InitialInterval: retryFirst, MaxInterval: retryMost, MaxElapsedTime: retryFor,
		}),
		otlptracehttp.WithHTTPClient(httpclient.New(httpclient.Options{
			Timeout: timeout, Roots: roots, IdleConns: 1, MaxConns: 1, IdleTimeout: time.Minute,
		})),
	)
	return out, slices.Collect(maps.Values(headers)), err
}

func (c *OTLPConfig) timeout() time.Duration {
	if c.Timeout == 0 {
		return defaultTimeout
	}
	return c.Timeout
}

// Request is a request to trace.
type Request struct {
	Name  string    // of the span
	Began time.Time // zero: now
	// Traceparent and Tracestate are the headers of the request, one element for each time that it has them.
	Traceparent, Tracestate []string
}

// Start starts the span of a request, if the request is sampled. The caller MUST end the span.
func (t *Tracer) Start(ctx context.Context, r Request) (context.Context, span.Span) {
	if t == nil {
		return ctx, span.Span{}
	}
	parent, sampled := t.parent(r)
	if !sampled && !(rand.Float64() < t.sample) { //nolint:gosec // no secret
		return ctx, span.Span{}
	}
	if sampled {
		ctx = trace.ContextWithRemoteSpanContext(ctx, parent)
	}
	o := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer)}
	if !r.Began.IsZero() {
		o = append(o, trace.WithTimestamp(r.Began))
	}
	ctx, s := t.tracer.Start(ctx, r.Name, o...) //nolint:spancheck // the caller ends it
	return ctx, span.Of(s)
}

// parent returns the trace context of a caller that samples the request, if it is followed.
func (t *Tracer) parent(r Request) (parent trace.SpanContext, sampled bool) {
	if t.follow == nil || len(r.Traceparent) != 1 {
		return parent, false
	}
	parent = parse(r.Traceparent[0], r.Tracestate)
	return parent, parent.IsSampled() && t.follow.Allow()
}

// parse returns a trace context; an invalid one if the header is invalid. An invalid tracestate is left out (W3C Trace
// Context §4.3).
func parse(traceparent string, tracestate []string) trace.SpanContext {
	if len(traceparent) > maxParent {
		return trace.SpanContext{}
	}
	headers := propagation.MapCarrier{"traceparent": traceparent}
	if state := strings.Join(tracestate, ","); len(state) <= maxState {
		headers["tracestate"] = state
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), headers)
	return trace.SpanContextFromContext(ctx)
}

// Close exports the spans that wait, for at most five seconds, and ends the export.
func (t *Tracer) Close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	err := t.provider.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) { // ends the request to the collector
		return t.exporter.Shutdown(context.Background())
	}
	return err
}

// Collectors returns the metrics of the tracer.
func (t *Tracer) Collectors() []prometheus.Collector {
	if t == nil {
		return nil
	}
	return []prometheus.Collector{t.queue.spans, t.queue.waiting}
}
