package oidc_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/oidc/claims"
	"github.com/mayfly-ca/mayfly/testkit/idp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// github is the profile of GitHub Actions that Fulcio ships.
var github = claims.ProfileConfig{
	Defaults: map[string]string{"url": "https://github.com", "environment": ""},
	Extensions: map[string]string{
		"github-workflow-trigger": "event_name", "github-workflow-sha": "sha", "github-workflow-name": "workflow",
		"github-workflow-repository": "repository", "github-workflow-ref": "ref",
		"build-signer-uri": "{{ .url }}/{{ .job_workflow_ref }}", "build-signer-digest": "job_workflow_sha",
		"runner-environment":    "runner_environment",
		"source-repository-uri": "{{ .url }}/{{ .repository }}", "source-repository-digest": "sha",
		"source-repository-ref":              "ref",
		"source-repository-identifier":       "repository_id",
		"source-repository-owner-uri":        "{{ .url }}/{{ .repository_owner }}",
		"source-repository-owner-identifier": "repository_owner_id",
		"build-config-uri":                   "{{ .url }}/{{ .workflow_ref }}", "build-config-digest": "workflow_sha",
		"build-trigger": "event_name",
		"run-invocation-uri": "{{ .url }}/{{ .repository }}/actions/runs/{{ .run_id " +
			"}}/attempts/{{ .run_attempt }}",
		"source-repository-visibility-at-signing": "repository_visibility", "deployment-environment": "environment",
	},
	SAN: "{{ .url }}/{{ .job_workflow_ref }}",
}

var workflow = map[string]any{
	"sub": "repo:octo/app:ref:refs/heads/main", "email": nil, "email_verified": nil, "event_name": "push",
	"sha": "abc123", "workflow": "release",
	"repository": "octo/app", "ref": "refs/heads/main",
	"job_workflow_ref": "octo/app/.github/workflows/r.yml@refs/heads/main", "job_workflow_sha": "def456",
	"runner_environment": "github-hosted", "repository_id": 12345678901234567, "repository_owner": "octo",
	"repository_owner_id": "77",
	"workflow_ref":        "octo/app/.github/workflows/r.yml@refs/heads/main", "workflow_sha": "def456", "run_id": "9",
	"run_attempt": 1, "repository_visibility": "public",
}

func verifier(t *testing.T, c oidc.Config, o oidc.Options) *oidc.Verifier {
	t.Helper()
	v, err := oidc.New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Wait)
	return v
}

func email(p *idp.Provider) oidc.Config {
	return oidc.Config{Issuers: map[string]oidc.IssuerConfig{p.URL(): {ClientID: "sigstore", Type: "email"}}}
}

func reason(err error) fault.Reason {
	if err == nil {
		return ""
	}
	return fault.From(err).Reason
}

// D12 // D16: the profile of GitHub Actions maps each claim to its extension, and numbers are written in full.
func TestCIProvider(t *testing.T) {
	t.Parallel()
	p := idp.New(t, idp.Options{})
	v := verifier(t, oidc.Config{
		Issuers:   map[string]oidc.IssuerConfig{p.URL(): {ClientID: "sigstore", Type: "ci-provider", CIProvider: "github-workflow"}},
		Providers: map[string]claims.ProfileConfig{"github-workflow": github},
	}, oidc.Options{})
	d, err := v.Identify(t.Context(), p.Token(workflow))
	if err != nil {
		t.Fatal(err)
	}
	id := d.Identity
	got := map[string]string{
		"san":       id.SAN.Kind.String() + " " + id.SAN.Value,
		"challenge": id.ChallengeClaim + " " + id.Challenge,
	}
	for x := range identity.Known() {
		if s := id.Extensions.Get(x); s != "" {
			got[x.String()] = s
		}
	}
	want := map[string]string{
		"san":       "URI https://github.com/octo/app/.github/workflows/r.yml@refs/heads/main",
		"challenge": "sub repo:octo/app:ref:refs/heads/main",
		"issuer-v1": p.URL(), "issuer": p.URL(), "subject": "repo:octo/app:ref:refs/heads/main",
		"github-workflow-trigger": "push", "github-workflow-sha": "abc123", "github-workflow-name": "release",
		"github-workflow-repository": "octo/app", "github-workflow-ref": "refs/heads/main",
		"build-signer-uri":    "https://github.com/octo/app/.github/workflows/r.yml@refs/heads/main",
		"build-signer-digest": "def456", "runner-environment": "github-hosted",
		"source-repository-uri": "https://github.com/octo/app", "source-repository-digest": "abc123",
		"source-repository-ref":        "refs/heads/main",
		"source-repository-identifier": "12345678901234567", "source-repository-owner-uri": "https://github.com/octo",
		"source-repository-owner-identifier": "77",
		"build-config-uri":                   "https://github.com/octo/app/.github/workflows/r.yml@refs/heads/main",
		"build-config-digest":                "def456", "build-trigger": "push",
		"run-invocation-uri":                      "https://github.com/octo/app/actions/runs/9/attempts/1",
		"source-repository-visibility-at-signing": "public",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, missing := range []string{"job_workflow_ref", "sha", "run_id"} {
		claims := map[string]any{}
		for k, x := range workflow {
			claims[k] = x
		}
		claims[missing] = nil
		_, err := v.Identify(t.Context(), p.Token(claims))
		if f := fault.From(err); reason(err) != fault.ClaimMissing || f.Meta["claim"] != missing {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}

// D2 // D3 // D4 // D5: only the canonical form of a token is accepted.
func TestTokenHygiene(t *testing.T) {
	t.Parallel()
	p := idp.New(t, idp.Options{})
	v := verifier(t, email(p), oidc.Options{})
	good := p.Token(nil)
	parts := strings.Split(good, ".")
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	now := time.Now().Unix()
	twice := fmt.Sprintf(`{"iss":%q,"ISS":"x","aud":"sigstore","sub":"s","email":"a@b.cc","email_verified":true,"iat":%d,"exp":%d}`, p.URL(), now, now+60)
	for name, token := range map[string]string{
		"padded": good + "=", "line end": good + "\n", "space": " " + good, "four parts": good + ".x",
		"two parts":             parts[0] + "." + parts[1],
		"JSON":                  `{"payload":"x","signatures":[]}`,
		"claims differ in case": parts[0] + "." + part(twice) + "." + parts[2],
		"crit":                  part(`{"alg":"ES256","crit":["exp"]}`) + "." + parts[1] + "." + parts[2],
		"b64":                   part(`{"alg":"ES256","b64":false}`) + "." + parts[1] + "." + parts[2],
		"no alg":                part(`{}`) + "." + parts[1] + "." + parts[2],
		"nested": parts[0] + "." +
			part(strings.Repeat(`{"a":`, 20)+"1"+strings.Repeat("}", 20)) + "." + parts[2],
		"bytes after": parts[0] + "." + part(`{"iss":"x"} {}`) + "." + parts[2],
		"not UTF-8":   parts[0] + "." + part("{\"iss\":\"\xff\"}") + "." + parts[2],
	} {
		if _, err := v.Identify(t.Context(), token); reason(err) != fault.TokenMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, token := range map[string]string{ // GHSA-f83f-xpx7-ffpw
		"dots": strings.Repeat(".", 8<<20), "dots at the limit": strings.Repeat(".", 16<<10),
		"long": good + strings.Repeat("A", 16<<10),
	} {
		if _, err := v.Identify(t.Context(), token); reason(err) != fault.TokenTooLarge &&
			reason(err) != fault.TokenMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, alg := range []string{"none", "HS256", "es256", "RS1", "ES384"} {
		token := part(`{"alg":"`+alg+`","kid":"x"}`) + "." + parts[1] + "." + parts[2]
		if _, err := v.Identify(t.Context(), token); reason(err) != fault.AlgorithmNotAllowed {
			t.Errorf("alg %s: %v", alg, err)
		}
	}
}

// E4 // E5 // E7: a new key is accepted at once. A flood of unknown key IDs does not cause a flood of fetches and does
// not delay valid tokens.
func TestRotationAndFlood(t *testing.T) {
	t.Parallel()
	p := idp.New(t, idp.Options{})
	v := verifier(t, email(p), oidc.Options{})
	if _, err := v.Identify(t.Context(), p.Token(nil)); err != nil {
		t.Fatal(err)
	}
	p.Rotate()
	if _, err := v.Identify(t.Context(), p.Token(nil)); err != nil {
		t.Fatalf("after a rotation: %v", err)
	}
	key, _ := p.Key()
	claims := map[string]any{
		"iss": p.URL(), "aud": "sigstore", "sub": "s", "email": "a@example.com",
		"email_verified": true, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
	}
	before := p.Requests()
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			forged := idp.Signing{Key: key, Alg: "ES256", KeyID: fmt.Sprint("unknown-", i)}.Token(claims)
			if _, err := v.Identify(t.Context(), forged); reason(err) != fault.KeyIDUnknown {
				t.Errorf("unknown key: %v", err)
			}
			if _, err := v.Identify(t.Context(), p.Token(nil)); err != nil {
				t.Errorf("good token in the flood: %v", err)
			}
		})
	}
	all.Wait()
	if n := p.Requests() - before; n > 8 {
		t.Errorf("%d requests to the provider", n)
	}
}

// E6: the last good keys stay in use while the provider is unavailable, also after a restart.
func TestLastGoodKeys(t *testing.T) {
	t.Parallel()
	p := idp.New(t, idp.Options{})
	dir := t.TempDir()
	v := verifier(t, email(p), oidc.Options{StateDir: dir})
	if _, err := v.Identify(t.Context(), p.Token(nil)); err != nil {
		t.Fatal(err)
	}
	p.SetFault(idp.NoKeys)
	v.Wait()
	again := verifier(t, email(p), oidc.Options{StateDir: dir})
	if _, err := again.Identify(t.Context(), p.Token(nil)); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	old := verifier(t, email(p), oidc.Options{
		StateDir: dir,
		Now:      func() time.Time { return time.Now().Add(25 * time.Hour) },
	})
	day := time.Now().Add(25 * time.Hour).Unix()
	if _, err := old.Identify(t.Context(), p.Token(map[string]any{
		"iat": day,
		"exp": day + 60,
	})); reason(err) != fault.ProviderUnavailable {
		t.Errorf("a day later: %v", err)
	}
}

// D6 // D7 // D8 // G1: the mistakes in an issuer file that are refused.
func TestCheck(t *testing.T) {
	t.Parallel()
	ok := oidc.IssuerConfig{ClientID: "sigstore", Type: "email"}
	with := func(f func(*oidc.IssuerConfig)) oidc.IssuerConfig {
		c := ok
		f(&c)
		return c
	}
	const u = "https://a.example.com"
	exact := func(k string, r oidc.IssuerConfig) oidc.Config {
		return oidc.Config{Issuers: map[string]oidc.IssuerConfig{k: r}}
	}
	meta := func(keys ...string) oidc.Config {
		c := oidc.Config{MetaIssuers: map[string]oidc.IssuerConfig{}}
		for _, k := range keys {
			c.MetaIssuers[k] = ok
		}
		return c
	}
	for name, c := range map[string]struct {
		config oidc.Config
		want   string
	}{
		"every host":     {meta("https://*"), "the star matches the registered domain"},
		"every domain":   {meta("https://*.com/x"), "the star matches the registered domain"},
		"every co.uk":    {meta("https://idp.*.co.uk"), "the star matches the registered domain"},
		"part of a name": {meta("https://idp.exam*.com:8443"), "the star matches the registered domain"},
		"unlisted":       {meta("https://*.corp.internal", "https://*.internal/x"), ""},
		"pages": {meta("https://*.github.io", "https://oidc.eks.*.amazonaws.com/id/*",
			"https://oidc.prod-aks.azure.com/*", "https://*-oidc.buddyusercontent.com"), ""},
		"no star": {meta("https://idp.example.com/realm"), ""},
		"good":    {exact(u, ok), ""}, "good pattern": {meta("https://*.example.com/id/*"), ""},
		"empty":         {oidc.Config{}, "no issuer"},
		"http":          {exact("http://a.example.com", ok), "plain http"},
		"http insecure": {exact("http://a.example.com", with(func(c *oidc.IssuerConfig) { c.Insecure = true })), ""},
		"loopback":      {exact("http://127.0.0.1:99", ok), ""},
		"other key":     {exact(u, with(func(c *oidc.IssuerConfig) { c.IssuerURL = u + "/" })), "is not the key"},
		"no audience":   {exact(u, with(func(c *oidc.IssuerConfig) { c.ClientID = "" })), "client-id"},
		"type":          {exact(u, with(func(c *oidc.IssuerConfig) { c.Type = "mail" })), "unknown"},
		"no domain":     {exact(u, with(func(c *oidc.IssuerConfig) { c.Type = "spiffe" })), "trust domain"},
		"no profile": {
			exact(u, with(func(c *oidc.IssuerConfig) { c.Type, c.CIProvider = "ci-provider", "x" })),
			"no entry",
		},
		"star":       {exact("https://*.example.com", ok), "meta-issuers"},
		"user":       {exact("https://u@a.example.com", ok), "no user"},
		"path":       {exact(u, with(func(c *oidc.IssuerConfig) { c.IssuerClaim = "$..x" })), "path of claim names"},
		"overlap":    {meta("https://*.example.com/a", "https://x*.example.com/*"), "overlaps"},
		"no overlap": {meta("https://*.example.com/a", "https://*.example.com/b", "https://*.x.example.com/a"), ""},
	} {
		err := c.config.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		var s *fault.Setting
		if err != nil && !errors.As(err, &s) {
			t.Errorf("%s: the error has no place", name)
		}
	}
	for _, template := range []string{
		"{{", "{{.a}", "{{range .a}}{{end}}", "{{.a | html}}", "{{end}}", "{{if eq .a \"b\"}}", "{{template \"x\"}}",
		"{{printf .a}}", "{{.a.b}}",
		"{{define \"x\"}}{{end}}x", "{{$x := .a}}{{$x}}", "{{call .a}}", "{{.}}", "{{eq .a 1}}", "{{printf \"%d\" .a}}",
		"{{printf \"%s\"}}", "{{len .a}}", "{{true}}",
		"{{with .a}}{{.b}}{{end}}", "{{with eq .a \"b\"}}x{{end}}", "{{or .a (eq .b \"c\")}}", "{{eq (not .a) \"b\"}}",
		"{{break}}", "{{block \"x\" .}}{{end}}", "{{index .a \"b\"}}", "{{.A.Method}}", "{{nil}}",
	} {
		c := oidc.Config{
			Issuers: map[string]oidc.IssuerConfig{u: ok},
			Providers: map[string]claims.ProfileConfig{"p": {
				SAN:        "https://x/{{.a}}",
				Extensions: map[string]string{"build-trigger": template},
			}},
		}
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), "template") {
			t.Errorf("template %q: %v", template, err)
		}
	}
}

// D8: a star never matches a separator.
func TestPatterns(t *testing.T) {
	t.Parallel()
	v := verifier(t,
		oidc.Config{MetaIssuers: map[string]oidc.IssuerConfig{"https://oidc.*.example.com/id/*": {
			ClientID: "sigstore",
			Type:     "email",
		}}}, oidc.Options{})
	p := idp.New(t, idp.Options{})
	for iss, known := range map[string]bool{
		"https://oidc.eu-1.example.com/id/AB_9": true, "https://oidc.eu.evil.example.com/id/A": false,
		"https://oidc.eu/x.example.com/id/A": false,
		"https://oidc..example.com/id/A":     false, "https://oidc.eu.example.com/id/": false,
		"https://oidc.eu.example.com/id/A/":   false,
		"https://oidc.eu.example.com/id/A%2f": false, "https://oidc.eu@evil.example.com/id/A": false,
		"xhttps://oidc.eu.example.com/id/A": false,
	} {
		_, err := v.Identify(t.Context(), p.Token(map[string]any{"iss": iss, "aud": "other"}))
		want := fault.IssuerNotTrusted
		if known {
			want = fault.AudienceMismatch // the entry was found
		}
		if reason(err) != want {
			t.Errorf("%s: %v", iss, err)
		}
	}
}

func FuzzIdentify(f *testing.F) {
	v, err := oidc.New(oidc.Config{Issuers: map[string]oidc.IssuerConfig{"http://127.0.0.1:1": {ClientID: "sigstore", Type: "email"}}}, oidc.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(v.Wait)
	f.Add(`{"alg":"RS256"}`, `{"iss":"http://127.0.0.1:1","aud":["sigstore"],"exp":1e10}`)
	f.Add(`{"alg":"none"}`, `{"iss":{}}`)
	f.Fuzz(func(t *testing.T, header, payload string) {
		e := base64.RawURLEncoding.EncodeToString
		if _, err := v.Identify(t.Context(), e([]byte(header))+"."+e([]byte(payload))+".AAAA"); err == nil {
			t.Error("a token without a good signature passes")
		}
	})
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{
		"a", "{{.a}}", `{{index . "b/c"}}`, `{{if eq .a "x"}}y{{else}}z{{end}}`,
		`{{ if (eq (index . "a") "x") }}y{{end}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := oidc.Config{
			Issuers: map[string]oidc.IssuerConfig{"https://a.example.com": {
				ClientID: "x", Type: "ci-provider",
				CIProvider: "p",
			}},
			Providers: map[string]claims.ProfileConfig{"p": {SAN: s}},
		}
		_ = c.Check() // it must return, and not panic
	})
}

func BenchmarkIdentify(b *testing.B) {
	p := idp.New(b, idp.Options{})
	v, err := oidc.New(email(p), oidc.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(v.Wait)
	token := p.Token(nil)
	for b.Loop() {
		if _, err := v.Identify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}
