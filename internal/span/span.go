// Package span records the steps of a request as spans of OpenTelemetry.
//
// A step is a child of the span in its context. If that context has no span that is recorded, because tracing is off or
// the request is not sampled, [Start] costs one look-up in the context and no allocation, and the methods of the
// returned [Span] do nothing. Package tracing starts the spans of requests and exports them; this package needs the API
// of OpenTelemetry only, and no state of its own.
//
// A span has no personal data: names are constants, and the value of an attribute is from a closed set, a name of the
// configuration, a number, or the id of the request. The text of an error MUST NOT be recorded; [Span.End] records its
// reason.
package span

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/mayfly-ca/mayfly/fault"
)

// Scope is the name of the instrumentation scope of all spans.
const Scope = "github.com/mayfly-ca/mayfly"

// Key is the name of an attribute.
type Key string

// The attributes.
const (
	Entry      Key = "mayfly.entry"         // entry of the issuer file
	Log        Key = "mayfly.log"           // name of a log in the configuration
	Reason     Key = "mayfly.reason"        // reason of a refusal, from the table in package fault
	Result     Key = "mayfly.result"        // result of a call, from the table of its metric
	Algorithm  Key = "mayfly.key_algorithm" // of the key that is certified
	Operation  Key = "mayfly.operation"     // of a call: what is read, signed or written
	RequestID  Key = "mayfly.request_id"
	Method     Key = "rpc.method"
	Transport  Key = "mayfly.transport" // grpc or rest
	StatusCode Key = "http.response.status_code"
)

// Span is a step of a request. The zero value is one that is not recorded.
type Span struct{ of trace.Span }

// Of returns a span of OpenTelemetry as a Span; not recorded if s is not.
func Of(s trace.Span) Span {
	if s == nil || !s.IsRecording() {
		return Span{}
	}
	return Span{s}
}

// In returns the span that ctx has.
func In(ctx context.Context) Span { return Of(trace.SpanFromContext(ctx)) }

// Start starts a step of this process. The caller MUST end it.
func Start(ctx context.Context, name string) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Span{}
	}
	return begin(ctx, parent, name, trace.WithSpanKind(trace.SpanKindInternal))
}

// Call starts a step that waits for another process. The caller MUST end it.
func Call(ctx context.Context, name string) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Span{}
	}
	return begin(ctx, parent, name, trace.WithSpanKind(trace.SpanKindClient))
}

// Call starts a step, as the function Call does, but one that may outlive its request: it is a child of s, with the
// context ctx.
func (s Span) Call(ctx context.Context, name string) (context.Context, Span) {
	if s.of == nil {
		return ctx, Span{}
	}
	return Call(trace.ContextWithSpan(ctx, s.of), name)
}

// Past records a step that has ended.
func Past(ctx context.Context, name string, from, to time.Time) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return
	}
	_, s := begin(ctx, parent, name, trace.WithTimestamp(from))
	s.of.End(trace.WithTimestamp(to))
}

// begin is not inlined, so that the callers of Start need no stack for it.
//
//go:noinline
func begin(ctx context.Context, parent trace.Span, name string, o trace.SpanStartOption) (context.Context, Span) {
	ctx, s := parent.TracerProvider().Tracer(Scope).Start(ctx, name, o) //nolint:spancheck // the caller ends it
	return ctx, Of(s)
}

// Recorded reports whether the span is recorded.
func (s Span) Recorded() bool { return s.of != nil }

// Set sets an attribute. An attribute with an empty value is not recorded.
func (s Span) Set(key Key, value string) {
	if s.of != nil && value != "" {
		s.of.SetAttributes(attribute.String(string(key), value))
	}
}

// SetInt sets an attribute that is a number.
func (s Span) SetInt(key Key, value int) {
	if s.of != nil {
		s.of.SetAttributes(attribute.Int(string(key), value))
	}
}

// End ends the span and records the reason of err. Unless err is the fault of the caller, the span counts as failed.
func (s Span) End(err error) {
	if s.of == nil {
		return
	}
	if err != nil {
		reason, failed := classify(err)
		s.Set(Reason, reason)
		if failed {
			s.of.SetStatus(codes.Error, reason)
		}
	}
	s.of.End()
}

// EndCall ends the span of a call with its result, which is from the table of the call's metric.
func (s Span) EndCall(result string, failed bool) {
	if s.of == nil {
		return
	}
	s.Set(Result, result)
	if failed {
		s.of.SetStatus(codes.Error, result)
	}
	s.of.End()
}

// Done ends the span with the error that a function returns: it is deferred with a pointer to the named result.
func (s Span) Done(err *error) {
	if s.of != nil {
		s.End(*err)
	}
}

// The reasons of errors that have none in package fault.
const (
	reasonError    = "error"
	reasonCanceled = "canceled"
	reasonTimeout  = "timeout"
)

func classify(err error) (reason string, failed bool) {
	var f *fault.Error
	switch {
	case errors.As(err, &f):
		return string(f.Reason), f.Party != fault.PartyCaller
	case errors.Is(err, context.Canceled):
		return reasonCanceled, false
	case errors.Is(err, context.DeadlineExceeded):
		return reasonTimeout, true
	}
	return reasonError, true
}

// TraceID returns the id of the trace in hexadecimal; empty if the span is not recorded.
func (s Span) TraceID() string {
	if s.of == nil {
		return ""
	}
	return s.of.SpanContext().TraceID().String()
}

// exemplarKey is the label of an exemplar; Grafana finds the trace by this name.
const exemplarKey = "trace_id"

// Observe adds seconds to a histogram, with the trace as an exemplar if the span is recorded.
func (s Span) Observe(o prometheus.Observer, seconds float64) {
	if s.of != nil {
		if e, ok := o.(prometheus.ExemplarObserver); ok {
			e.ObserveWithExemplar(seconds, prometheus.Labels{exemplarKey: s.TraceID()})
			return
		}
	}
	o.Observe(seconds)
}

// Inject writes the W3C Trace Context of the span in ctx, traceparent and tracestate, with set.
func Inject(ctx context.Context, set func(key, value string)) {
	if In(ctx).Recorded() {
		propagation.TraceContext{}.Inject(ctx, carrier(set))
	}
}

// carrier implements [propagation.TextMapCarrier] for writing.
type carrier func(key, value string)

func (carrier) Get(string) string       { return "" }
func (c carrier) Set(key, value string) { c(key, value) }
func (carrier) Keys() []string          { return nil }
