package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// fulcioSeries are the metrics of Fulcio that a server has after a few requests: name, type, labels, and how much these
// requests have added. The values of labels that say what was built, and durations, are left out.
func fulcioSeries(t *testing.T, s wireServer, requests []process.Request) string {
	t.Helper()
	before := fulcioValues(t, s)
	// over REST: a certificate, a refusal, two reads, a path that does not exist
	for _, one := range []struct{ method, path, body string }{
		{http.MethodPost, "/api/v2/signingCert", string(requests[0].JSON)},
		{http.MethodPost, "/api/v2/signingCert", "{}"},
		{http.MethodGet, "/api/v2/trustBundle", ""},
		{http.MethodGet, "/api/v1/rootCert", ""},
		{http.MethodGet, "/no/such/path", ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), one.method, s.rest+one.path, strings.NewReader(one.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if res, err := http.DefaultClient.Do(req); err != nil || res.Body.Close() != nil {
			t.Fatal(err)
		}
	}
	// over gRPC: a certificate, a refusal, a read
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the test is over
	c := fulciopb.NewCAClient(conn)
	if _, err := c.CreateSigningCertificate(t.Context(), requests[1].Proto); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateSigningCertificate(t.Context(), &fulciopb.CreateSigningCertificateRequest{}); err == nil {
		t.Error("a request without a token got a certificate")
	}
	if _, err := c.GetConfiguration(context.Background(), &fulciopb.GetConfigurationRequest{}); err != nil {
		t.Fatal(err)
	}
	var out []string
	for series, value := range fulcioValues(t, s) {
		value -= before[series]
		if value == 0 && strings.Contains(series, `code="503",method=`) {
			continue // of the requests with which the test waited for the server
		}
		out = append(out, fmt.Sprintf("%s %v", series, value))
	}
	slices.Sort(out)
	return strings.Join(out, "\n") + "\n"
}

// fulcioValues are the values of the metrics of Fulcio; of a histogram, the number of observations.
func fulcioValues(t *testing.T, s wireServer) map[string]float64 {
	t.Helper()
	code, page := process.Get(t, s.metrics+"/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(page))
	if err != nil || code != http.StatusOK {
		t.Fatal(code, err)
	}
	out := map[string]float64{}
	for name, f := range families {
		if !strings.HasPrefix(name, "fulcio_") && !strings.HasPrefix(name, "grpc_server_") &&
			name != "http_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				value := l.GetValue()
				if name == "fulcio_build_info" {
					value = ""
				}
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), value))
			}
			if slices.Contains(labels, `grpc_service="grpc.health.v1.Health"`) {
				continue // mayfly does not count these requests
			}
			slices.Sort(labels)
			kind := strings.ToLower(f.GetType().String())
			if name == "fulcio_new_certs" && kind == "untyped" {
				kind = "counter"
			}
			series := fmt.Sprintf("%s %s{%s}", kind, name, strings.Join(labels, ","))
			if h := m.GetHistogram(); h != nil {
				series += fmt.Sprintf(" with %d buckets", len(h.GetBucket()))
			}
			out[series] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue() +
				float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

// With listen.fulcio_metrics, the metrics of Fulcio have the same names, types, labels and values as in Fulcio after
// the same requests, apart from three: fulcio_new_certs is untyped, so that it keeps its name in the format
// OpenMetrics, and Fulcio also counts requests for its health and trace contexts.
func TestFulcioMetrics(t *testing.T) {
	t.Parallel()
	provider, p := idp.New(t, idp.Options{}), pki.New(pki.Options{})
	s := process.Serve(t, process.Setup{
		PKI: p, Issuer: provider.URL(), Admin: true, Listen: ", fulcio_metrics: true",
	})
	requests := process.Requests(t, provider)
	got := fulcioSeries(t, wireServer{rest: "http://" + s.HTTP, grpc: s.GRPC, metrics: "http://" + s.Admin}, requests)
	golden := filepath.Join("testdata", "fulcio_metrics.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-golden +mayfly)\n%s", diff)
	}
	if path := os.Getenv(fulcioEnv); path != "" {
		theirs := fulcioSeries(t, startFulcio(t, fulcioSetup{path: path, pki: p, issuer: provider.URL()}), requests)
		if diff := cmp.Diff(string(want), theirs); diff != "" {
			t.Errorf("(-golden +Fulcio)\n%s", diff)
		}
	}
	// without the setting there is none of them
	plain := process.Serve(t, process.Setup{PKI: p, Issuer: provider.URL(), Embedded: true, Admin: true})
	if _, page := process.Get(t, "http://"+plain.Admin+"/metrics"); bytes.Contains(page, []byte("\nfulcio_")) ||
		bytes.Contains(page, []byte("\ngrpc_server_")) || bytes.Contains(page, []byte("\nhttp_requests_total")) {
		t.Error("the metrics of Fulcio are served without listen.fulcio_metrics")
	}
	if text := openMetrics(t, s); !strings.Contains(text, "\nfulcio_new_certs 2") {
		t.Error("the name of fulcio_new_certs differs in the format OpenMetrics")
	}
}
