package server_test

import (
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/testkit/oracle"
)

// H1 // A11: the older API issues the same certificate, counts its users, and names its successor.
func TestLegacy(t *testing.T) {
	t.Parallel()
	w := newFixture(t, true)
	body, err := json.Marshal(map[string]any{
		"publicKey":          map[string]any{"content": w.spki(), "algorithm": "ecdsa"},
		"signedEmailAddress": w.proof("alice@example.com"),
	})
	must(t, err)
	a := w.rest("POST", "/api/v1/signingCert", string(body), "Authorization", "Bearer "+w.idp.Token(nil), "User-Agent",
		"gitsign/v0.14.0")
	if a.code != 201 || a.header.Get("Content-Type") != "application/pem-certificate-chain" ||
		strings.HasSuffix(a.body, "\n") || a.header.Get("Sct") != "" {
		t.Fatalf("%d %v %s", a.code, a.header, a.body)
	}
	if a.header.Get("Deprecation") == "" || !strings.Contains(a.header.Get("Link"), "</api/v2/signingCert>") {
		t.Errorf("headers %v", a.header)
	}
	leaf, _ := pem.Decode([]byte(a.body))
	oracle.Check(t, w.expect(), leaf.Bytes)

	w.rest("GET", "/api/v1/rootCert", "", "User-Agent", strings.Repeat("x", 3000))
	registry := prometheus.NewRegistry()
	registry.MustRegister(w.srv.Collectors()...)
	families, err := registry.Gather()
	must(t, err)
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "mayfly_server_v1_requests_total" {
			for _, m := range f.GetMetric() {
				got[m.GetLabel()[1].GetValue()+" "+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if len(got) != 2 || got["CreateSigningCertificate gitsign"] != 1 || got["GetRootCertificate other"] != 1 {
		t.Errorf("counted %v", got)
	}
	if !strings.Contains(w.logs.String(), `"user_agent":"gitsign/v0.14.0"`) {
		t.Error("the record does not name the client")
	}
}
