package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/config"
)

// G1 // D7: wrong issuer files. A tilde marks the position that the message must have.
func TestRefusesIssuers(t *testing.T) {
	t.Parallel()
	const head = "oidc-issuers:\n  https://a.example.com:\n    client-id: sigstore\n"
	entry := func(lines ...string) string { return head + "    " + strings.Join(lines, "\n    ") + "\n" }
	for name, c := range map[string]struct{ file, want string }{
		"empty":                {"~", "empty"},
		"a list":               {"~- a", "must be a block of settings"},
		"two documents":        {entry("type: email") + "~---\na: b\n", "second document"},
		"no issuer":            {"~define: [x]\n", "no issuer"},
		"empty list":           {entry("type: email", "email-domains: ~[]"), "is an empty list"},
		"empty text in a list": {entry("type: email", "authorized-parties: [~\"\"]"), "is empty"},
		"empty text":           {entry("type: email", "email-verified: ~\"\""), "is empty"},
		"proxy with a password": {
			entry("type: email", "outbound: {proxy: ~\"http://u:hunter2@proxy:1\"}"),
			"HTTPS_PROXY",
		},
		"token over http": {"oidc-issuers:\n  http://127.0.0.1:1:\n    client-id: x\n    type: email\n    " +
			"outbound: {bearer-token-file: ~identity.yaml}\n", "plain http"},
		"misspelt section":  {"~oidc-isuers: {}\n", `did you mean "oidc-issuers"`},
		"misspelt key":      {entry("~typ: email"), `did you mean "type"`},
		"both spellings":    {entry("type: email", "~Type: email"), "the same setting"},
		"key twice":         {entry("type: email", "~type: email"), "set twice"},
		"issuer twice":      {head + "    type: email\n  ~https://a.example.com:\n    client-id: x\n", "set twice"},
		"no value":          {entry("~type:"), "has no value"},
		"number for a text": {entry("type: email", "description: ~5"), "must be a text"},
		"text for a bool":   {entry("type: email", "skip-email-verification: ~\"true\""), "true or false"},
		"yes for a bool":    {entry("type: email", "skip-email-verification: ~yes"), "true or false"},
		"text for a list":   {entry("type: email", "audiences: ~other"), "must be a list"},
		"no unit":           {entry("type: email", "max-lifetime: ~3600"), "has no unit"},
		"no duration":       {entry("type: email", "max-lifetime: ~a day"), "must be a duration"},
		"uses below 0": {
			entry("type: email", "certificates-per-token: ~-1"), "not a number of certificates",
		},
		"uses above all": {
			entry("type: email", "certificates-per-token: ~1000001"), "not a number of certificates",
		},
		"uses twice": {
			entry("type: email", "certificates-per-token: 1", "single-use: ~true"), "remove one of them",
		},
		"uses without a decision": {
			entry("type: email", "single-use: true", "budget-unavailable: ~perhaps"), "write refuse or issue",
		},
		"decision without uses": {
			entry("type: email", "budget-unavailable: ~issue"), "has no effect",
		},
		"rate of an entry":  {entry("type: email", "rate-limit: {rate: ~0, burst: 5}"), "rate per second"},
		"burst of an entry": {entry("type: email", "identity-rate-limit: {rate: 5, burst: ~-1}"), "at once"},
		"tab":               {head + "~\ttype: email\n", "tab"},
		"type":              {entry("type: ~emial"), "unknown"},
		"no type": {
			"oidc-issuers:\n  ~https://a.example.com:\n    client-id: sigstore\n",
			`type "" is unknown`,
		},
		"no audience": {
			"oidc-issuers:\n  ~https://a.example.com:\n    type: email\n",
			"client-id is missing",
		},
		"audience is empty": {
			"oidc-issuers:\n  https://a.example.com:\n    type: email\n    client-id: ~\"\"\n",
			"client-id is missing",
		},
		"other URL": {entry("type: email", "issuer-url: ~https://a.example.com/"), "is not the key"},
		"http": {strings.ReplaceAll(head, "  https://a.example.com", "  ~http://a.example.com") +
			"    type: email\n", "plain http"},
		"no scheme": {
			"oidc-issuers:\n  ~a.example.com:\n    client-id: x\n    type: email\n",
			"is not a URL",
		},
		"query": {
			"oidc-issuers:\n  ~https://a.example.com?x=1:\n    client-id: x\n    type: email\n",
			"no user, query",
		},
		"user": {
			"oidc-issuers:\n  ~https://u@a.example.com:\n    client-id: x\n    type: email\n",
			"no user, query",
		},
		"star": {
			"oidc-issuers:\n  ~https://*.example.com:\n    client-id: x\n    type: email\n",
			"meta-issuers",
		},
		"pattern of all hosts": {
			"meta-issuers:\n  ~https://*:\n    client-id: x\n    type: email\n",
			"the star matches the registered domain",
		},
		"pattern of a domain": {
			"meta-issuers:\n  ~https://*.co.uk/x:\n    client-id: x\n    type: email\n",
			"the star matches the registered domain",
		},
		"pattern of a part": {
			"meta-issuers:\n  ~https://idp.exam*.com:8443:\n    client-id: x\n    type: email\n",
			"the star matches the registered domain",
		},
		"JSON with a comma": {"{\"OIDCIssuers\": {\"https://a.example.com\": {\"ClientID\": \"x\", " +
			"\"Type\": \"email\",~}}}", "not JSON"},
		"key of JSON":     {head + "    type: email\n    ~SubjectDomain: x\n", "write \"subject-domain\""},
		"section of JSON": {"~OIDCIssuers:\n  https://a.example.com: {}\n", "write \"oidc-issuers\""},
		"issuer of another": {
			entry("type: email", "issuer: ~https://b.example.com"),
			"is not the key of its entry",
		},
		"profile of another name": {
			entry("type: email") +
				"ci-issuer-metadata:\n  p:\n    issuer-name: ~q\n    " +
				"subject-alternative-name-template: https://x/{{.a}}\n",
			"is not the key of its entry",
		},
		"ConfigMap": {"~apiVersion: v1\nkind: ConfigMap\ndata: {config.yaml: x}\n", "under its data:"},
		"claims side by side": {
			entry("type: email") +
				"ci-issuer-metadata:\n  p:\n    subject-alternative-name-template: ~https://x/{{.a}}{{.b}}\n",
			"are adjacent",
		},
		"parameter of a type": {entry("type: buildkite-job", "parameters: {platform_url: ~x}"), "has no parameter"},
		"pattern over http": {
			"meta-issuers:\n  ~http://*.example.com:\n    client-id: x\n    type: email\n",
			"https://",
		},
		"overlap": {"meta-issuers:\n  https://*.example.com/a:\n    client-id: x\n    type: email\n  " +
			"~https://x*.example.com/*:\n    client-id: x\n    type: email\n", "overlaps"},
		"spiffe pattern": {"meta-issuers:\n  https://*.example.com:\n    client-id: x\n    type: ~spiffe\n  " +
			"  spiffe-trust-domain: x\n", "any name of the trust domain"},
		"pattern with keys": {"meta-issuers:\n  https://*.example.com:\n    client-id: x\n    type: email\n    " +
			"~static-keys: {jwks: '{}'}\n", "many issuers"},
		"pattern with token": {"meta-issuers:\n  https://*.example.com:\n    client-id: x\n    type: email\n    " +
			"outbound: {bearer-token-file: ~t}\n", "every host that matches"},
		"issuer-claim":      {entry("type: kubernetes", "issuer-claim: ~$.a"), "is for the type email"},
		"issuer-claim path": {entry("type: email", "issuer-claim: ~$..a"), "path of claim names"},
		"mapped alone": {
			entry("type: email", "mapped-issuers: ~[https://b.example.com]"),
			"issuer-claim is missing",
		},
		"uri without domain":    {strings.Replace(head, "https", "~https", 1) + "    type: uri\n", "subject-domain"},
		"uri without scheme":    {entry("type: uri", "subject-domain: ~example.com"), "scheme and host"},
		"uri of another scheme": {entry("type: uri", "subject-domain: ~http://example.com"), "its own scheme"},
		"uri of another owner":  {entry("type: uri", "subject-domain: ~https://example.org"), "does not belong"},
		"username with scheme": {
			entry("type: username", "subject-domain: ~https://example.com"),
			"without a scheme",
		},
		"username, other owner": {"oidc-issuers:\n  https://a.co.uk:\n    client-id: x\n    type: username\n    " +
			"subject-domain: ~b.co.uk\n", "does not belong"},
		"spiffe domain": {entry("type: spiffe", "spiffe-trust-domain: ~Prod"), "not a trust domain"},
		"ci-provider":   {entry("type: ci-provider", "ci-provider: ~none"), "has no entry"},
		"ci-provider shipped": {
			entry("type: ci-provider", "ci-provider: ~github-workflow"),
			"profile: github-workflow",
		},
		"ci-provider, other type": {entry("type: email", "ci-provider: ~x"), "is for the type ci-provider"},
		"profile":                 {entry("profile: ~github"), "unknown"},
		"profile and type":        {entry("type: email", "profile: ~github-workflow"), "replaces type"},
		"profile, foreign":        {entry("profile: ~github-workflow"), "another provider's host"},
		"parameter": {entry("profile: github-workflow",
			"parameters: {url: \"https://a.example.com\", urll: ~x}"), "no parameter"},
		"parameter, no address": {
			entry("profile: github-workflow", "parameters: {url: ~a.example.com}"),
			"not a URL of a host",
		},
		"parameters alone": {entry("type: email", "~parameters: {url: x}"), "profile is missing"},
		"ca-cert":          {entry("type: email", "ca-cert: ~nonsense"), "no certificate in PEM"},
		"compat":           {entry("type: email", "compat: ~dex"), "write fulcio"},
		"token algorithm": {
			entry("type: email", "token-algorithms: [ES256, ~HS256]"),
			"not a signature algorithm for tokens",
		},
		"key algorithm":  {entry("type: email", "key-algorithms: [~ecdsa]"), "ecdsa"},
		"email-claim":    {entry("type: email", "email-claim: ~upn"), "what counts as verified"},
		"email-verified": {entry("type: email", "email-verified: ~issuer"), "could assert any address"},
		"verified and skipped": {
			entry("type: email", "email-verified: ~x", "skip-email-verification: true"),
			"contradict",
		},
		"email-domains": {entry("type: email", "email-domains: [~example]"), "not a domain"},
		"email-domains, no email": {
			entry("type: kubernetes", "email-domains: ~[example.com]"),
			"is for the type email",
		},
		"own OID": {
			entry("type: email", "custom-extensions: {1.3.6.1.4.1.57264.1.9: ~x}"),
			"Sigstore's",
		},
		"no OID": {
			entry("type: email", "custom-extensions: {2.5.29.17: ~x}"),
			"private enterprise number",
		},
		"custom template": {
			entry("type: email", "custom-extensions: {1.3.6.1.4.1.99999.1: ~\"{{range .x}}\"}"),
			"template",
		},
		"two kinds of keys": {entry("type: email", "~static-keys: {jwks: '{}', file: x}"), "exactly one"},
		"no keys":           {entry("type: email", "static-keys: {jwks: ~'{}'}"), "no usable key"},
		"no key file":       {entry("type: email", "static-keys: {file: ~nothing.json}"), "nothing.json"},
		"keys and discovery": {entry("type: email", "static-keys: {jwks: '{}'}",
			"discovery-url: ~https://b.example.com"), "contradict"},
		"discovery over http": {entry("type: email", "discovery-url: ~http://b.example.com"), "plain http"},
		"exclusive":           {entry("type: email", "outbound: {ca-exclusive: ~true}"), "needs a CA"},
		"no bundle":           {entry("type: email", "outbound: {ca-bundle: ~nothing.pem}"), "nothing.pem"},
		"proxy":               {entry("type: email", "outbound: {proxy: ~proxy}"), "invalid proxy URL"},
		"timeout":             {entry("type: email", "outbound: {timeout: ~1m}"), "5s"},
		"half a pair": {entry("type: email",
			"outbound: {~client-certificate: {certificate: identity.yaml}}"), "both"},
		"rule": {
			entry("type: email", "policy: {rules: [{name: a, allow: ~claims.x}]}"),
			"not a boolean",
		},
		"rule's variable": {
			entry("type: email", "policy: {rules: [{name: a, deny: ~'claim.x == 1'}]}"),
			"undeclared",
		},
		"policy of nothing": {entry("type: email", "~policy: {}"), "without rules"},
		"a test that fails": {
			entry("type: email", "policy:", "  rules: [{name: a, allow: 'claims.sub == \"x\"'}]", "  tests:",
				"    - ~name: x", "      claims: {sub: y, email: a@example.com, email_verified: true}",
				"      expect: allow"),
			"the test x fails",
		},
		"SAN template": {entry("type: email") +
			"ci-issuer-metadata:\n  p:\n    subject-alternative-name-template: ~\"{{ .a | b }}\"\n", "template"},
		"no SAN template": {entry("type: email") +
			"ci-issuer-metadata:\n  ~p:\n    default-template-values: {a: b}\n", "no template for the name"},
		"extension": {entry("type: email") +
			"ci-issuer-metadata:\n  p:\n    subject-alternative-name-template: \"{{.a}}\"\n    " +
			"extension-templates: {build-triger: ~x}\n", "unknown"},
		"shared by aliases": {"define: &e\n  - ~{a: b}\noidc-issuers:\n  https://a.example.com: *e\n", ""},
	} {
		at := strings.IndexByte(c.file, '~')
		line, column := 1+strings.Count(c.file[:max(at, 0)], "\n"), 1
		if at >= 0 {
			column = at - strings.LastIndexByte(c.file[:at], '\n')
		}
		path := write(t, identity+caFile+embedded, strings.Replace(c.file, "~", "", 1))
		_, _, err := config.Load(path)
		if err == nil {
			t.Errorf("%s passes", name)
			continue
		}
		var heads []string
		found := false
		var all config.Problems
		if !errors.As(err, &all) {
			t.Fatalf("%s: %v", name, err)
		}
		for _, p := range all {
			heads = append(heads, p.Head())
			found = found || strings.Contains(p.Head(), c.want) &&
				(p.Line == line && p.Column == column || c.want == "")
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: a password is printed: %v", name, err)
		}
		if !found {
			t.Errorf("%s: want %d:%d and %q in\n%s", name, line, column, c.want, strings.Join(heads, "\n"))
		}
	}
}

// A path in a file is relative to the directory of that file, and the named file is watched.
func TestIssuerPaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "id"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"id/identity.yaml": "oidc-issuers:\n  https://a.example.com:\n    client-id: x\n    type: email\n    " +
			"outbound: {ca-bundle: ca.pem, bearer-token-file: token}\n",
		"id/ca.pem": "-", "id/token": "-",
		"mayfly.yaml": "identity: {file: id/identity.yaml}\nca: {ephemeral: {}}\nct: {none: {reason: x}}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, _, err := config.Load(filepath.Join(dir, "mayfly.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Issuers.Issuers["https://a.example.com"].Outbound.CABundle; got != filepath.Join(dir, "id", "ca.pem") {
		t.Error(got)
	}
	for _, name := range []string{"mayfly.yaml", "id/identity.yaml", "id/ca.pem", "id/token"} {
		if !slices.Contains(c.Files, filepath.Join(dir, name)) {
			t.Errorf("%s is not watched: %v", name, c.Files)
		}
	}
}

// LoadIdentity distinguishes a configuration from an issuer file. Diff names differences by entry and key.
func TestLoadIdentityAndDiff(t *testing.T) {
	t.Parallel()
	path := write(t, identity+caFile+embedded, issuers)
	whole, main, err := config.LoadIdentity(path)
	if err != nil || main == nil {
		t.Fatal(err)
	}
	alone, main, err := config.LoadIdentity(filepath.Join(filepath.Dir(path), "identity.yaml"))
	if err != nil || main != nil {
		t.Fatal(err)
	}
	if d := config.Diff(*whole, *alone); len(d) != 0 {
		t.Errorf("%v", d)
	}
	other := write(t, identity+caFile+embedded,
		"oidc-issuers:\n  https://a.example.com:\n    client-id: other\n    type: email\n    legacy-extensions: "+
			"false\n    max-age: 5m\n"+
			"    policy: {rules: [{name: a, deny: 'false'}]}\n  https://b.example.com: {client-id: x, type: email}\n")
	changed, _, err := config.LoadIdentity(other)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range config.Diff(*whole, *changed) {
		got = append(got, strings.Join([]string{c.Entry, c.Key, c.Old, c.New}, "|"))
	}
	const a, b = "oidc-issuers https://a.example.com|", "oidc-issuers https://b.example.com|"
	want := []string{
		a + "client-id|sigstore|other", a + "issuer-url|https://a.example.com|", a + "legacy-extensions||false",
		a + "max-age||5m0s",
		a + "policy.rules.a.deny||false", a + "policy.rules.a.name||a", b + "||present", b + "client-id||x",
		b + "type||email",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	if _, _, err := config.LoadIdentity(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file loads")
	}
}
