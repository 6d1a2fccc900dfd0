package main

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/testkit/ondisk"
)

// TestCAInit makes a CA that starts without a warning about its chain, and that no second run replaces.
func TestCAInit(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{true, false} {
		dir := t.TempDir()
		password := filepath.Join(dir, "password")
		if err := os.WriteFile(password, []byte("secure\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		f := &caInitFlags{dir: filepath.Join(dir, "ca"), organization: "Example Inc.", plain: !encrypted}
		if encrypted {
			f.password = secret.Source{File: password}
		}
		var out bytes.Buffer
		if err := f.run(&out); err != nil {
			t.Fatal(err)
		}
		main := filepath.Join(dir, "mayfly.yaml")
		for name, text := range map[string]string{
			main: out.String() +
				"identity: {file: identity.yaml}\nct: {none: {reason: a test}}\n",
			filepath.Join(dir,
				"identity.yaml"): "oidc-issuers:\n  \"https://a.example.com\": {client-id: sigstore, type: email}\n",
		} {
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		report, err := node.Check(t.Context(), main, false)
		if err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		data, err := os.ReadFile(filepath.Join(f.dir, "chain.pem"))
		if err != nil {
			t.Fatal(err)
		}
		chain, err := ca.ParseChain(data)
		if err != nil || len(ca.Advise(chain)) > 0 || strings.Contains(strings.Join(report.Warnings, "\n"), "ca.file") {
			t.Errorf("warnings %v, %v", report.Warnings, err)
		}
		key, err := os.ReadFile(filepath.Join(f.dir, "ca-key.pem"))
		if err != nil || strings.Contains(string(key), "ENCRYPTED") != encrypted {
			t.Errorf("encrypted %t: %v", encrypted, err)
		}
		before := ondisk.Contents(t, dir)
		if err := os.Remove(filepath.Join(f.dir, "chain.pem")); err != nil {
			t.Fatal(err)
		}
		delete(before, filepath.Join(f.dir, "chain.pem"))
		if err := f.run(&out); err == nil || !strings.Contains(err.Error(), "keys are not replaced") {
			t.Errorf("a second run: %v", err)
		}
		if !maps.Equal(before, ondisk.Contents(t, dir)) {
			t.Error("a second run changed files")
		}
	}
	for _, f := range []*caInitFlags{
		{},
		{dir: "x"},
		{dir: "x", plain: true, password: secret.Source{Env: "A"}},
		{dir: "x", password: secret.Source{Env: "A", File: "b"}},
	} {
		if err := f.run(&bytes.Buffer{}); err == nil || there("x") {
			t.Errorf("%+v: %v", f, err)
		}
	}
	for want, source := range map[string]secret.Source{
		"mayfly: --password-env MAYFLY_NOPE: the environment variable MAYFLY_NOPE is not set": {Env: "MAYFLY_NOPE"},
		"mayfly: --password-file /no/such/file: ":                                             {File: "/no/such/file"},
	} {
		err := (&caInitFlags{dir: "x", password: source}).run(&bytes.Buffer{})
		if e, ok := errors.AsType[*cli.Error](err); !ok || e.Status != cli.ExitUsage ||
			!strings.HasPrefix(e.Error(), want) || there("x") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
