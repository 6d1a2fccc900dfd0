package chart_test

import (
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/migrate/chart"
)

var update = flag.Bool("update", false, "write the translations in testdata anew")

// Each value of the chart is carried over, has a reason why it is not needed, or is named as lost.
func TestEveryValue(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/all.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r, err := chart.Translate(data)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile("testdata/all.golden", got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/all.golden")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("read the difference, then run go test ./migrate/chart -update\n%s", d)
	}
	reported := map[string]bool{}
	for _, c := range r.Carried {
		reported[c.Value] = true
	}
	for _, one := range slices.Concat(r.Unneeded, r.Lost) {
		reported[one.Value] = true
		if one.Why == "" {
			t.Errorf("%s has no reason", one.Value)
		}
	}
	for _, row := range chart.Rows() {
		name, group := strings.CutSuffix(row.From, ".*")
		if !reported[name] && !group {
			t.Errorf("testdata/all.yaml does not show %s", name)
		}
		if row.To == "" && row.Note == "" {
			t.Errorf("%s has neither a value nor a reason", row.From)
		}
	}
	if !reported["surprise"] {
		t.Error("an unknown value is not reported")
	}
}

// What the values of the chart mean without a file of one's own.
func TestDefaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in, path string
		want     any
	}{
		"one server":            {"", "replicas", 1},
		"the key of a Secret":   {"", "ca secret", "fulcio-server-secret"},
		"its name":              {"server: {secret: s}", "ca secret", "s"},
		"the key of the Secret": {"", "ca key", "private"},
		"the log of the chart":  {"", "ct logs 0 url", "http://ctlog.ctlog-system.svc/fulcio"},
		"its prefix": {
			"ctlog: {createctconfig: {logPrefix: p}}",
			"ct logs 0 url", "http://ctlog.ctlog-system.svc/p",
		},
		"plain http is not for production": {"", "config production", false},
		"https is": {
			"server: {args: {ct_log_url: 'https://ct.example.org'}}",
			"config production", nil,
		},
		"no log": {
			"server: {args: {disable_ct_log: true}}",
			"config ct none reason", "Fulcio had no log (disable_ct_log)",
		},
		"the issuer of the cluster": {
			"",
			"identity oidc-issuers https://kubernetes.default.svc type", "kubernetes",
		},
		"not that of our chart": {"", "identity oidc-issuers https://kubernetes.default.svc.cluster.local", nil},
		"port":                  {"", "service port", 80},
		"no TLS":                {"", "tls enabled", false},
		"below the key fulcio":  {"fulcio: {server: {replicaCount: 4}}", "replicas", 4},
		"keys of JSON": {
			"config: {contents: {OIDCIssuers: {'https://a.example': {clientid: c}}}}",
			"identity oidc-issuers https://a.example client-id", "c",
		},
		"unknown keys stay": {
			"config: {contents: {oidc-issuers: {'https://a.example': {other: c}}}}",
			"identity oidc-issuers https://a.example other", "c",
		},
		"an issuer file as text": {
			"config: {contents: '{\"OIDCIssuers\": {\"https://a.example\": {\"Type\": \"email\"}}}'}",
			"identity oidc-issuers https://a.example type", "email",
		},
		"the Ingress of the chart": {"", "ingress http enabled", true},
		"which can be off":         {"server: {ingress: {http: {enabled: false}}}", "ingress http enabled", false},
		"its class, with another host": {
			"server: {ingress: {http: {hosts: [{host: a.example, path: /}]}}}", "ingress http className", "nginx",
		},
		"its host, with another class": {
			"server: {ingress: {http: {className: traefik}}}", "ingress http hosts 0 host", "fulcio.localhost",
		},
		"no Ingress for gRPC": {"server: {ingress: {grpc: {className: nginx}}}", "ingress grpc hosts", nil},
		"the host of the Ingress for gRPC": {
			"server: {ingress: {grpc: {enabled: true}}}", "ingress grpc hosts 0 path", "/dev.sigstore.fulcio.v2.CA",
		},
		"its protocol, with other annotations": {
			"server: {ingress: {grpc: {enabled: true, annotations: {a: b}}}}",
			"ingress grpc annotations nginx.ingress.kubernetes.io/backend-protocol", "GRPC",
		},
		"and these": {
			"server: {ingress: {grpc: {enabled: true, annotations: {a: b}}}}", "ingress grpc annotations a", "b",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := c.in
			if in == "" {
				in = "{}"
			}
			r, err := chart.Translate([]byte(in))
			if err != nil {
				t.Fatal(err)
			}
			var v any = r.Values
			for key := range strings.FieldsSeq(c.path) {
				switch m := v.(type) {
				case map[string]any:
					v = m[key]
				case []any:
					v = m[0]
				}
			}
			if v != c.want {
				t.Errorf("%s is %v, want %v", c.path, v, c.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a: [":                              "not YAML",
		"[1]":                               "has no values",
		"{1: 2}":                            "a key is not text",
		"server: {1: 2}":                    "server: a key is not text",
		"apiVersion: v1\nkind: ConfigMap\n": "mayfly migrate fulcio",
		strings.Repeat("[", 100) + strings.Repeat("]", 100): "more than 64 levels",
		"config: {contents: 'a: ['}":                        "config.contents: the text is not YAML",
		"config: {contents: '{1: 2}'}":                      "config.contents: a key is not text",
		"config: {contents: some text}":                     "config.contents: the value is a string",
		"config: {contents: [a]}":                           "write a mapping",
	} {
		if _, err := chart.Translate([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: error %v, want one with %q", in, err, want)
		}
	}
}

// Any file gives values that are YAML, and a report of each value, or an error.
func FuzzTranslate(f *testing.F) {
	data, err := os.ReadFile("testdata/all.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("server: {args: {certificateAuthority: googleca}, service: {ports: [1, {name: http}]}}"))
	f.Add([]byte("fulcio: {config: {contents: 'a: ['}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := chart.Translate(data)
		if err != nil {
			return
		}
		text, err := r.YAML()
		if err != nil {
			t.Fatal(err)
		}
		var again map[string]any
		if err := yaml.Unmarshal(text, &again); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if r.Lost == nil || r.Carried == nil || r.Unneeded == nil {
			t.Fatal("a list is null in JSON")
		}
	})
}
