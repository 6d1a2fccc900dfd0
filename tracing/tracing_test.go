package tracing_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/internal/span"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
	"github.com/mayfly-ca/mayfly/testkit/otlp"
	"github.com/mayfly-ca/mayfly/tracing"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open returns a tracer that sends to a collector and samples a share of the requests.
func open(t testing.TB, to *otlp.Collector, sample float64, change func(*tracing.Config)) *tracing.Tracer {
	t.Helper()
	c := &tracing.Config{OTLP: &tracing.OTLPConfig{URL: to.URL}, Sample: &sample}
	if change != nil {
		change(c)
	}
	tracer, err := tracing.Open(c, tracing.Options{Version: "v1.2.3"})
	must(t, err)
	return tracer
}

// counts has the metric of the spans, by result.
func counts(t testing.TB, tracer *tracing.Tracer) map[string]int {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(tracer.Collectors()...)
	all, err := r.Gather()
	must(t, err)
	out := map[string]int{}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			if f.GetName() == "mayfly_tracing_spans_total" {
				out[m.GetLabel()[0].GetValue()] = int(m.GetCounter().GetValue())
			}
		}
	}
	return out
}

// request is one request with a step.
func request(tracer *tracing.Tracer, r tracing.Request) (traceID string) {
	r.Name = "request"
	ctx, s := tracer.Start(context.Background(), r)
	_, step := span.Start(ctx, "step")
	step.End(nil)
	s.End(nil)
	return s.TraceID()
}

// The collector gets the spans of a request with their resource, and the headers of the configuration. The environment
// variables of OpenTelemetry have no effect.
func TestExport(t *testing.T) { //nolint:paralleltest // it sets the environment
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT":        "http://127.0.0.1:1",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/x",
		"OTEL_EXPORTER_OTLP_HEADERS":         "x-env=1", "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
		"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json", "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
		"OTEL_TRACES_SAMPLER": "always_off", "OTEL_RESOURCE_ATTRIBUTES": "service.name=env",
		"OTEL_SERVICE_NAME": "env", "OTEL_BSP_MAX_QUEUE_SIZE": "1", "OTEL_BSP_SCHEDULE_DELAY": "3600000",
		"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "0",
	} {
		t.Setenv(name, value)
	}
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte("canary\n"), 0o600))
	c := otlp.New(t)
	tracer := open(t, c, 1, func(c *tracing.Config) {
		c.OTLP.Headers = map[string]*secret.Source{"Authorization": {File: file}}
		c.OTLP.URL += "/"
	})
	began := time.Now().Add(-time.Second)
	id := request(tracer, tracing.Request{Began: began})
	spans := c.Await(t, "two spans", func(all []otlp.Span) bool { return len(all) == 2 })
	must(t, tracer.Close())
	step, root := spans[0], spans[1]
	if step.GetName() != "step" || step.Parent() != root.ID() || root.Parent() != "" || root.Trace() != id ||
		step.Trace() != id || root.Took() < time.Second || step.Took() > root.Took() || root.Scope != span.Scope {
		t.Errorf("%v\n%v", step, root)
	}
	host, err := os.Hostname()
	must(t, err)
	want := map[string]string{"service.name": "mayfly", "service.version": "v1.2.3", "host.name": host}
	if fmt.Sprint(root.Resource) != fmt.Sprint(want) {
		t.Errorf("the resource is %v", root.Resource)
	}
	for _, h := range c.Requests() {
		if h.Get("Authorization") != "canary" || h.Get("X-Env") != "" || h.Get("Content-Encoding") != "gzip" {
			t.Errorf("%v", h)
		}
	}
	if got := counts(t, tracer); got["exported"] != 2 || got["failed"]+got["dropped"] != 0 {
		t.Errorf("%v", got)
	}
}

// Of many requests, the share that the configuration names is sampled. No caller can raise it unless callers are
// followed, and then by a bounded number.
func TestSampling(t *testing.T) {
	t.Parallel()
	const valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	const requests = 20000
	state := []string{"vendor=1"}
	for name, c := range map[string]struct {
		sample    float64
		parent    string
		header    []string
		min, max  int
		followed  bool // the trace of the caller is continued
		stateless bool
	}{
		"none":                 {sample: 0},
		"one percent":          {sample: 0.01, min: 100, max: 300},
		"all":                  {sample: 1, min: requests, max: requests},
		"a caller, ignored":    {sample: 0, header: []string{valid}},
		"a caller, by default": {sample: 0.01, header: []string{valid}, min: 100, max: 300},
		"a caller, followed": {
			sample: 0, parent: "follow", header: []string{valid}, min: 20,
			max: 200, followed: true,
		},
		"a caller, unsampled": {sample: 0, parent: "follow", header: []string{valid[:53] + "00"}},
		"two callers":         {sample: 0, parent: "follow", header: []string{valid, valid}},
		"an invalid header": {
			sample: 0, parent: "follow",
			header: []string{"00-" + strings.Repeat("0", 32) + valid[35:]},
		},
		"a header of 1 MiB": {
			sample: 0, parent: "follow",
			header: []string{"01" + valid[2:] + "-" + strings.Repeat("x", 1<<20)},
		},
		"upper case, malformed": {sample: 0, parent: "follow", header: []string{strings.ToUpper(valid)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tracer := open(t, otlp.New(t), c.sample, func(o *tracing.Config) { o.Parent = c.parent })
			n, followed := 0, 0
			for range requests {
				id := request(tracer, tracing.Request{Traceparent: c.header, Tracestate: state})
				if id != "" {
					n++
				}
				if id == "4bf92f3577b34da6a3ce929d0e0e4736" {
					followed++
				}
			}
			if n < c.min || n > c.max || (followed > 0) != c.followed || followed > 0 && followed != n {
				t.Errorf("%d are sampled, %d of them in the trace of the caller", n, followed)
			}
			must(t, tracer.Close())
		})
	}
}

// The span of a followed request is below that of its caller, and keeps its state.
func TestFollowed(t *testing.T) {
	t.Parallel()
	c := otlp.New(t)
	tracer := open(t, c, 0, func(o *tracing.Config) { o.Parent = "follow" })
	const valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	var long []string // valid, apart from the length of all
	for i := range 20 {
		long = append(long, fmt.Sprintf("k%d=%s", i, strings.Repeat("x", 40)))
	}
	for _, state := range [][]string{{"a=1", "b=2"}, long, {"=,=;\x00"}, nil} {
		request(tracer, tracing.Request{Traceparent: []string{valid}, Tracestate: state})
	}
	must(t, tracer.Close())
	var states []string
	for _, s := range c.Spans() {
		if s.GetName() != "request" {
			continue
		}
		states = append(states, s.GetTraceState())
		if s.Parent() != "00f067aa0ba902b7" || s.Trace() != "4bf92f3577b34da6a3ce929d0e0e4736" {
			t.Errorf("%v", s)
		}
	}
	if got := strings.Join(states, "|"); got != "a=1,b=2|||" {
		t.Errorf("the states are %q", got)
	}
}

// A collector that is down, refuses or hangs never makes a request wait. Spans beyond the queue are dropped, each is
// counted, and the log has one line about it, without the headers.
func TestCollectorFails(t *testing.T) { //nolint:paralleltest // it looks for goroutines that are left
	for name, answer := range map[string]func(http.ResponseWriter){
		"refuses": func(w http.ResponseWriter) { http.Error(w, "no", http.StatusForbidden) },
		"repeats": func(w http.ResponseWriter) { // the request, as some proxies do
			http.Error(w, "Authorization: canary"+strings.Repeat(" ", 10000), http.StatusForbidden)
		},
		"hangs": nil,
	} {
		t.Run(name, func(t *testing.T) { //nolint:paralleltest // as above
			c := otlp.New(t)
			if answer == nil {
				end := make(chan struct{})
				t.Cleanup(func() { close(end) })
				answer = func(http.ResponseWriter) { <-end }
			}
			c.Answer(answer)
			logs := &logbuf.Buffer{}
			sample := 1.0
			tracer, err := tracing.Open(&tracing.Config{
				OTLP: &tracing.OTLPConfig{
					URL: c.URL, Timeout: 200 * time.Millisecond,
					Headers: map[string]*secret.Source{"Authorization": secret.Typed([]byte("canary"))},
				}, Sample: &sample,
			}, tracing.Options{Logger: slog.New(slog.NewTextHandler(logs, nil))})
			must(t, err)
			const requests = 10000
			slowest := time.Duration(0)
			for range requests {
				start := time.Now()
				request(tracer, tracing.Request{})
				slowest = max(slowest, time.Since(start))
			}
			if slowest > 2*time.Second { // a busy machine; one that waits for the collector needs longer
				t.Errorf("a request took %s", slowest)
			}
			start := time.Now()
			must(t, tracer.Close())
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("close took %s", took)
			}
			got := counts(t, tracer)
			if got["exported"] != 0 || got["dropped"] == 0 || got["failed"] == 0 ||
				got["dropped"]+got["failed"] > 2*requests {
				t.Errorf("%v", got)
			}
			if text := logs.String(); strings.Count(text, "traces are not exported") != 1 ||
				strings.Contains(text, "canary") || len(text) > 600 {
				t.Errorf("the log: %s", text)
			}
		})
	}
	http.DefaultClient.CloseIdleConnections()
	goleak.VerifyNone(t, goleak.IgnoreCurrent())
}

// A nil configuration traces nothing, at no cost.
func TestOff(t *testing.T) { //nolint:paralleltest // it counts allocations
	tracer, err := tracing.Open(nil, tracing.Options{})
	must(t, err)
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() {
		if c, s := tracer.Start(ctx, tracing.Request{Name: "request"}); c != ctx || s.Recorded() {
			t.Error("it is recorded")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if tracer.Collectors() != nil {
		t.Error("it has metrics")
	}
	must(t, tracer.Close())
}

func TestConfig(t *testing.T) {
	t.Parallel()
	share := func(f float64) *float64 { return &f }
	good := func() *tracing.Config {
		return &tracing.Config{OTLP: &tracing.OTLPConfig{URL: "https://c.example:4318"}}
	}
	for want, change := range map[string]func(*tracing.Config){
		"":                             func(*tracing.Config) {},
		"otlp: is missing; write otlp": func(c *tracing.Config) { c.OTLP = nil },
		"otlp.url: is missing; write the base address": func(c *tracing.Config) { c.OTLP.URL = "" },
		`otlp.url: "c:4318" is not a base address`:     func(c *tracing.Config) { c.OTLP.URL = "c:4318" },
		`otlp.url: "https://u:p@c" is not a base`: func(c *tracing.Config) {
			c.OTLP.URL = "https://u:p@c"
		},
		"otlp.url: spans would be sent over a net":                    func(c *tracing.Config) { c.OTLP.URL = "http://c" },
		"sample: 1.5 is not a share of the requests; write a":         func(c *tracing.Config) { c.Sample = share(1.5) },
		"sample: -1 is not a share":                                   func(c *tracing.Config) { c.Sample = share(-1) },
		`parent: "always" is not a known value; write ignore or foll`: func(c *tracing.Config) { c.Parent = "always" },
		"otlp.timeout: 1ms is out of range; write 100ms to 1m": func(c *tracing.Config) {
			c.OTLP.Timeout = time.Millisecond
		},
		"otlp.headers.a b: \"a b\" is not the name of a header": func(c *tracing.Config) {
			c.OTLP.Headers = map[string]*secret.Source{"a b": secret.Typed(nil)}
		},
		"otlp.headers.a: the header has no value": func(c *tracing.Config) {
			c.OTLP.Headers = map[string]*secret.Source{"a": nil}
		},
		"otlp.headers.a: exactly one of env and file": func(c *tracing.Config) {
			c.OTLP.Headers = map[string]*secret.Source{"a": {}}
		},
	} {
		c := good()
		change(c)
		err := c.Check()
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for want, headers := range map[string]*secret.Source{
		"otlp.headers.a.file":                           {File: "/no/such/file"},
		"otlp.headers.a: the value contains a line end": secret.Typed([]byte("x\r\ny: z")),
	} {
		c := good()
		c.OTLP.Headers = map[string]*secret.Source{"a": headers}
		if _, err := tracing.Open(c, tracing.Options{}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	c := good()
	c.OTLP.URL, c.OTLP.Insecure = "http://c.example", true
	must(t, c.Check())
	if w := c.Warnings(); len(w) != 1 || len(good().Warnings()) != 0 || (*tracing.Config)(nil).Warnings() != nil {
		t.Errorf("%v", w)
	}
	c.OTLP.CACert = "/no/such/file"
	if _, err := tracing.Open(c, tracing.Options{}); err == nil ||
		!bytes.Contains([]byte(err.Error()), []byte("otlp.ca_cert")) {
		t.Error(err)
	}
}

// Whatever the headers of a request are, the trace is that of the caller or a new one.
func FuzzParent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a=1,b=2")
	f.Add("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "")
	f.Add("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", "a@b=\x00")
	sample := 0.0
	tracer, err := tracing.Open(&tracing.Config{
		OTLP: &tracing.OTLPConfig{URL: "http://127.0.0.1:1", Timeout: 100 * time.Millisecond}, Sample: &sample,
		Parent: "follow",
	}, tracing.Options{})
	must(f, err)
	f.Cleanup(func() { _ = tracer.Close() })
	f.Fuzz(func(t *testing.T, parent, state string) {
		id := request(tracer, tracing.Request{Traceparent: []string{parent}, Tracestate: []string{state}})
		if id != "" && !strings.Contains(parent, id) {
			t.Errorf("%q became %q", parent, id)
		}
	})
}

// BenchmarkRequest measures a request with one step: tracing off, one of a hundred requests sampled, and each.
func BenchmarkRequest(b *testing.B) {
	c := otlp.New(b)
	for _, of := range []struct {
		name   string
		tracer *tracing.Tracer
	}{{"off", nil}, {"1 percent", open(b, c, 0.01, nil)}, {"all", open(b, c, 1, nil)}} {
		b.Run(of.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				request(of.tracer, tracing.Request{})
			}
		})
	}
}
