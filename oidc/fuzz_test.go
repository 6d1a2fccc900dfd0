package oidc

import (
	"encoding/json"
	"testing"

	"github.com/mayfly-ca/mayfly/identity"
)

// E10: whatever a provider serves as keys is an error or keys that may verify.
func FuzzKeys(f *testing.F) {
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"1"}]}`)
	f.Add(`{"issuer":"https://a","jwks_uri":"https://a/keys","id_token_signing_alg_values_supported":["none","RS256"]}`)
	f.Add(`{"keys":[{"kty":"oct","k":"AA"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		set, err := parseKeys([]byte(text))
		if err == nil && len(set.keys) == 0 {
			t.Error("no key and no error")
		}
		for _, k := range set.keys {
			if weakness(k.Key) != "" || !k.IsPublic() || k.Use == "enc" {
				t.Errorf("%+v", k)
			}
		}
		if d, err := parseDiscovery([]byte(text), "https://a"); err == nil && (d.Issuer != "https://a" || len(d.Algorithms) == 0) {
			t.Errorf("%+v", d)
		}
	})
}

// D5: an object that is read without complaint is what the standard library reads.
func FuzzObject(f *testing.F) {
	f.Add(`{"a":1,"b":[true,null,{"c":"x"}]}`)
	f.Add(`{"a":1,"A":2}`)
	f.Add(`{"a":{"a":{"a":{}}}} `)
	f.Fuzz(func(t *testing.T, text string) {
		got, unclean, err := parseObject([]byte(text))
		if err != nil || unclean != nil {
			return
		}
		var want map[string]any
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		a, errA := json.Marshal(got)
		b, errB := json.Marshal(want)
		if errA != nil || errB != nil || len(got) != len(want) || len(a) == 0 || len(b) == 0 {
			t.Errorf("%q: %s, %s", text, a, b)
		}
	})
}

// A17 // D12: whatever verified claims hold, every type gives an error or an identity that a certificate carries.
func FuzzClaims(f *testing.F) {
	f.Add(`{"sub":"s","email":"a@example.com","email_verified":true}`)
	f.Add(`{"sub":"https://example.com/x","kubernetes.io":{"namespace":"a","serviceaccount":{"name":"b"}},"organization_slug":"o","pipeline_slug":"p"}`)
	f.Add(`{"sub":"spiffe://td/a","team":"x","job_workflow_ref":"%","repository":"a/b","act":{"a":"b"}}`)
	const iss = "https://issuer.example.com"
	var rows []*row
	add := func(c IssuerConfig) {
		c.ClientID = "x"
		c.CustomExtensions = map[string]string{"1.3.6.1.4.1.99999.1": `{{index . "team"}}`}
		c.Policy = &PolicyConfig{Rules: []RuleConfig{{Name: "a", Allow: `claims.sub != "never"`}}}
		t, err := Config{Issuers: map[string]IssuerConfig{iss: c}}.compile()
		if err != nil {
			f.Fatal(err)
		}
		rows = append(rows, t.exact[iss])
	}
	for _, compat := range []string{"", "fulcio"} {
		for _, name := range Types() {
			if name != "ci-provider" {
				add(IssuerConfig{Type: name, SubjectDomain: map[string]string{"uri": "https://example.com", "username": "example.com"}[name], SPIFFETrustDomain: "td", Compat: compat})
			}
		}
		for _, p := range Profiles() {
			parameters := map[string]string{}
			for name := range p.Parameters {
				parameters[name] = "https://ci.example.com"
			}
			add(IssuerConfig{Profile: p.Name, Parameters: parameters, Compat: compat})
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, unclean, err := parseObject([]byte(text))
		if err != nil || unclean != nil {
			return
		}
		c["iss"] = iss
		for _, r := range rows {
			var d Decision
			if r.decide(c, &d) != nil {
				continue
			}
			der, err := d.Identity.Marshal()
			if err != nil || len(der) == 0 {
				t.Errorf("%s: %v", r.config.Type, err)
			}
			if d.Identity.SAN.Kind != identity.Email && d.Identity.SAN.Value == "" {
				t.Errorf("%s: no name", r.config.Type)
			}
		}
	})
}
