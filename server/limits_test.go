package server_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/rate"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server"
)

func (w *fixture) limit(r server.Rates) {
	core := *w.core
	core.Rates = r
	w.core = &core
	w.srv.SetCore(w.core)
}

// F8: a source that is over its limit is refused over each transport and each API, before its request is read; the
// refusal names the limit and the true wait. Reads are not limited. A reload with the same value forgets no count.
func TestLimitBySource(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	hour := &rate.Config{Rate: 1. / 3600, Burst: 4}
	w.limit(server.Rates{Source: hour})
	asked := w.idp.Requests()
	for n := range 4 {
		var reason string
		if n%2 == 0 {
			_, err := w.grpc.CreateSigningCertificate(t.Context(), w.message("not a token"))
			reason, _ = reasonOf(err)
		} else {
			reason = w.rest(http.MethodPost, "/api/v2/signingCert", w.body("not a token")).status.Details[0].Reason
		}
		if reason != string(fault.TokenMalformed) {
			t.Fatalf("request %d: %s", n, reason)
		}
	}
	same := *hour
	w.limit(server.Rates{Source: &same}) // as a reload does
	for range 2 {
		_, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(w.idp.Token(nil)))
		if reason, meta := reasonOf(err); reason != string(fault.RateLimited) || meta["limit"] != "source" ||
			status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%v, %v", err, meta)
		}
		for _, path := range []string{"/api/v2/signingCert", "/api/v1/signingCert"} {
			a := w.rest(http.MethodPost, path, strings.Repeat("not JSON", 100), "X-Request-Id", "mine")
			seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
			if a.code != http.StatusTooManyRequests || err != nil || seconds < 3500 || seconds > 3600 ||
				a.status.Details[0].Metadata["limit"] != "source" ||
				a.status.Details[0].Metadata["request_id"] != "mine" {
				t.Errorf("%+v", a)
			}
		}
	}
	if w.idp.Requests() != asked {
		t.Error("the provider was asked for a request that was refused")
	}
	if a := w.rest(http.MethodGet, "/api/v2/trustBundle", ""); a.code != http.StatusOK {
		t.Errorf("a read: %d", a.code)
	}
	if line := `mayfly_limit_refusals_total{entry="",limit="source"} 6`; !strings.Contains(w.metrics(), line) {
		t.Errorf("no %s", line)
	}
	w.limit(server.Rates{Source: &rate.Config{Rate: 10, Burst: 100}})
	_, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(w.idp.Token(nil)))
	must(t, err)
}

// F8: an identity and an issuer entry have their own limits, checked after the token is verified and before the key.
// What one identity is refused does not count for the others of its entry.
func TestLimitByIdentityAndIssuer(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	w.limit(server.Rates{
		Identity: &rate.Config{Rate: 1. / 3600, Burst: 3}, Issuer: &rate.Config{Rate: 1. / 3600, Burst: 5},
	})
	request := func(name string) (string, map[string]string) {
		in := w.message(w.idp.Token(map[string]any{"email": name + "@example.com", "sub": name}))
		in.GetPublicKeyRequest().ProofOfPossession = w.proof(name + "@example.com")
		_, err := w.grpc.CreateSigningCertificate(t.Context(), in)
		return reasonOf(err)
	}
	for n := range 10 {
		reason, meta := request("alice")
		if n < 3 && reason != "" || n >= 3 && (reason != string(fault.RateLimited) || meta["limit"] != "identity") {
			t.Fatalf("request %d: %s %v", n, reason, meta)
		}
	}
	for _, name := range []string{"bob", "carol"} {
		if reason, _ := request(name); reason != "" {
			t.Errorf("%s: %s", name, reason)
		}
	}
	if reason, meta := request("dave"); reason != string(fault.RateLimited) || meta["limit"] != "issuer" {
		t.Errorf("%s %v", reason, meta)
	}
	// A token that is not valid counts for nobody.
	in := w.message(w.idp.Token(map[string]any{"aud": "other"}))
	if _, err := w.grpc.CreateSigningCertificate(t.Context(), in); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	metrics := w.metrics()
	for _, line := range []string{
		`mayfly_limit_refusals_total{entry="` + w.idp.URL() + `",limit="identity"} 7`,
		`mayfly_limit_refusals_total{entry="` + w.idp.URL() + `",limit="issuer"} 1`,
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("no %s", line)
		}
	}
	if lines := strings.Count(w.logs.String(), `"reason":"RATE_LIMITED"`); lines == 0 || lines > 4 {
		t.Errorf("%d lines of the log about 8 refusals", lines)
	}
}

// F8: an issuer entry can have limits of its own.
func TestLimitsOfAnEntry(t *testing.T) {
	t.Parallel()
	w := newFixtureWith(t, false, func(c *oidc.IssuerConfig) {
		c.Type, c.RateLimit = "email", &rate.Config{Rate: 1. / 3600, Burst: 2}
		c.IdentityRateLimit = &rate.Config{Rate: 1. / 3600, Burst: 1}
	})
	w.limit(server.Rates{
		Identity: &rate.Config{Rate: 1000, Burst: 1000},
		Issuer:   &rate.Config{Rate: 1000, Burst: 1000},
	})
	var got []string
	for _, name := range []string{"alice", "alice", "bob", "carol"} {
		in := w.message(w.idp.Token(map[string]any{"email": name + "@example.com", "sub": name}))
		in.GetPublicKeyRequest().ProofOfPossession = w.proof(name + "@example.com")
		_, err := w.grpc.CreateSigningCertificate(t.Context(), in)
		_, meta := reasonOf(err)
		got = append(got, meta["limit"])
	}
	if text := strings.Join(got, ","); text != ",identity,,issuer" {
		t.Error(text)
	}
}

// metrics returns the metrics of the server as text.
func (w *fixture) metrics() string {
	registry := prometheus.NewRegistry()
	registry.MustRegister(w.srv.Collectors()...)
	return httpGet(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), "/metrics").Body.String()
}
