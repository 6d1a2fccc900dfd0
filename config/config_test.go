package config_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

const issuers = `oidc-issuers:
  https://a.example.com:
    issuer-url: https://a.example.com
    client-id: sigstore
    type: email
`

// write makes a folder with a CA, an issuer file and the given configuration, and returns the configuration's path.
func write(t testing.TB, text, identity string) string {
	t.Helper()
	dir := t.TempDir()
	p := pki.New(pki.Options{})
	for name, data := range map[string][]byte{
		"chain.pem": p.ChainPEM(), "key.pem": p.KeyPEM(), "ct.pem": []byte("-"), "identity.yaml": []byte(identity),
		"mayfly.yaml": []byte(text),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "mayfly.yaml")
}

const (
	caFile   = "ca:\n  file: {chain: chain.pem, key: key.pem}\n"
	identity = "identity:\n  file: identity.yaml\n"
	embedded = "ct:\n  embedded: {dir: ct, origin: x.example.com/ct}\n"
)

// A complete configuration loads, and each value is in its field.
func TestLoad(t *testing.T) {
	t.Parallel()
	path := write(t, `listen:
  http: "127.0.0.1:0"
  grpc: off
identity:
  file: identity.yaml
ca:
  file:
    chain: chain.pem
    key: key.pem
    password: {env: NAME}
  backdate: 10s
  trust: [chain.pem]
client_algorithms: [ed25519]
ct:
  logs:
    - {name: lab, url: "https://ct.example.com/2026", public_key: ct.pem, origin: o, monitoring_url: "https://read.example.com/2026", operator: us, not_before: 2026-01-01, not_after: "2027-01-01T00:00:00Z"}
  embedded: {dir: ct, origin: x.example.com/ct}
  policy: {min_scts: 2}
state_dir: state
production: true
`, issuers)
	c, warnings, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	if c.Listen.HTTP != "127.0.0.1:0" || c.Listen.GRPC != config.Off || c.Listen.Admin != config.DefaultAdmin ||
		c.CA.BackdateOrDefault().Seconds() != 10 ||
		c.CA.File.Key != filepath.Join(dir, "key.pem") || c.CT.Policy.MinSCTs != 2 ||
		c.CT.Logs[0].PublicKey != filepath.Join(dir, "ct.pem") ||
		c.CT.Embedded.Dir != filepath.Join(dir, "ct") || c.StateDir != filepath.Join(dir, "state") ||
		len(c.Issuers.Issuers) != 1 || len(c.Digest) != 64 {
		t.Errorf("%+v", c)
	}
	if len(warnings) != 2 || !strings.Contains(warnings[0].String(), "the journal is missing") ||
		!strings.Contains(warnings[1].String(), "the auditor cannot tell") {
		t.Errorf("warnings %v", warnings)
	}
}

// G1: Fulcio's issuer files load unchanged: anchors, define lists, aliases as keys, and JSON.
func TestFulcioFiles(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{
		"anchors": `define:
  - &type "github-workflow"
oidc-issuers:
  https://token.actions.githubusercontent.com:
    issuer-url: https://token.actions.githubusercontent.com
    client-id: sigstore
    type: ci-provider
    ci-provider: *type
    contact: a@example.com
    description: "x"
    environment: "production"
ci-issuer-metadata:
  *type:
    default-template-values:
      url: "https://github.com"
    extension-templates:
      build-trigger: "event_name"
    subject-alternative-name-template: "{{ .url }}/{{ .job_workflow_ref }}"
`,
		"JSON": `{"OIDCIssuers": {"https://a.example.com": {"IssuerURL": "https://a.example.com", "ClientID": "sigstore", "Type": "email", "IssuerClaim": "$.federated_claims.connector_id"}},
 "MetaIssuers": {"https://*.example.com": {"ClientID": "sigstore", "Type": "ci-provider", "CiProvider": "p"}},
 "CIIssuerMetadata": {"p": {"DefaultTemplateValues": {"a": "https:\/\/x", "b": "\ud83d\ude00 \\ \u00e9", "c": ""}, "ExtensionTemplates": {"BuildTrigger": "event"}, "SubjectAlternativeNameTemplate": "https://x/{{.a}}"}}}`,
	} {
		if _, _, err := config.Load(write(t, identity+caFile+embedded, file)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// G1 // G2: each mistake is reported with file, line and column, and with the correction.
func TestRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text, issuers string
		at, want      string
	}{
		"empty":       {"", issuers, "mayfly.yaml:1", ""},
		"no YAML":     {"a: [", issuers, "mayfly.yaml:1", ""},
		"unknown key": {"identiy: {}\n" + identity + caFile + embedded, issuers, "mayfly.yaml:1:1", "identity"},
		"key twice":   {identity + identity + caFile + embedded, issuers, "mayfly.yaml:3:1", ""},
		"no CA":       {identity + embedded, issuers, "mayfly.yaml:", "ca"},
		"canary too often": {
			identity + caFile + embedded + "canary:\n  interval: 1s\n", issuers, "mayfly.yaml:8:13", "10s to 24h",
		},
		"canary without a log": {
			identity + caFile + "ct: {none: {reason: x}}\ncanary: {}\n", issuers, "mayfly.yaml:",
			"needs a transparency log",
		},
		"a served repository elsewhere": {
			identity + caFile + embedded + "publish: {tuf: {url: https://x, root: chain.pem, serve: true}}\n", issuers,
			"mayfly.yaml:", "serve and update apply only to dir",
		},
		"a log without its key": {
			identity + caFile + embedded + "publish: {rekor: [{url: https://x}]}\n", issuers,
			"mayfly.yaml:7:", "public_key",
		},
		"a log over http": {
			identity + caFile + embedded + "publish: {rekor: [{url: http://x, public_key: chain.pem}]}\n", issuers,
			"mayfly.yaml:7:", "http on loopback only",
		},
		"an authority without its chain": {
			identity + caFile + embedded + "publish: {tsa: [{url: https://x}]}\n", issuers, "mayfly.yaml:7:", "chain",
		},
		"an authority that ends before it begins": {
			identity + caFile + embedded +
				"publish: {tsa: [{url: https://x, chain: chain.pem, not_before: 2026-02-01, " +
				"not_after: 2026-01-01}]}\n", issuers, "mayfly.yaml:7:", "not_after is not after not_before",
		},
		"two backends": {
			identity + "ca:\n  ephemeral: {}\n  file: {chain: chain.pem, key: key.pem}\n" + embedded,
			issuers, "mayfly.yaml:3:1", "more than one",
		},
		"backend of later": {identity + "ca:\n  googlecas: {}\n" + embedded, issuers, "mayfly.yaml:4", "googlecas"},
		"missing file": {
			identity + "ca:\n  file: {chain: nothing.pem, key: key.pem}\n" + embedded, issuers,
			"mayfly.yaml:4:17", "nothing.pem",
		},
		"backdate":    {identity + caFile + "  backdate: 2m\n" + embedded, issuers, "mayfly.yaml:5:13", "40s"},
		"no duration": {identity + caFile + "  backdate: soon\n" + embedded, issuers, "mayfly.yaml:5:13", ""},
		"no log":      {identity + caFile, issuers, "mayfly.yaml:", "no log"},
		"log and none": {
			identity + caFile + embedded + "  none: {reason: x}\n", issuers,
			"mayfly.yaml:", "both set",
		},
		"no reason": {identity + caFile + "ct:\n  none: {reason: \"\"}\n", issuers, "mayfly.yaml:6", ""},
		"log over http": {
			identity + caFile +
				"ct:\n  logs:\n    - {name: a, url: \"http://ct.example.com\", public_key: ct.pem}\n", issuers,
			"mayfly.yaml:7", "insecure",
		},
		"SCTs without a log": {
			identity + caFile +
				"ct:\n  logs:\n    - {name: a, url: \"https://ct.example.com\", public_key: ct.pem}\n  " +
				"policy: {min_scts: 2}\n", issuers, "mayfly.yaml:8:22",
			"2 SCTs are required, each from a different log, but there are 1 logs",
		},
		"operators": {
			identity + caFile + embedded + "  policy: {min_operators: 2}\n", issuers,
			"mayfly.yaml:7:27", "cannot come from 2 operators",
		},
		"logs of one": {identity + caFile +
			"ct:\n  logs:\n    - {name: a, operator: x, url: \"https://a.example.com\", public_key: ct.pem}\n    - " +
			"{name: b, operator: x, url: \"https://b.example.com\", public_key: ct.pem}\n  policy: {min_scts: " +
			"2, min_operators: 2}\n", issuers, "mayfly.yaml:9:40", "the logs have 1"},
		"no log to embed": {
			identity + caFile +
				"ct:\n  logs:\n    - {name: a, embed: false, url: \"https://ct.example.com\", public_key: ct.pem}\n",
			issuers, "mayfly.yaml:5:1", "embed: false",
		},
		"rate of a log": {
			identity + caFile +
				"ct:\n  logs:\n    - {name: a, rate: -1, url: \"https://ct.example.com\", public_key: ct.pem}\n",
			issuers,
			"mayfly.yaml:7:23", "invalid rate",
		},
		"no trusted root": {
			identity + caFile + embedded + "  policy: {trusted_root: nothing.json}\n", issuers,
			"mayfly.yaml:7:26", "nothing.json",
		},
		"budget": {
			identity + caFile + embedded + "  policy: {budget: 30s}\n", issuers,
			"mayfly.yaml:7:20", "less than 20s",
		},
		"schedule": {
			identity + caFile + "ct:\n  embedded: {dir: ct, origin: x.example.com/ct, rotate: daily}\n",
			issuers, "mayfly.yaml:6", "yearly",
		},
		"lead": {
			identity + caFile + "ct:\n  embedded: {dir: ct, origin: x.example.com/ct, lead: 9000h}\n",
			issuers, "mayfly.yaml:6", "2160h",
		},
		"witness": {identity + caFile +
			"ct:\n  embedded:\n    dir: ct\n    origin: x.example.com/ct\n    witnesses: [{url: " +
			"\"http://w.example.com\", public_key: x}]\n", issuers, "mayfly.yaml:9", "https"},
		"witness policy": {
			identity + caFile +
				"ct:\n  embedded: {dir: ct, origin: x.example.com/ct, witness_policy: 1}\n", issuers,
			"mayfly.yaml:6", "witnesses",
		},
		"shard's name": {
			identity + caFile + embedded +
				"  logs:\n    - {name: embedded-x, url: \"https://ct.example.com\", public_key: ct.pem}\n", issuers,
			"mayfly.yaml:8", "shard",
		},
		"address": {
			"listen: {http: nonsense}\n" + identity + caFile + embedded, issuers,
			"mayfly.yaml:1:16", "HOST:PORT",
		},
		"nothing listens": {
			"listen: {http: off, grpc: off}\n" + identity + caFile + embedded, issuers,
			"mayfly.yaml:1", "http and grpc are both off",
		},
		"TLS without a certificate": {
			"listen: {tls: {min_version: \"1.3\"}}\n" + identity + caFile + embedded, issuers,
			"mayfly.yaml:1", "the certificate is missing",
		},
		"TLS without files": {
			"listen: {tls: {certificate: no.pem, key: no.key}}\n" + identity + caFile + embedded, issuers,
			"mayfly.yaml:1:29", "no.pem",
		},
		"self-signed without a place": {
			"listen: {tls: {self_signed: true}}\n" + identity + caFile + embedded, issuers,
			"mayfly.yaml:1", "state_dir",
		},
		"self-signed in production": {
			"listen: {admin_tls: {self_signed: true}}\nstate_dir: s\nproduction: true\n" +
				identity + caFile + embedded, issuers,
			"mayfly.yaml:1:35", "not for production",
		},
		"socket without a name": {
			"listen: {http: \"systemd:\"}\n" + identity + caFile + embedded, issuers,
			"mayfly.yaml:1:16", "systemd:NAME",
		},
		"PROXY protocol of nobody": {
			"listen: {proxy_protocol: true}\n" + identity + caFile + embedded, issuers,
			"mayfly.yaml:1:26", "trusted_proxies",
		},
		"another header of proxies": {
			"listen: {proxy_header: X-Real-IP}\n" + identity + caFile + embedded, issuers,
			"mayfly.yaml:1:24", "Forwarded",
		},
		"drain delay out of range": {
			"listen: {drain_delay: 6m}\n" + identity + caFile + embedded, issuers,
			"mayfly.yaml:1:23", "up to 5m",
		},
		"age of a connection out of range": {
			"listen: {max_connection_age: 10ms}\n" + identity + caFile + embedded, issuers,
			"mayfly.yaml:1:30", "from 1s to 24h",
		},
		"journal nowhere": {
			identity + caFile + embedded + "audit: {subjects: plain}\n", issuers, "mayfly.yaml:7",
			"no destination",
		},
		"journal's place": {
			identity + caFile + embedded + "audit: {file: no/such/place}\n", issuers,
			"mayfly.yaml:7:15", "directory",
		},
		"journal's key": {
			identity + caFile + embedded + "audit: {file: x, key: {}}\n", issuers, "mayfly.yaml:7",
			"exactly one of env and file",
		},
		"journal's copy": {
			identity + caFile + embedded +
				"audit:\n  file: x\n  otlp: {url: \"http://collector.example.com\"}\n", issuers,
			"mayfly.yaml:9:15", "insecure",
		},
		"a collector over the network": {
			identity + caFile + embedded + "tracing: {otlp: {url: \"http://collector.example.com\"}}\n", issuers,
			"mayfly.yaml:7:23", "insecure",
		},
		"no collector": {
			identity + caFile + embedded + "tracing: {sample: 0.5}\n", issuers, "mayfly.yaml:7", "otlp: {url:",
		},
		"more than all requests": {
			identity + caFile + embedded + "tracing: {sample: 2, otlp: {url: \"https://c.example.com\"}}\n", issuers,
			"mayfly.yaml:7:19", "not a share of the requests",
		},
		"unencrypted spans": {
			identity + caFile + embedded + "production: true\naudit: {file: x}\n" +
				"tracing: {otlp: {url: \"http://c.example.com\", insecure: true}}\n", issuers,
			"mayfly.yaml:9:", "not for production",
		},
		"algorithm": {
			identity + caFile + embedded + "client_algorithms: [ecdsa]\n", issuers,
			"mayfly.yaml:7", "",
		},
		"ephemeral for all": {
			identity + "ca:\n  ephemeral: {}\n" + embedded + "production: true\n", issuers,
			"mayfly.yaml:4", "production",
		},
		"no issuer file": {
			"identity:\n  file: nothing.yaml\n" + caFile + embedded, issuers,
			"mayfly.yaml:2:9", "nothing.yaml",
		},
		"issuer's type": {
			identity + caFile + embedded, strings.Replace(issuers, "email", "emial", 1),
			"identity.yaml:5:11", "unknown",
		},
		"issuer's key": {
			identity + caFile + embedded, strings.Replace(issuers, "client-id", "client_id", 1),
			"identity.yaml:4:5", "client-id",
		},
		"issuer over http": {
			identity + caFile + embedded, strings.ReplaceAll(issuers, "https:", "http:"),
			"identity.yaml:2:3", "insecure",
		},
		"no audience": {
			identity + caFile + embedded,
			strings.Replace(issuers, "    client-id: sigstore\n", "", 1), "identity.yaml:2", "client-id",
		},
		"template": {
			identity + caFile + embedded,
			issuers + "ci-issuer-metadata:\n  p:\n    subject-alternative-name-template: \"{{range .a}}\"\n",
			"identity.yaml:8:40", "template",
		},
	} {
		path := write(t, c.text, c.issuers)
		_, _, err := config.Load(path)
		if err == nil {
			t.Errorf("%s passes", name)
			continue
		}
		text := strings.ReplaceAll(err.Error(), filepath.Dir(path)+string(filepath.Separator), "")
		if !strings.Contains(text, c.at) || !strings.Contains(text, c.want) {
			t.Errorf("%s: want %s and %q in\n%s", name, c.at, c.want, text)
		}
	}
	if _, _, err := config.Load(filepath.Join(t.TempDir(), "none.yaml")); err == nil ||
		!strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("a missing file: %v", err)
	}
}

// Every problem has a place.
func FuzzLoad(f *testing.F) {
	f.Add(identity+caFile+embedded, issuers)
	f.Add("a: &a [*a]", "x: {<<: *y}")
	f.Add("{", "[]")
	place := regexp.MustCompile(`\.yaml(:\d+:\d+)?: `)
	f.Fuzz(func(t *testing.T, text, issuers string) {
		_, _, err := config.Load(write(t, text, issuers))
		if err != nil && !place.MatchString(err.Error()) {
			t.Errorf("no place in %q", err)
		}
	})
}

// There are warnings for a log that the auditor may be unable to read, and for a CA in production without an auditor.
func TestAuditWarnings(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, log, rest string
		want, not       string
	}{
		{"only what submission needs", `url: "https://ct.example.com/x"`, "", "monitoring_url and origin", ""},
		{
			"both",
			`url: "https://ct.example.com/x", monitoring_url: "https://r.example.com/x", origin: ct.example.com/x`,
			"", "", "ct.logs",
		},
		{
			"a reader without its name", `url: "https://ct.example.com/x", monitoring_url: "https://r.example.com/x"`,
			"",
			"set origin", "",
		},
		{"on this host", `url: "http://127.0.0.1:6962/x"`, "", "", "ct.logs"},
		{
			"production without an auditor", `url: "http://127.0.0.1:6962/x"`,
			"production: true\naudit: {file: j, reconcile: {every: \"off\"}}\n", "the auditor is off", "",
		},
		{
			"production without a journal", `url: "http://127.0.0.1:6962/x"`, "production: true\n",
			"the auditor cannot tell", "",
		},
		{
			"production with both", `url: "http://127.0.0.1:6962/x"`,
			"production: true\naudit: {file: j}\n", "", "auditor",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, warnings, err := config.Load(write(t, `identity: {file: identity.yaml}
ca: {file: {chain: chain.pem, key: key.pem}}
ct:
  logs:
    - {name: lab, public_key: ct.pem, `+row.log+`}
`+row.rest, issuers))
			if err != nil {
				t.Fatal(err)
			}
			text := ""
			for _, w := range warnings {
				text += w.String() + "\n"
			}
			if !strings.Contains(text, row.want) || row.not != "" && strings.Contains(text, row.not) {
				t.Errorf("want %q, not %q:\n%s", row.want, row.not, text)
			}
		})
	}
}
