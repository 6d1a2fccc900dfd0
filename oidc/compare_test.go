package oidc_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/oidc"
)

// A comparison says for each token who gains a certificate, who loses it, and which parts of a certificate change.
func TestCompare(t *testing.T) {
	t.Parallel()
	explainer := func(key string, c oidc.IssuerConfig) *oidc.Explainer {
		e, err := oidc.NewExplainer(oidc.Config{Issuers: map[string]oidc.IssuerConfig{key: c}})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	const url = "https://idp.example.com"
	email := explainer(url, oidc.IssuerConfig{ClientID: "sigstore", Type: "email"})
	other := explainer("https://other.example.com", oidc.IssuerConfig{ClientID: "sigstore", Type: "email"})
	audience := explainer(url, oidc.IssuerConfig{ClientID: "another", Type: "email"})
	claims := map[string]any{
		"iss": url, "aud": "sigstore", "sub": "1", "email": "a@example.com",
		"email_verified": true,
	}
	for name, c := range map[string]struct {
		before, after *oidc.Explainer
		want          oidc.DecisionChange
	}{
		"alike": {email, email, oidc.DecisionChange{Old: "a@example.com", New: "a@example.com"}},
		"gains": {other, email, oidc.DecisionChange{
			Change: "gains", Old: "ISSUER_NOT_TRUSTED " + url, New: "a@example.com",
		}},
		"loses": {email, other, oidc.DecisionChange{
			Change: "loses", Old: "a@example.com", New: "ISSUER_NOT_TRUSTED " + url,
		}},
		"reason": {other, audience, oidc.DecisionChange{
			Change: "reason", Old: "ISSUER_NOT_TRUSTED " + url, New: "AUDIENCE_MISMATCH sigstore another",
		}},
	} {
		if diff := cmp.Diff(c.want, oidc.Compare(c.before, c.after, claims)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}
