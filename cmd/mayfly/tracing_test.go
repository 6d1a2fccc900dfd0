package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/otlp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// tree writes the names of the spans below one, indented, in the order of their start. It fails if a span is not within
// its parent, in time.
func tree(t *testing.T, spans []otlp.Span, of otlp.Span, indent string) string {
	t.Helper()
	out := indent + of.GetName() + "\n"
	var below []otlp.Span
	for _, s := range spans {
		if s.Parent() == of.ID() {
			below = append(below, s)
		}
	}
	sort.SliceStable(below, func(i, j int) bool {
		return below[i].GetStartTimeUnixNano() < below[j].GetStartTimeUnixNano()
	})
	for _, s := range below {
		if s.GetStartTimeUnixNano() < of.GetStartTimeUnixNano() || s.GetEndTimeUnixNano() > of.GetEndTimeUnixNano() ||
			s.Trace() != of.Trace() {
			t.Errorf("%s is not within %s: %v, %v", s.GetName(), of.GetName(), s, of)
		}
		out += tree(t, spans, s, indent+"  ")
	}
	return out
}

// issuing is the tree of a request that got a certificate.
const issuing = `CreateSigningCertificate
  receive
  admission
  identify
  prove
  build
  journal intent
  sign precertificate
  log
    log attempt
  sign certificate
  release
  journal outcome
`

// The collector gets a tree of spans for each request, over each transport, with names of the configuration and reasons
// and without data of the caller. Lines of the log and exemplars of metrics have the id of the trace, and a request of
// a caller that is followed is in the caller's trace.
func TestTraces(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	collector := otlp.New(t)
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: provider.URL(), Admin: true, LogLevel: "info",
		More: "audit: {file: journal.jsonl}\ntracing: {sample: 1, parent: follow, otlp: {url: \"" +
			collector.URL + "\"}}\n",
	})
	requests := process.Requests(t, provider)
	var roots []otlp.Span
	// next waits for the trace of one more request for a certificate
	next := func(what string) (otlp.Span, []otlp.Span) {
		t.Helper()
		var root otlp.Span
		spans := collector.Await(t, what, func(all []otlp.Span) bool {
			for _, one := range all {
				if one.GetName() == "CreateSigningCertificate" &&
					!slices.ContainsFunc(roots, func(r otlp.Span) bool { return r.ID() == one.ID() }) {
					root = one
					return true
				}
			}
			return false
		})
		roots = append(roots, root)
		return root, spans
	}
	for _, rest := range []bool{false, true} {
		call, done := s.Caller(t, rest)
		if err := call(requests[0]); err != nil {
			t.Fatal(err)
		}
		done()
		root, spans := next("a certificate")
		if got := tree(t, spans, root, ""); got != issuing {
			t.Errorf("REST: %t\n%s", rest, got)
		}
		transport := map[bool]string{false: "grpc", true: "rest"}[rest]
		a := root.Attributes
		if a["mayfly.transport"] != transport || a["rpc.method"] != root.GetName() || a["mayfly.request_id"] == "" ||
			a["mayfly.entry"] != provider.URL() || a["mayfly.key_algorithm"] != "ecdsa-sha2-256-nistp256" ||
			a["mayfly.reason"] != "" || root.GetKind() != trace.Span_SPAN_KIND_SERVER || root.Parent() != "" ||
			root.GetStatus().GetCode() != trace.Status_STATUS_CODE_UNSET || root.Took() > time.Minute {
			t.Errorf("%v", root)
		}
		if r := root.Resource; r["service.name"] != "mayfly" || r["service.version"] == "" || r["host.name"] == "" {
			t.Errorf("%v", r)
		}
		for _, one := range spans {
			if one.GetName() == "log attempt" && (one.Attributes["mayfly.log"] != "lab" ||
				one.Attributes["mayfly.result"] != "accepted" || one.GetKind() != trace.Span_SPAN_KIND_CLIENT) {
				t.Errorf("%v", one)
			}
		}
		if line := awaitLine(t, s, a["mayfly.request_id"]); line["trace_id"] != root.Trace() {
			t.Errorf("the log: %v", line)
		}
	}

	// a refusal, in the trace of the caller
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the test is over
	ctx := metadata.AppendToOutgoingContext(context.Background(),
		"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	expired := provider.Token(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})
	_, err = fulciopb.NewCAClient(conn).CreateSigningCertificate(ctx, &fulciopb.CreateSigningCertificateRequest{
		Credentials: &fulciopb.Credentials{
			Credentials: &fulciopb.Credentials_OidcIdentityToken{OidcIdentityToken: expired},
		},
	})
	if err == nil {
		t.Fatal("an expired token got a certificate")
	}
	root, spans := next("a refusal")
	if root.Attributes["mayfly.reason"] != "TOKEN_EXPIRED" || root.Trace() != "4bf92f3577b34da6a3ce929d0e0e4736" ||
		root.Parent() != "00f067aa0ba902b7" || root.GetStatus().GetCode() != trace.Status_STATUS_CODE_UNSET {
		t.Errorf("%v", root)
	}
	if got := tree(t, spans, root, ""); got != "CreateSigningCertificate\n  receive\n  admission\n  identify\n" {
		t.Error(got)
	}
	// the same over REST
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.HTTP+"/api/v2/signingCert",
		bytes.NewReader([]byte(`{}`)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Traceparent", "00-5bf92f3577b34da6a3ce929d0e0e4736-10f067aa0ba902b7-01")
	if res, err := http.DefaultClient.Do(req); err != nil || res.Body.Close() != nil {
		t.Fatal(err)
	}
	if root, _ = next("a refusal over REST"); root.Trace() != "5bf92f3577b34da6a3ce929d0e0e4736" ||
		root.Attributes["mayfly.reason"] != "TOKEN_MISSING" {
		t.Errorf("%v", root)
	}

	for _, one := range collector.Spans() {
		if text := one.String(); strings.Contains(text, "@example.com") || strings.Contains(text, "subject") ||
			strings.Contains(text, "eyJ") {
			t.Errorf("a span has data of the caller: %s", text)
		}
	}
	metrics := openMetrics(t, s)
	for _, name := range []string{
		"mayfly_server_request_seconds", "mayfly_slo_issued_seconds", "mayfly_ca_stage_seconds",
		"mayfly_ctlog_attempt_seconds",
	} {
		found := false
		for line := range strings.Lines(metrics) {
			found = found || strings.HasPrefix(line, name+"_bucket{") && strings.Contains(line, `# {trace_id="`)
		}
		if !found {
			t.Errorf("%s has no exemplar", name)
		}
	}
	if !strings.HasSuffix(metrics, "# EOF\n") ||
		!strings.Contains(metrics, `mayfly_tracing_spans_total{result="exported"}`) {
		t.Error(metrics)
	}
}

// awaitLine returns the line of the log about a request.
func awaitLine(t *testing.T, s *process.Server, id string) (line map[string]any) {
	t.Helper()
	s.Until(t, "a line of the log with "+id, func() bool {
		for text := range strings.Lines(s.Logs.String()) {
			var one map[string]any
			if json.Unmarshal([]byte(text), &one) == nil && one["request_id"] == id {
				line = one
				return true
			}
		}
		return false
	})
	return line
}

// openMetrics reads /metrics in the format OpenMetrics, as Prometheus does if it stores exemplars.
func openMetrics(t *testing.T, s *process.Server) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Admin+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // read to the end
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK ||
		!strings.HasPrefix(res.Header.Get("Content-Type"), "application/openmetrics-text") {
		t.Fatalf("%v, %s, %s", err, res.Status, res.Header)
	}
	return string(body)
}
