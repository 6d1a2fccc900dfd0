// Package spans records the spans of a request in tests, without a collector.
package spans

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// Recorder has the spans that have ended below one request.
type Recorder struct {
	root  trace.Span
	spans *tracetest.SpanRecorder
}

// Request returns a context with the span of a request.
func Request(t testing.TB) (context.Context, *Recorder) {
	t.Helper()
	r := &Recorder{spans: tracetest.NewSpanRecorder()}
	provider := sdk.NewTracerProvider(sdk.WithSpanProcessor(r.spans))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	ctx, root := provider.Tracer("test").Start(t.Context(), "request")
	r.root = root
	return ctx, r
}

// TraceID returns the id of the trace in hexadecimal.
func (r *Recorder) TraceID() string { return r.root.SpanContext().TraceID().String() }

// Tree returns the spans that have ended: each with its attributes and status on a line, below its parent, in the order
// of their end.
func (r *Recorder) Tree() string { return r.below(r.root.SpanContext().SpanID(), "") }

func (r *Recorder) below(parent trace.SpanID, indent string) string {
	var out strings.Builder
	for _, s := range r.spans.Ended() {
		if s.Parent().SpanID() != parent {
			continue
		}
		fmt.Fprintf(&out, "%s%s", indent, s.Name())
		attributes := s.Attributes()
		var texts []string
		for _, a := range attributes {
			texts = append(texts, fmt.Sprintf(" %s=%s", a.Key, a.Value.String()))
		}
		slices.Sort(texts)
		out.WriteString(strings.Join(texts, ""))
		if s.Status().Code == codes.Error {
			out.WriteString(" failed")
		}
		out.WriteString("\n" + r.below(s.SpanContext().SpanID(), indent+"  "))
	}
	return out.String()
}
