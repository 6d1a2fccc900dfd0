package oidc_test

import (
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc"
)

// The CA's own tokens are verified by their own verifier only, and that one accepts no other tokens: a verifier of an
// issuer file refuses them, and no issuer file can name their issuer.
func TestReserved(t *testing.T) {
	t.Parallel()
	mine, err := oidc.NewReserved(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	token, err := mine.Token("/canary")
	if err != nil {
		t.Fatal(err)
	}
	d, err := mine.Verifier().Identify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	san := identity.SAN{Kind: identity.URI, Value: "https://canary.mayfly.invalid/canary"}
	if d.Identity.SAN != san || d.Identity.Issuer != oidc.ReservedIssuer || d.ProviderKey == "" {
		t.Errorf("%+v", d)
	}
	other, err := oidc.NewReserved(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Verifier().Identify(t.Context(), token); err == nil {
		t.Error("the key of another run verifies the token")
	}
	public, err := oidc.New(oidc.Config{Issuers: map[string]oidc.IssuerConfig{
		"https://a.example.com": entry("email"),
	}}, oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer public.Wait()
	if _, err := public.Identify(t.Context(), token); fault.From(err).Reason != fault.IssuerNotTrusted {
		t.Errorf("a verifier of an issuer file: %v", err)
	}
	for name, c := range map[string]oidc.Config{
		"the issuer":       {Issuers: map[string]oidc.IssuerConfig{oidc.ReservedIssuer: entry("email")}},
		"in capitals":      {Issuers: map[string]oidc.IssuerConfig{"https://Canary.Mayfly.Invalid/x": entry("email")}},
		"the domain":       {Issuers: map[string]oidc.IssuerConfig{"https://mayfly.invalid": entry("email")}},
		"another name":     {Issuers: map[string]oidc.IssuerConfig{"https://trial.mayfly.invalid": entry("email")}},
		"a pattern":        {MetaIssuers: map[string]oidc.IssuerConfig{"https://*.mayfly.invalid": entry("email")}},
		"a narrow pattern": {MetaIssuers: map[string]oidc.IssuerConfig{"https://can*.mayfly.invalid": entry("email")}},
	} {
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), "the CA uses names in mayfly.invalid") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func entry(kind string) oidc.IssuerConfig {
	c := oidc.IssuerConfig{ClientID: "sigstore"}
	c.Type = kind
	return c
}
