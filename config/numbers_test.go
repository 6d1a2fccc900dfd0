package config_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/config"
)

// G1: each number and each duration of the documented settings refuses values below 0. A 0 is either a valid value, an
// error, or replaced by the default with a warning. No setting silently has another meaning than its text.
func TestNumbers(t *testing.T) {
	t.Parallel()
	const logs = "ct:\n  logs:\n    - {name: a, url: \"https://ct.example.com\", public_key: ct.pem, "
	const value, refused, warned = "value", "refused", "warned"
	const kms = identity + "ca:\n  kms: {chain: chain.pem, key: \"openbao://ca\", "
	const tink = identity + "ca:\n  tink: {chain: chain.pem, key: key.pem, kek: \"openbao://kek\", "
	base := identity + caFile
	hsm := identity + "ca:\n  pkcs11: {chain: chain.pem, socket: /run/hsm.sock, limits: {"
	const key = "file: {chain: chain.pem, key: key.pem}"
	renew := identity + "ca:\n  state: state.json\n  chains: [{name: a, " + key +
		"}]\n  rotation:\n    renew: {dir: x, parent: {" +
		key + "}, "
	store := base + embedded + "shared: {valkey: {addresses: [\"127.0.0.1:1\"], "
	type setting struct {
		before, after string // of the number, in the main file or after the entry of the issuer file
		zero, good    string
		issuer        bool
	}
	table := map[string]setting{
		"listen.drain_delay": {
			base + embedded + "listen: {drain_delay: ", "}\n", warned, "10s", false,
		},
		"listen.max_connection_age": {
			base + embedded + "listen: {max_connection_age: ", "}\n", warned, "1h", false,
		},
		"limits.requests":    {base + embedded + "limits: {requests: ", "}\n", warned, "10", false},
		"limits.wait":        {base + embedded + "limits: {wait: ", "}\n", warned, "1s", false},
		"limits.connections": {base + embedded + "limits: {connections: ", "}\n", warned, "10", false},
		"limits.connections_per_source": {
			base + embedded + "limits: {connections_per_source: ", "}\n",
			warned, "10", false,
		},
		"ca.kms.limits.timeout":       {kms + "limits: {timeout: ", "}}\n" + embedded, refused, "2s", false},
		"ca.kms.limits.attempts":      {kms + "limits: {attempts: ", "}}\n" + embedded, warned, "2", false},
		"ca.kms.limits.concurrent":    {kms + "limits: {concurrent: ", "}}\n" + embedded, warned, "8", false},
		"ca.tink.limits.timeout":      {tink + "limits: {timeout: ", "}}\n" + embedded, refused, "2s", false},
		"ca.tink.limits.attempts":     {tink + "limits: {attempts: ", "}}\n" + embedded, warned, "2", false},
		"ca.tink.limits.concurrent":   {tink + "limits: {concurrent: ", "}}\n" + embedded, warned, "8", false},
		"ca.tink.vault.version":       {tink + "vault: {version: ", "}}\n" + embedded, warned, "", false},
		"ca.kms.vault.version":        {kms + "vault: {version: ", "}}\n" + embedded, warned, "2", false},
		"ca.pkcs11.limits.timeout":    {hsm + "timeout: ", "}}\n" + embedded, refused, "1s", false},
		"ca.pkcs11.limits.attempts":   {hsm + "attempts: ", "}}\n" + embedded, warned, "2", false},
		"ca.pkcs11.limits.concurrent": {hsm + "concurrent: ", "}}\n" + embedded, warned, "8", false},
		"ca.backdate":                 {base + "  backdate: ", "\n" + embedded, value, "10s", false},
		"ct.logs[].rate":              {base + logs + "rate: ", "}\n", refused, "0.5", false},
		"ct.logs[].max_merge_delay":   {base + logs + "max_merge_delay: ", "}\n", refused, "1m", false},
		"ct.embedded.lead": {
			base + "ct:\n  embedded: {dir: ct, origin: x.example.com/ct, lead: ", "}\n",
			value, "1h", false,
		},
		"ct.embedded.witness_policy": {base +
			"ct:\n  embedded: {dir: ct, origin: x.example.com/ct, witness_policy: ", "}\n", value, "", false},
		"rekor.lead": {
			base + embedded + "rekor: {dir: r, origin: x.example.com, lead: ", "}\n", value, "10h", false,
		},
		"rekor.witness_policy": {
			base + embedded + "rekor: {dir: r, origin: x.example.com, witness_policy: ", "}\n", value, "", false,
		},
		"ct.policy.min_scts":      {base + embedded + "  policy: {min_scts: ", "}\n", warned, "1", false},
		"ct.policy.min_operators": {base + embedded + "  policy: {min_operators: ", "}\n", warned, "1", false},
		"ct.policy.parallel":      {base + embedded + "  policy: {parallel: ", "}\n", warned, "3", false},
		"ct.policy.stagger":       {base + embedded + "  policy: {stagger: ", "}\n", warned, "1s", false},
		"ct.policy.attempt":       {base + embedded + "  policy: {attempt: ", "}\n", warned, "1s", false},
		"ct.policy.budget":        {base + embedded + "  policy: {budget: ", "}\n", warned, "10s", false},
		"tracing.sample": {
			base + embedded + "tracing: {otlp: {url: \"https://c.example.com\"}, sample: ", "}\n", value, "0.5", false,
		},
		"tracing.otlp.timeout": {
			base + embedded + "tracing: {otlp: {url: \"https://c.example.com\", timeout: ", "}}\n",
			warned, "1s", false,
		},
		"tsa.accuracy": {base + embedded + "tsa: {" + key + ", accuracy: ", "}\n", warned, "2s", false},
		"tsa.clock.max_offset": {
			base + embedded + "tsa: {" + key + ", clock: {servers: [\"ntp://a\"], max_offset: ", "}}\n",
			warned, "1s", false,
		},
		"tsa.clock.every": {
			base + embedded + "tsa: {" + key + ", clock: {servers: [\"ntp://a\"], every: ", "}}\n", warned, "5m", false,
		},
		"tsa.clock.max_age": {
			base + embedded + "tsa: {" + key + ", clock: {servers: [\"ntp://a\"], max_age: ", "}}\n",
			warned, "5m", false,
		},
		"audit.reconcile.lag": {
			base + embedded + "audit: {file: x, reconcile: {lag: ", "}}\n",
			warned, "1m", false,
		},
		"canary.interval":         {base + embedded + "canary: {interval: ", "}\n", refused, "1m", false},
		"ca.rotation.propagation": {base + "  rotation: {propagation: ", "}\n" + embedded, value, "10h", false},
		"ca.rotation.keep":        {base + "  rotation: {keep: ", "}\n" + embedded, refused, "10h", false},
		"ca.rotation.renew.at":    {renew + "at: ", "}\n" + embedded, warned, "0.5", false},
		"ca.rotation.renew.life":  {renew + "life: ", "}\n" + embedded, refused, "10000h", false},
		"publish.tuf.timestamp": {
			base + embedded + "publish: {tuf: {dir: tuf, timestamp: ", "}}\n",
			refused, "10h", false,
		},
		"publish.tuf.snapshot": {
			base + embedded + "publish: {tuf: {dir: tuf, snapshot: ", "}}\n",
			refused, "1000h", false,
		},
		"limits.source.rate":  {base + embedded + "limits: {source: {burst: 9, rate: ", "}}\n", refused, "0.5", false},
		"limits.source.burst": {base + embedded + "limits: {source: {rate: 9, burst: ", "}}\n", refused, "5", false},
		"limits.issuer.rate":  {base + embedded + "limits: {issuer: {burst: 9, rate: ", "}}\n", refused, "0.5", false},
		"limits.issuer.burst": {base + embedded + "limits: {issuer: {rate: 9, burst: ", "}}\n", refused, "5", false},
		"limits.identity.rate": {
			base + embedded + "limits: {identity: {burst: 9, rate: ", "}}\n", refused, "0.5", false,
		},
		"limits.identity.burst": {
			base + embedded + "limits: {identity: {rate: 9, burst: ", "}}\n", refused, "5", false,
		},
		"certificates-per-token":      {"    certificates-per-token: ", "\n", warned, "5", true},
		"rate-limit.rate":             {"    rate-limit: {burst: 9, rate: ", "}\n", refused, "0.5", true},
		"rate-limit.burst":            {"    rate-limit: {rate: 9, burst: ", "}\n", refused, "5", true},
		"identity-rate-limit.rate":    {"    identity-rate-limit: {burst: 9, rate: ", "}\n", refused, "0.5", true},
		"identity-rate-limit.burst":   {"    identity-rate-limit: {rate: 9, burst: ", "}\n", refused, "5", true},
		"shared.valkey.database":      {store + "database: ", "}}\n", value, "3", false},
		"shared.valkey.timeout":       {store + "timeout: ", "}}\n", warned, "1s", false},
		"shared.valkey.wait_replicas": {store + "wait_replicas: ", "}}\n", value, "2", false},
		"max-lifetime":                {"    max-lifetime: ", "\n", warned, "1h", true},
		"max-age":                     {"    max-age: ", "\n", warned, "1h", true},
		"outbound.timeout":            {"    outbound: {timeout: ", "}\n", warned, "1s", true},
	}
	page, err := os.ReadFile("../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (?:integer|number|duration) \\|")
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, m[1])
		if _, ok := table[m[1]]; !ok {
			t.Errorf("%s is not in the table of this test", m[1])
		}
	}
	for key, s := range table {
		if !slices.Contains(documented, key) {
			t.Errorf("%s is not documented as a number", key)
		}
		unit := ""
		if strings.Trim(s.good, "0123456789.") != "" {
			unit = "s"
		}
		load := func(number string) ([]config.Warning, error) {
			if s.issuer {
				_, w, err := config.Load(write(t, base+embedded, issuers+s.before+number+s.after))
				return w, err
			}
			_, w, err := config.Load(write(t, s.before+number+s.after, issuers))
			return w, err
		}
		name := key[strings.LastIndex(key, ".")+1:]
		if _, err := load("-1" + unit); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: -1%s: %v", key, unit, err)
		}
		if s.good != "" {
			if w, err := load(s.good); err != nil || zeroWarning(w, name) {
				t.Errorf("%s: %s: %v, %v", key, s.good, w, err)
			}
		}
		w, err := load("0" + unit)
		got := value
		switch {
		case err != nil:
			got = refused
		case zeroWarning(w, name):
			got = warned
		}
		if got != s.zero {
			t.Errorf("%s: 0%s: %s, want %s: %v, %v", key, unit, got, s.zero, w, err)
		}
	}
}

func zeroWarning(all []config.Warning, name string) bool {
	return slices.ContainsFunc(all,
		func(w config.Warning) bool { return strings.Contains(w.Text, name+": 0 means the default") })
}

// The CA makes keys in files only: with a chain whose key is elsewhere, renewal is refused by the name of the backend.
func TestRenewNeedsFiles(t *testing.T) {
	t.Parallel()
	for backend, refused := range map[string]bool{
		"file: {chain: chain.pem, key: key.pem}":                   false,
		"kms: {key: \"awskms:///alias/ca\", chain: chain.pem}":     true,
		"pkcs11: {socket: /run/mayfly/hsm.sock, chain: chain.pem}": true,
	} {
		c := config.CA{}
		err := yaml.Unmarshal([]byte("state: state.json\nchains: [{name: a, "+backend+"}]\n"+
			"rotation: {renew: {dir: x, parent: {kms: {key: \"awskms:///alias/parent\", chain: parent.pem}}}}\n"), &c)
		if err != nil {
			t.Fatal(err)
		}
		err = c.Check()
		name, _, _ := strings.Cut(backend, ":")
		if got := err != nil && strings.Contains(err.Error(),
			"is in ca."+name+", and new keys are made in files only"); got != refused {
			t.Errorf("%s: %v", backend, err)
		}
		if !refused && err != nil {
			t.Errorf("%s: %v", backend, err)
		}
	}
}
