package issuer

import (
	"testing"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc/claims"
	"github.com/mayfly-ca/mayfly/oidc/policy"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// A17 // D12: for arbitrary verified claims, every type returns an error or an identity that a certificate can carry.
func FuzzClaims(f *testing.F) {
	f.Add(`{"sub":"s","email":"a@example.com","email_verified":true}`)
	f.Add(`{"sub":"https://example.com/x","kubernetes.io":{"namespace":"a","serviceaccount":{"name":"b"}},"organization_slug":"o","pipeline_slug":"p"}`)
	f.Add(`{"sub":"spiffe://td/a","team":"x","job_workflow_ref":"%","repository":"a/b","act":{"a":"b"}}`)
	const iss = "https://issuer.example.com"
	var entries []*Entry
	add := func(c EntryConfig) {
		c.ClientID = "x"
		c.CustomExtensions = map[string]string{"1.3.6.1.4.1.99999.1": `{{index . "team"}}`}
		c.Policy = &policy.Config{Rules: []policy.RuleConfig{{Name: "a", Allow: `claims.sub != "never"`}}}
		t, err := Config{Issuers: map[string]EntryConfig{iss: c}}.Compile()
		if err != nil {
			f.Fatal(err)
		}
		entries = append(entries, t.Find(iss))
	}
	for _, compat := range []string{"", "fulcio"} {
		for _, name := range claims.Types() {
			if name != "ci-provider" {
				add(EntryConfig{Type: name, SubjectDomain: map[string]string{
					"uri":      "https://example.com",
					"username": "example.com",
				}[name], SPIFFETrustDomain: "td", Compat: compat})
			}
		}
		for _, p := range claims.Profiles() {
			parameters := map[string]string{}
			for name := range p.Parameters {
				parameters[name] = "https://ci.example.com"
			}
			add(EntryConfig{Profile: p.Name, Parameters: parameters, Compat: compat})
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := token.DecodeClaims([]byte(text))
		if err != nil {
			return
		}
		c["iss"] = iss
		for _, e := range entries {
			var d Decision
			if e.Decide(c, &d) != nil {
				continue
			}
			der, err := d.Identity.Marshal()
			if err != nil || len(der) == 0 {
				t.Errorf("%s: %v", e.Config.Type, err)
			}
			if d.Identity.SAN.Kind != identity.Email && d.Identity.SAN.Value == "" {
				t.Errorf("%s: no name", e.Config.Type)
			}
		}
	})
}
