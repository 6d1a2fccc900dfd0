package server_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/fault"
)

// sloCounts has the values of mayfly_slo_requests_total, and how many certificates the histogram has.
func (w *fixture) sloCounts(t *testing.T) (counts map[string]int, issued int) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(w.srv.Collectors()...)
	families, err := registry.Gather()
	must(t, err)
	counts = map[string]int{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			switch f.GetName() {
			case "mayfly_slo_requests_total":
				counts[m.GetLabel()[0].GetValue()] = int(m.GetCounter().GetValue())
			case "mayfly_slo_issued_seconds":
				issued = int(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return counts, issued
}

// Each request for a certificate counts once, by whose fault it is that there is none, over each transport and API.
// Reads do not count.
func TestServiceLevel(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	step := func(want fault.Party, n, certificates int, f func()) {
		t.Helper()
		before, issuedBefore := w.sloCounts(t)
		f()
		after, issued := w.sloCounts(t)
		for party, count := range after {
			expected := 0
			if party == string(want) {
				expected = n
			}
			if count-before[party] != expected {
				t.Errorf("%d requests more with the fault %s, want %d", count-before[party], party, expected)
			}
		}
		if issued-issuedBefore != certificates || len(after) != 8 {
			t.Errorf("%d certificates more, want %d; the counts are %v", issued-issuedBefore, certificates, after)
		}
	}
	v1, err := json.Marshal(map[string]any{
		"publicKey":          map[string]any{"content": w.spki()},
		"signedEmailAddress": w.proof("alice@example.com"),
	})
	must(t, err)
	ask := func(token string) {
		_, _ = w.grpc.CreateSigningCertificate(t.Context(), w.message(token))
		w.rest(http.MethodPost, "/api/v2/signingCert", w.body(token))
		w.rest(http.MethodPost, "/api/v1/signingCert", string(v1), "Authorization", "Bearer "+token)
	}
	good := w.idp.Token(nil)
	step("none", 3, 3, func() { ask(good) })
	step(fault.PartyCaller, 3, 0, func() { ask("no token") })
	step("", 0, 0, func() {
		w.rest(http.MethodGet, "/api/v2/trustBundle", "")
		w.rest(http.MethodGet, "/api/v2/configuration", "")
	})
	here := withSource(t.Context(), "127.0.0.1")
	for range capacity {
		must(t, w.admission.Acquire(here))
	}
	step(fault.PartyUs, 3, 0, func() { ask(good) })
	for range capacity {
		w.admission.Release(here)
	}
	w.srv.SetNotReady("a test")
	step(fault.PartyUs, 3, 0, func() { ask(good) })
	if text := w.logs.String(); !strings.Contains(text, "NOT_READY") {
		t.Error(text)
	}
}
