package span_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/span"
)

// request returns a context with a recorded span, and the spans that have ended.
func request(t testing.TB) (context.Context, *tracetest.SpanRecorder) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	provider := sdk.NewTracerProvider(sdk.WithSpanProcessor(spans))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	ctx, _ := provider.Tracer("test").Start(t.Context(), "request")
	return ctx, spans
}

// attributes are those of a span.
func attributes(s sdk.ReadOnlySpan) map[string]string {
	out := map[string]string{}
	for _, a := range s.Attributes() {
		out[string(a.Key)] = a.Value.String()
	}
	return out
}

func TestSteps(t *testing.T) {
	t.Parallel()
	ctx, spans := request(t)
	outer, s := span.Start(ctx, "outer")
	_, inner := span.Call(outer, "inner")
	inner.Set(span.Log, "lab")
	inner.Set(span.Entry, "")
	inner.SetInt(span.StatusCode, 200)
	inner.EndCall("accepted", false)
	_, failed := span.Call(outer, "failed")
	failed.EndCall("timed_out", true)
	from := time.Now().Add(-time.Minute)
	span.Past(outer, "past", from, from.Add(time.Second))
	_, later := s.Call(context.Background(), "background")
	s.End(nil)
	later.End(nil)
	got := map[string]sdk.ReadOnlySpan{}
	for _, one := range spans.Ended() {
		got[one.Name()] = one
	}
	parent := got["outer"].SpanContext().SpanID()
	for _, name := range []string{"inner", "past", "background"} {
		if got[name].Parent().SpanID() != parent {
			t.Errorf("%s is not below outer", name)
		}
	}
	if k := got["inner"].SpanKind(); k != trace.SpanKindClient || got["outer"].SpanKind() != trace.SpanKindInternal {
		t.Errorf("kinds: %v, %v", k, got["outer"].SpanKind())
	}
	if st := got["failed"].Status(); st.Code != codes.Error || st.Description != "timed_out" ||
		got["inner"].Status().Code != codes.Unset {
		t.Errorf("status %v", st)
	}
	if took := got["past"].EndTime().Sub(got["past"].StartTime()); took != time.Second {
		t.Errorf("the past step took %s", took)
	}
	want := map[string]string{"mayfly.log": "lab", "http.response.status_code": "200", "mayfly.result": "accepted"}
	if a := attributes(got["inner"]); fmt.Sprint(a) != fmt.Sprint(want) {
		t.Errorf("%v", a)
	}
	if scope := got["inner"].InstrumentationScope().Name; scope != span.Scope {
		t.Errorf("scope %q", scope)
	}
}

// A span has the reason of an error and never its text. A fault of the caller is no failure.
func TestEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err    error
		reason string
		failed bool
	}{
		"none":     {nil, "", false},
		"caller":   {fault.New(fault.TokenExpired, errors.New("canary")), "TOKEN_EXPIRED", false},
		"log":      {fmt.Errorf("canary: %w", fault.New(fault.LogUnavailable, nil)), "LOG_UNAVAILABLE", true},
		"any":      {errors.New("canary"), "error", true},
		"canceled": {fmt.Errorf("canary: %w", context.Canceled), "canceled", false},
		"timeout":  {context.DeadlineExceeded, "timeout", true},
	} {
		ctx, spans := request(t)
		_, s := span.Start(ctx, "step")
		s.Done(&c.err)
		got := spans.Ended()[0]
		failed := got.Status().Code == codes.Error
		if reason := attributes(got)["mayfly.reason"]; reason != c.reason || failed != c.failed ||
			strings.Contains(fmt.Sprint(got.Status(), got.Attributes(), got.Events()), "canary") {
			t.Errorf("%s: %q, %v", name, reason, got.Status())
		}
	}
}

// Histograms and log records have the id of the trace if the span is recorded, and otherwise not.
func TestTraceID(t *testing.T) {
	t.Parallel()
	recorded, _ := request(t)
	for _, ctx := range []context.Context{recorded, t.Context()} {
		id := span.In(ctx).TraceID()
		if (id == "") == (ctx == recorded) {
			t.Errorf("the id is %q", id)
		}
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "x", Buckets: []float64{1}})
		span.In(ctx).Observe(h, 0.5)
		m := &dto.Metric{}
		if err := h.Write(m); err != nil || m.GetHistogram().GetSampleCount() != 1 {
			t.Errorf("%v, %v", m, err)
		}
		exemplar := m.GetHistogram().GetBucket()[0].GetExemplar()
		if (exemplar == nil) != (id == "") || id != "" && exemplar.GetLabel()[0].GetValue() != id {
			t.Errorf("the exemplar of %q is %v", id, exemplar)
		}
		var out bytes.Buffer
		log := slog.New(span.Handler(slog.NewJSONHandler(&out, nil))).With("a", 1).WithGroup("g")
		log.InfoContext(ctx, "m", "b", 2)
		if strings.Contains(out.String(), `"trace_id":"`+id+`"`) != (id != "") {
			t.Errorf("%q: %s", id, out.String())
		}
		headers := map[string]string{}
		span.Inject(ctx, func(key, value string) { headers[key] = value })
		if (len(headers) == 1) != (id != "") || id != "" && !strings.HasPrefix(headers["traceparent"], "00-"+id+"-") {
			t.Errorf("%q: %v", id, headers)
		}
	}
}

// step is what a function does that is a step of a request.
func step(ctx context.Context) (err error) {
	ctx, s := span.Start(ctx, "step")
	defer s.Done(&err)
	s.Set(span.Log, "lab")
	_, call := span.Call(ctx, "call")
	call.End(nil)
	return ctx.Err()
}

// Without a recorded span, a step allocates nothing.
func TestOffAllocates(t *testing.T) { //nolint:paralleltest // it counts allocations
	ctx := context.WithValue(t.Context(), http{}, 1)
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "x", Buckets: []float64{1}})
	if n := testing.AllocsPerRun(1000, func() {
		_ = step(ctx)
		span.In(ctx).Observe(h, 1)
		span.Past(ctx, "past", time.Time{}, time.Time{})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

type http struct{}

// BenchmarkStep measures one step with a call in it: without a recorded span, and with one.
func BenchmarkStep(b *testing.B) {
	off := b.Context()
	for range 6 { // as many contexts as a request has
		var cancel context.CancelFunc
		off, cancel = context.WithTimeout(off, time.Hour)
		b.Cleanup(cancel)
	}
	provider := sdk.NewTracerProvider()
	on, s := provider.Tracer("test").Start(off, "request")
	b.Cleanup(func() { s.End() })
	for name, ctx := range map[string]context.Context{"off": off, "on": on} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = step(ctx)
			}
		})
	}
}
