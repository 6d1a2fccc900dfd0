package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/doctor"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// Two commands make a server: init writes the configuration, ca init the key and the chain. The server issues a
// certificate that verifies, doctor finds no problem, and the journal has the records.
func TestInit(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	dir := filepath.Join(t.TempDir(), "server")
	http, admin := process.FreeAddress(t), process.FreeAddress(t)
	password := filepath.Join(t.TempDir(), "password")
	token := filepath.Join(t.TempDir(), "token")
	if err := errors.Join(os.WriteFile(password, []byte("a password"), 0o600),
		os.WriteFile(token, []byte(provider.Token(nil)), 0o600)); err != nil {
		t.Fatal(err)
	}
	status, out, errs := command(t, "init", dir, "--url", "http://"+http, "--admin", admin, "--organization",
		"Example Inc.", "--issuer", provider.URL(), "--owner", "example.com", "--password-file", password)
	if status != 0 || errs != "" {
		t.Fatal(status, errs)
	}
	for _, want := range []string{
		"mayfly ca init --dir " + dir + "/ca --organization 'Example Inc.' --password-file " + password,
		"mayfly serve --config " + dir + "/mayfly.yaml",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if status, _, errs := command(t, "ca", "init", "--dir", filepath.Join(dir, "ca"), "--organization", "Example Inc.",
		"--password-file", password); status != 0 {
		t.Fatal(errs)
	}
	s := process.Start(t, process.Existing{Dir: dir, HTTP: http, Admin: admin})
	if status, out, errs := command(t, "trust", "export", "--config", s.Dir+"/mayfly.yaml", "--url", s.URL(), "--out",
		dir+"/trust"); status != 0 {
		t.Fatal(out, errs)
	}
	if status, out, errs := command(t, "request", "--url", s.URL(), "--token-file", token, "--trusted-root",
		dir+"/trust/trusted_root.json", "--out", dir+"/cert.pem"); status != 0 ||
		!strings.Contains(out, "alice@example.com") {
		t.Fatal(status, out, errs)
	}
	l := &auditLab{t: t, dir: dir}
	report, code := l.doctor(":", nil)
	if code != 0 {
		t.Error(code)
	}
	for _, row := range report.Rows {
		if row.State == doctor.Problem || row.State == doctor.Warning {
			t.Errorf("%+v", row)
		}
	}
	if status, out, errs := command(t, "audit", "query", dir+"/journal/journal.jsonl", "--san",
		"alice@example.com"); status != 0 ||
		!strings.Contains(out, "issued") {
		t.Error(status, out, errs)
	}
}

// Each wrong flag is named, and nothing is written.
func TestInitRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "server")
	right := []string{
		dir, "--url", "https://ca.example.com", "--organization", "Example", "--issuer",
		"https://a.example.com", "--proxy",
		"--no-password",
	}
	for want, more := range map[string]string{
		"--url: \"x\" is not the URL":              "--url x",
		"--tls: the server's TLS certificate has":  "--acme",
		"--profile: the profile \"x\" is unknown":  "--profile x",
		"--ca-key names a key outside":             "--ca-key awskms:///x",
		"write one of --password-env":              "--password-env A",
		"--listen: \"x\" is not HOST:PORT":         "--listen x",
		"unexpected argument \"x\"":                "x",
		"--organization: is missing, longer":       "--organization " + strings.Repeat("x", 65),
		"--owner: \"@x\" is not the name of an or": "--owner @x",
	} {
		status, _, errs := command(t, append(append([]string{"init"}, right...), strings.Fields(more)...)...)
		if status != cli.ExitUsage || !strings.Contains(errs, want) || there(dir) {
			t.Errorf("%s: %d %s, want %s", more, status, errs, want)
		}
	}
	if status, _, errs := command(t, "init"); status != cli.ExitUsage ||
		!strings.Contains(errs, "the directory is missing") {
		t.Error(status, errs)
	}
	for range 2 {
		if status, _, errs := command(t, append([]string{"init"}, right...)...); status != 0 &&
			!strings.Contains(errs, "is not empty (it has ca); choose a new directory") {
			t.Error(status, errs)
		}
	}
}

// One command makes a private Sigstore that serve runs: doctor signs once with every service, over the URLs of clients,
// and verifies with the trusted root that the TUF repository gives a client. After the offline keys are moved away, the
// server is as ready as before.
func TestInitPrivateSigstore(t *testing.T) {
	provider := idp.New(t, idp.Options{})
	dir := filepath.Join(t.TempDir(), "sigstore")
	http, admin := process.FreeAddress(t), process.FreeAddress(t)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(provider.Token(nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SIGSTORE_TEST_SERVER", "correct-horse-battery")
	t.Setenv("SIGSTORE_TEST_ROOTS", "staple-and-more")
	args := []string{
		"init", "--private-sigstore", dir, "--url", "http://" + http, "--admin", admin,
		"--organization", "Example Inc.",
		"--issuer", provider.URL(), "--owner", "example.com", "--password-env", "SIGSTORE_TEST_SERVER",
	}
	if status, _, errs := command(t, args...); status != cli.ExitUsage ||
		!strings.Contains(errs, "--root-password-env") || there(dir) {
		t.Fatal(status, errs)
	}
	status, out, errs := command(t, append(args, "--root-password-env", "SIGSTORE_TEST_ROOTS")...)
	if status != 0 || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "tsa.clock.servers") {
		t.Fatal(status, errs)
	}
	if !strings.Contains(out, "mayfly serve --config "+dir+"/mayfly.yaml") || strings.Contains(out, "correct-horse") ||
		strings.Contains(out, "staple") {
		t.Error(out)
	}
	if err := os.Rename(filepath.Join(dir, "offline"), filepath.Join(t.TempDir(), "stick")); err != nil {
		t.Fatal(err)
	}
	process.Start(t, process.Existing{Dir: dir, HTTP: http, Admin: admin})
	l := &auditLab{t: t, dir: dir}
	report, code := l.doctor(":", nil, "--token-file", token)
	if code != 0 {
		t.Error(code)
	}
	rows := map[string]doctor.Row{}
	for _, row := range report.Rows {
		rows[row.Check] = row
		if (row.State == doctor.Problem || row.State == doctor.Warning) &&
			!strings.Contains(row.Cause, "tsa.clock.servers") &&
			!strings.Contains(row.Cause, "time servers") {
			t.Errorf("%+v", row)
		}
	}
	if r := rows["signature"]; r.State != doctor.OK || !strings.Contains(r.Cause, "certificate") ||
		!strings.Contains(r.Cause, "timestamp") || !strings.Contains(r.Cause, "log entry") ||
		!strings.Contains(r.Cause, "verification") {
		t.Errorf("%+v", r)
	}
	if r := rows["files of clients"]; r.State != doctor.OK {
		t.Errorf("%+v", r)
	}
	// A token that the CA refuses is a problem, with the cause.
	if err := os.WriteFile(token, []byte(provider.Token(map[string]any{"email": "bob@example.org"})),
		0o600); err != nil {
		t.Fatal(err)
	}
	report, code = l.doctor(":", nil, "--token-file", token)
	last := report.Rows[slices.IndexFunc(report.Rows, func(r doctor.Row) bool { return r.Check == "signature" })]
	if code != cli.ExitFound || last.State != doctor.Problem ||
		!strings.Contains(last.Cause, "the CA would refuse the token") {
		t.Errorf("%d %+v", code, last)
	}
}
