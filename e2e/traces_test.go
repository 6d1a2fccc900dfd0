//go:build all

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// TestTracesInCollector has a released OpenTelemetry collector receive the trace of a request, and reads from it the
// tree of the spans.
func TestTracesInCollector(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	l.Need("otelcol")
	otlp := l.Address()
	config := l.Write("otelcol/config.yaml", fmt.Sprintf(`receivers:
  otlp:
    protocols:
      http: {endpoint: %q}
processors:
  batch: {timeout: 200ms}
exporters:
  debug: {verbosity: detailed, sampling_initial: 1000}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], processors: [batch], exporters: [debug]}
`, otlp))
	collector := l.Spawn("otelcol", lab.Command{Name: "otelcol", Args: []string{"--config", "file:" + config}})
	pki, issuer := l.PKI(), l.Issuer(nil)
	log := l.TesseraCT(pki.RootFile)
	ca := l.Serve(lab.ServeOptions{
		Name: "traced", PKI: pki, CT: lab.RemoteLog(log), Identity: lab.EmailIssuer(issuer.URL),
		More: fmt.Sprintf("audit: {file: journal.jsonl}\ntracing: {sample: 1, otlp: {url: \"http://%s\"}}\n", otlp),
	})
	a, err := lab.RequestCertificate(t.Context(), &http.Client{Timeout: lab.MaxWait}, ca.URL,
		issuer.Email("alice@example.com"), "alice@example.com")
	if err != nil || a.Status != http.StatusOK {
		t.Fatal(a, err)
	}
	var spans map[string]collected
	l.Eventually("the trace in the collector", func(context.Context) error {
		spans = collectedSpans(collector.Stderr() + collector.Stdout())
		if _, ok := spans["CreateSigningCertificate"]; !ok {
			return errors.New("the collector has not received the request")
		}
		return nil
	})
	root := spans["CreateSigningCertificate"]
	if root.parent != "" || root.kind != "Server" || !strings.Contains(root.text, "service.name: Str(mayfly)") &&
		!strings.Contains(collector.Stderr(), "service.name: Str(mayfly)") {
		t.Errorf("%+v", root)
	}
	for name, parent := range map[string]string{
		"receive": "CreateSigningCertificate", "admission": "CreateSigningCertificate",
		"identify": "CreateSigningCertificate", "prove": "CreateSigningCertificate",
		"build": "CreateSigningCertificate", "journal intent": "CreateSigningCertificate",
		"sign precertificate": "CreateSigningCertificate", "log": "CreateSigningCertificate", "log attempt": "log",
		"sign certificate": "CreateSigningCertificate", "release": "CreateSigningCertificate",
		"journal outcome": "CreateSigningCertificate",
	} {
		if s, ok := spans[name]; !ok || s.trace != root.trace || s.parent != spans[parent].id {
			t.Errorf("%s: %+v, want below %s", name, s, parent)
		}
	}
	if strings.Contains(collector.Stderr(), "alice@example.com") {
		t.Error("a span has the address of the caller")
	}
}

// collected is a span as the collector prints it.
type collected struct{ trace, id, parent, kind, text string }

var (
	spanStart = regexp.MustCompile(`(?m)^Span #\d+$`)
	spanField = regexp.MustCompile(`(?m)^    (Trace ID|ID|Parent ID|Name|Kind) *: ?(.*)$`)
)

// collectedSpans reads the spans of the detailed output of the collector, by name.
func collectedSpans(text string) map[string]collected {
	out := map[string]collected{}
	for _, one := range spanStart.Split(text, -1)[1:] {
		s, name := collected{text: one}, ""
		for _, m := range spanField.FindAllStringSubmatch(one, -1) {
			switch m[1] {
			case "Trace ID":
				s.trace = m[2]
			case "ID":
				s.id = m[2]
			case "Parent ID":
				s.parent = m[2]
			case "Kind":
				s.kind = m[2]
			case "Name":
				name = m[2]
			}
		}
		out[name] = s
	}
	return out
}
