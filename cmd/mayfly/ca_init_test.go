package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/testkit/ondisk"
)

// command runs a command line without a terminal.
func command(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
	return status, out.String(), errs.String()
}

// TestCAInit makes a CA that starts without a warning about its chain, and that no second run replaces.
func TestCAInit(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{true, false} {
		dir := t.TempDir()
		password := filepath.Join(dir, "password")
		if err := os.WriteFile(password, []byte("secure\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		files := filepath.Join(dir, "ca")
		args := []string{"ca", "init", "--dir", files, "--organization", "Example Inc."}
		if encrypted {
			args = append(args, "--password-file", password)
		} else {
			args = append(args, "--no-password")
		}
		status, out, errs := command(t, args...)
		if status != 0 {
			t.Fatal(errs)
		}
		main := filepath.Join(dir, "mayfly.yaml")
		for name, text := range map[string]string{
			main: out + "identity: {file: identity.yaml}\nct: {none: {reason: a test}}\n",
			filepath.Join(dir, "identity.yaml"): "oidc-issuers:\n  \"https://a.example.com\": {client-id: sigstore, " +
				"type: email}\n",
		} {
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		report, err := node.Check(t.Context(), main, false)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		data, err := os.ReadFile(filepath.Join(files, "chain.pem"))
		if err != nil {
			t.Fatal(err)
		}
		chain, err := ca.ParseChain(data)
		if err != nil || len(ca.Advise(chain)) > 0 || strings.Contains(strings.Join(report.Warnings, "\n"), "ca.file") {
			t.Errorf("warnings %v, %v", report.Warnings, err)
		}
		if status, out, errs := command(t, "ca", "check", "--config", main); status != 0 ||
			!strings.Contains(out, "the key signs") {
			t.Errorf("check: %d\n%s%s", status, out, errs)
		}
		key, err := os.ReadFile(filepath.Join(files, "ca-key.pem"))
		if err != nil || strings.Contains(string(key), "ENCRYPTED") != encrypted {
			t.Errorf("encrypted %t: %v", encrypted, err)
		}
		before := ondisk.Contents(t, dir)
		if err := os.Remove(filepath.Join(files, "chain.pem")); err != nil {
			t.Fatal(err)
		}
		delete(before, filepath.Join(files, "chain.pem"))
		if status, _, errs := command(t, args...); status != cli.ExitFailed ||
			!strings.Contains(errs, "existing files are never overwritten") {
			t.Errorf("a second run: %d %s", status, errs)
		}
		if !maps.Equal(before, ondisk.Contents(t, dir)) {
			t.Error("a second run changed files")
		}
	}
	for want, args := range map[string]string{
		"write one of --password-env NAME":           "--dir x",
		"--dir is missing":                           "--no-password",
		"one of --password-env NAME, --passwor":      "--dir x --no-password --password-env A",
		"are both set":                               "--dir x --password-env A --password-file b",
		"the only other flag it allows is --dry-run": "--dir x --plan y",
		"--password-env MAYFLY_NOPE: the environment variable MAYFLY_NOPE is not set": "--dir x --password-env MAYFLY_NOPE",
		"--password-file /no/such/file: ":                                             "--dir x --password-file /no/such/file",
		"--root-password-env MAYFLY_NOPE: the environment variable": "--dir x --password-env HOME " +
			"--root-password-env MAYFLY_NOPE",
		"no-such-plan.yaml: cannot be read": "--plan no-such-plan.yaml",
		"--organization: common_name has more than 64 characters": "--dir x --no-password --organization " +
			strings.Repeat("o", 65),
	} {
		status, _, errs := command(t, append([]string{"ca", "init"}, strings.Fields(args)...)...)
		if status != cli.ExitUsage || !strings.Contains(errs, want) || there("x") {
			t.Errorf("%s: %d %s, want %s", args, status, errs, want)
		}
	}
}
