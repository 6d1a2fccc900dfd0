package server_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/oidc/policy"
	"github.com/mayfly-ca/mayfly/testkit/oracle"
)

// A10 // A17 // D12: a name that is neither an e-mail address nor a URI, with extensions of the operator and without
// the old ones, is issued through the server and accepted by the oracle.
func TestIdentitiesInCertificates(t *testing.T) {
	t.Parallel()
	w := newFixtureWith(t, true, func(c *oidc.IssuerConfig) {
		off := false
		c.Type, c.SubjectDomain, c.LegacyExtensions = "username", "127.0.0.1", &off
		c.CustomExtensions = map[string]string{
			"1.3.6.1.4.1.99999.1.10": "{{.team}}/{{.sub}}",
			"1.3.6.1.4.1.99999.1.2":  "team", "1.3.6.1.4.1.99999.2": `{{index . "absent"}}`,
		}
	})
	token := w.idp.Token(map[string]any{"sub": "élise", "team": "release"})
	var request map[string]any
	must(t, json.Unmarshal([]byte(w.body(token)), &request))
	request["publicKeyRequest"].(map[string]any)["proofOfPossession"] = w.proof("élise")
	body, err := json.Marshal(request)
	must(t, err)
	a := w.rest(http.MethodPost, "/api/v2/signingCert", string(body))
	if a.code != http.StatusOK {
		t.Fatalf("%d %s", a.code, a.body)
	}
	want := w.expect()
	want.Email, want.OtherName = "", "élise!127.0.0.1"
	want.Extensions = map[string]string{"8": w.idp.URL(), "24": "élise"}
	want.Custom = map[string]string{"1.3.6.1.4.1.99999.1.2": "release", "1.3.6.1.4.1.99999.1.10": "release/élise"}
	var got struct {
		Signed struct {
			Chain struct{ Certificates []string }
		} `json:"signedCertificateEmbeddedSct"`
	}
	must(t, json.Unmarshal([]byte(a.body), &got))
	oracle.Check(t, want, leafOf(t, got.Signed.Chain.Certificates))
}

// A refusal by the policy of an issuer is 403 with the name of the rule; a key that the issuer entry does not permit is
// 400.
func TestIssuerRules(t *testing.T) {
	t.Parallel()
	w := newFixtureWith(t, false, func(c *oidc.IssuerConfig) {
		c.Type = "email"
		c.Policy = &policy.Config{Rules: []policy.RuleConfig{
			{Name: "no-bob", Deny: `claims.email.startsWith("bob@")`},
			{Name: "no-alice", Deny: `san == "alice@example.com"`, Shadow: true},
		}}
	})
	a := w.rest(http.MethodPost, "/api/v2/signingCert", w.body(w.idp.Token(map[string]any{"email": "bob@example.com"})))
	if a.code != http.StatusForbidden || a.status.Code != 7 || len(a.status.Details) != 1 ||
		a.status.Details[0].Reason != "POLICY_DENIED" || a.status.Details[0].Metadata["rule"] != "no-bob" {
		t.Errorf("%d %s", a.code, a.body)
	}
	if a := w.rest(http.MethodPost, "/api/v2/signingCert", w.body(w.idp.Token(nil))); a.code != http.StatusOK {
		t.Errorf("%d %s", a.code, a.body)
	}
	if text := w.logs.String(); !strings.Contains(text, `"rule":"no-bob"`) ||
		!strings.Contains(text, `"would_refuse":"no-alice"`) {
		t.Errorf("the log does not name the rules: %s", text)
	}
	w = newFixtureWith(t, false, func(c *oidc.IssuerConfig) { c.Type, c.KeyAlgorithms = "email", []string{"ed25519"} })
	a = w.rest(http.MethodPost, "/api/v2/signingCert", w.body(w.idp.Token(nil)))
	if a.code != http.StatusBadRequest || a.status.Details[0].Reason != "KEY_ALGORITHM_NOT_ALLOWED" {
		t.Errorf("%d %s", a.code, a.body)
	}
}
