package oidc_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc"
)

var update = flag.Bool("update", false, "write the golden files")

// golden is an entry whose mapping is recorded in a file of testdata: claims, and the identity or the refusal that they
// give.
type golden struct {
	file   string // testdata/FILE.txtar
	want   string // suffix of the results in the file, if several entries share the claims
	issuer string
	config oidc.IssuerConfig
	cases  []string // nil: all
}

func goldens() []golden {
	shipped := func(name, issuer string, parameters map[string]string) golden {
		return golden{
			file: name, want: "profile", issuer: issuer,
			config: oidc.IssuerConfig{Profile: name, Parameters: parameters},
		}
	}
	typed := func(name, issuer string, c oidc.IssuerConfig) golden {
		if c.Type == "" {
			c.Type = name
		}
		return golden{file: name, want: "type", issuer: issuer, config: c}
	}
	return []golden{
		shipped("github-workflow", "https://token.actions.githubusercontent.com", nil),
		{
			file: "github-workflow", want: "enterprise-server", issuer: "https://ghes.example.com/_services/token",
			config: oidc.IssuerConfig{
				Profile:    "github-workflow",
				Parameters: map[string]string{"url": "https://ghes.example.com/"},
			},
			cases: []string{"push", "url-claim"},
		},
		{
			file: "github-workflow", want: "fulcio-rules", issuer: "https://token.actions.githubusercontent.com",
			config: oidc.IssuerConfig{Profile: "github-workflow", Compat: "fulcio"},
			cases:  []string{"dots", "empty-ref"},
		},
		typed("github-workflow", "https://token.actions.githubusercontent.com", oidc.IssuerConfig{}),
		shipped("gitlab-pipeline", "https://gitlab.com", nil),
		typed("gitlab-pipeline", "https://gitlab.com", oidc.IssuerConfig{}),
		shipped("codefresh-workflow", "https://oidc.codefresh.io", nil),
		typed("codefresh-workflow", "https://oidc.codefresh.io", oidc.IssuerConfig{}),
		shipped("buildkite-job", "https://agent.buildkite.com", nil),
		typed("buildkite-job", "https://agent.buildkite.com", oidc.IssuerConfig{}),
		shipped("circleci-job", "https://oidc.circleci.com", nil),
		shipped("buddy-pipeline", "https://oidc.buddyusercontent.com", nil),
		shipped("azure-pipelines", "https://vstoken.dev.azure.com/11111111-1111-1111-1111-111111111111",
			map[string]string{"url": "https://dev.azure.com/example"}),
		shipped("bitbucket-pipelines", "https://api.bitbucket.org/2.0/workspaces/acme/pipelines-config/identity/oidc",
			nil),
		shipped("jenkins", "https://jenkins.example.com/oidc", map[string]string{"url": "https://jenkins.example.com"}),
		shipped("google-cloud-service-account", "https://accounts.google.com", nil),
		shipped("aws-identity", "https://0a1b2c3d.tokens.sts.global.api.aws", nil),
		shipped("hcp-terraform", "https://app.terraform.io", nil),
		typed("email", "https://accounts.example.com", oidc.IssuerConfig{}),
		{
			file: "email", want: "skip", issuer: "https://accounts.example.com",
			config: oidc.IssuerConfig{Type: "email", SkipEmailVerification: true},
			cases:  []string{"unverified", "odd"},
		},
		typed("email-federated", "https://dex.example.com",
			oidc.IssuerConfig{
				Type: "email", IssuerClaim: "$.federated_claims.connector_id",
				MappedIssuers: []string{"https://accounts.google.com"},
			}),
		typed("email-upn", "https://adfs.example.com",
			oidc.IssuerConfig{
				Type: "email", EmailClaim: "upn", EmailVerified: "issuer",
				EmailDomains: []string{"Corp.example.com"},
			}),
		typed("uri", "https://issuer.example.com", oidc.IssuerConfig{SubjectDomain: "https://example.com"}),
		{
			file: "uri", want: "fulcio-rules", issuer: "https://issuer.example.com",
			config: oidc.IssuerConfig{Type: "uri", SubjectDomain: "https://example.com", Compat: "fulcio"},
			cases:  []string{"user", "port"},
		},
		typed("username", "https://issuer.example.com", oidc.IssuerConfig{SubjectDomain: "example.com"}),
		typed("spiffe", "https://spire.example.com", oidc.IssuerConfig{SPIFFETrustDomain: "prod.example.com"}),
		typed("kubernetes", "https://kubernetes.example.com", oidc.IssuerConfig{}),
		{
			file: "kubernetes", want: "fulcio-rules", issuer: "https://kubernetes.example.com",
			config: oidc.IssuerConfig{Type: "kubernetes", Compat: "fulcio"}, cases: []string{"no-namespace", "absent"},
		},
		typed("chainguard-identity", "https://issuer.enforce.dev", oidc.IssuerConfig{}),
	}
}

// D11 // D12 // D14 // D15 // D16 // D17 // D21 // A17: the mapping of every type and of every shipped profile gives
// the recorded results.
func TestGolden(t *testing.T) {
	t.Parallel()
	files := map[string]*txtar.Archive{}
	profiles := map[string]bool{}
	for _, g := range goldens() {
		profiles[g.config.Profile] = true
		path := filepath.Join("testdata", g.file+".txtar")
		if files[path] == nil {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files[path] = a
		}
		g.config.ClientID = "sigstore"
		e, err := oidc.NewExplainer(oidc.Config{Issuers: map[string]oidc.IssuerConfig{g.issuer: g.config}})
		if err != nil {
			t.Fatalf("%s %s: %v", g.file, g.want, err)
		}
		for _, f := range slices.Clone(files[path].Files) {
			name, isClaims := strings.CutSuffix(f.Name, ".json")
			if !isClaims || g.cases != nil && !slices.Contains(g.cases, name) {
				continue
			}
			var c map[string]any
			if err := json.Unmarshal(f.Data, &c); err != nil {
				t.Fatalf("%s %s: %v", path, name, err)
			}
			c = maps.Clone(c)
			c["iss"] = g.issuer
			got := answer(e.Decide(c))
			answers := name + "." + g.want
			if *update {
				set(files[path], answers, got)
			} else if d := cmp.Diff(get(files[path], answers), got); d != "" {
				t.Errorf("%s %s: %s", path, answers, d)
			}
		}
	}
	for _, p := range oidc.Profiles() {
		if !profiles[p.Name] {
			t.Errorf("the shipped profile %s has no golden file", p.Name)
		}
	}
	if *update {
		for path, a := range files {
			if err := os.WriteFile(path, txtar.Format(a), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func answer(d oidc.Decision, err error) string {
	if err != nil {
		f := fault.From(err)
		return fmt.Sprintln("refused", f.Reason, f.Meta["claim"])
	}
	id := d.Identity
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\nproof over %s: %s\n", id.SAN.Kind, id.SAN.Value, id.ChallengeClaim, id.Challenge)
	for x := range identity.Known() {
		if v := id.Extensions.Get(x); v != "" {
			fmt.Fprintf(&b, ".%d %s: %s\n", x, x, v)
		}
	}
	return b.String()
}

func get(a *txtar.Archive, name string) string {
	for _, f := range a.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

// set replaces a result, or inserts it after the claims that it belongs to.
func set(a *txtar.Archive, name, data string) {
	claims, _, _ := strings.Cut(name, ".")
	at := 0
	for i := range a.Files {
		if a.Files[i].Name == name {
			a.Files[i].Data = []byte(data)
			return
		}
		if strings.HasPrefix(a.Files[i].Name, claims+".") {
			at = i + 1
		}
	}
	a.Files = slices.Insert(a.Files, at, txtar.File{Name: name, Data: []byte(data)})
}
