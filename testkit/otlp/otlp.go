// Package otlp is an OpenTelemetry collector for tests: it receives traces over OTLP/HTTP, and decodes them with the
// types of the protocol.
package otlp

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is a received span.
type Span struct {
	*trace.Span
	Scope      string
	Resource   map[string]string
	Attributes map[string]string
}

// ID returns the id of the span in hexadecimal.
func (s Span) ID() string { return hex.EncodeToString(s.GetSpanId()) }

// Parent returns the id of the span above; empty if there is none.
func (s Span) Parent() string { return hex.EncodeToString(s.GetParentSpanId()) }

// Trace returns the id of the trace.
func (s Span) Trace() string { return hex.EncodeToString(s.GetTraceId()) }

// Took returns the duration of the span.
func (s Span) Took() time.Duration {
	return time.Duration(s.GetEndTimeUnixNano() - s.GetStartTimeUnixNano()) //nolint:gosec // times of a test
}

// Collector is a collector.
type Collector struct {
	URL string

	mu       sync.Mutex
	spans    []Span
	requests []http.Header
	answer   func(http.ResponseWriter) // nil: the spans are accepted
	changed  chan struct{}
}

// New starts a collector, until the test ends.
func New(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{changed: make(chan struct{}, 1)}
	s := httptest.NewServer(c)
	c.URL = s.URL
	t.Cleanup(s.Close)
	return c
}

// Answer makes the collector answer with f in place of accepting spans. With nil, it accepts them again.
func (c *Collector) Answer(f func(http.ResponseWriter)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = f
}

// ServeHTTP implements [http.Handler].
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	answer := c.answer
	c.requests = append(c.requests, r.Header.Clone())
	c.mu.Unlock()
	if answer != nil {
		answer(w)
		return
	}
	spans, err := decode(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.spans = append(c.spans, spans...)
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
	body, err := proto.Marshal(&collector.ExportTraceServiceResponse{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(body)
}

func decode(r *http.Request) (out []Span, err error) {
	in := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		if in, err = gzip.NewReader(in); err != nil {
			return nil, err
		}
	}
	body, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	var request collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &request); err != nil {
		return nil, err
	}
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				out = append(out, Span{
					s, scope.GetScope().GetName(), values(resource.GetResource().GetAttributes()),
					values(s.GetAttributes()),
				})
			}
		}
	}
	return out, nil
}

func values(all []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, one := range all {
		text := one.GetValue().String()
		if v, ok := one.GetValue().GetValue().(*common.AnyValue_StringValue); ok {
			text = v.StringValue
		}
		out[one.GetKey()] = strings.TrimSpace(text)
	}
	return out
}

// Spans returns the received spans.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

// Requests returns the headers of all requests.
func (c *Collector) Requests() []http.Header {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]http.Header(nil), c.requests...)
}

// Await returns the spans as soon as they are as a test needs them.
func (c *Collector) Await(t testing.TB, what string, holds func([]Span) bool) []Span {
	t.Helper()
	late := time.After(time.Minute)
	for {
		if spans := c.Spans(); holds(spans) {
			return spans
		}
		select {
		case <-c.changed:
		case <-late:
			t.Fatalf("the collector has not received %s; it has %d spans", what, len(c.Spans()))
		}
	}
}
