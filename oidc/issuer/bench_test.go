package issuer

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/mayfly-ca/mayfly/oidc/policy"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// Find among 1,000 entries, 300 of them patterns: below 2 µs, without allocation.
func BenchmarkFind(b *testing.B) {
	t := &Table{exact: map[string]*Entry{}}
	for i := range 700 {
		t.exact[fmt.Sprintf("https://idp-%d.example.com/realms/main", i)] = &Entry{}
	}
	for i := range 300 {
		t.patterns.Add(fmt.Sprintf("https://oidc.*.tenant-%d.example.com/id/*", i), &Entry{})
	}
	for name, iss := range map[string]string{
		"exact":   "https://idp-400.example.com/realms/main",
		"pattern": "https://oidc.eu-west-1.tenant-299.example.com/id/0123456789ABCDEF",
		"unknown": "https://oidc.eu-west-1.tenant-300.example.com/id/0123456789ABCDEF",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				t.Find(iss)
			}
		})
	}
}

// Mapping and policy of a GitHub token with three rules: below 40 µs.
func BenchmarkDecide(b *testing.B) {
	a, err := txtar.ParseFile("../testdata/github-workflow.txtar")
	if err != nil {
		b.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(a.Files[0].Data, &all); err != nil {
		b.Fatal(err)
	}
	const iss = "https://token.actions.githubusercontent.com"
	all["iss"] = iss
	parsed, err := token.ConvertClaims(all)
	if err != nil {
		b.Fatal(err)
	}
	t, err := Config{Issuers: map[string]EntryConfig{iss: {
		ClientID: "sigstore", Profile: "github-workflow",
		Policy: &policy.Config{Rules: []policy.RuleConfig{
			{Name: "owner", Allow: `claims.repository_owner_id == "78"`},
			{Name: "pull-request", Deny: `claims.event_name == "pull_request"`},
			{
				Name:  "workflow",
				Allow: `claims.job_workflow_ref.startsWith("octo/app/.github/workflows/release.yml@refs/heads/")`,
			},
		}},
	}}}.Compile()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := t.Find(iss).Decide(parsed, new(Decision)); err != nil {
			b.Fatal(err)
		}
	}
}
