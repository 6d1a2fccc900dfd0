package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/status"
)

// status says whether the CA is ready, why it is not, and whether it can be reached, for people and for machines, also
// over TLS with a client certificate.
func TestStatus(t *testing.T) {
	t.Parallel()
	l := newAuditLab(t, false)
	certificate, key := tlsPair(t, 7)
	l.write("tls.pem", certificate)
	l.write("tls.key", key)
	file := filepath.Join(l.dir, "mayfly.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	l.write("mayfly.yaml", bytes.Replace(text, []byte("listen: {"),
		[]byte("listen: {admin_tls: {certificate: tls.pem, key: tls.key}, "), 1))
	l.start()
	l.issue(2)
	flags := []string{"--config", file, "--ca", filepath.Join(l.dir, "tls.pem")}
	l.process.Until(t, "ready", func() bool {
		_, _, status := l.mayfly(append([]string{"status"}, flags...)...)
		return status == 0
	})
	out, stderr, code := l.mayfly(append([]string{"status", "--json"}, flags...)...)
	var r status.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("status %d, %v, %s%s", code, err, out, stderr)
	}
	if !r.Ready || r.URL != "https://"+l.admin || r.Certificates.Issued != 2 || r.Journal == nil || len(r.Logs) != 1 ||
		!r.Logs[0].Usable || r.Logs[0].Accepted != 2 || r.Build == nil || r.Started == nil ||
		r.Config.Generation != 1 ||
		len(r.Expiries) == 0 || r.Limits.Connections["http"].Limit == 0 || !r.Dependencies["ca"].OK {
		t.Errorf("%s", out)
	}
	out, _, _ = l.mayfly(append([]string{"status"}, flags...)...)
	for _, want := range []string{
		"ready", "2 issued", "generation 1", "embedded: usable, 2 accepted",
		"journal", "off",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	for want, args := range map[string][]string{
		"unknown authority":                   {"status", "--config", file},
		"write a URL such as http":            {"status", "--admin", "localhost:2112"},
		"belong together":                     {"status", "--admin", "https://" + l.admin, "--client-key", "x"},
		"is not the readiness page of mayfly": {"status", "--admin", "http://" + l.process.HTTP},
	} {
		if _, stderr, code := l.mayfly(args...); code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%v: status %d, %s", args, code, stderr)
		}
	}

	journal := filepath.Join(l.dir, "journal.jsonl") // has lost acknowledged records
	if err := os.Truncate(journal, 100); err != nil {
		t.Fatal(err)
	}
	l.process.Until(t, "not ready", func() bool {
		out, _, code = l.mayfly(append([]string{"status"}, flags...)...)
		return code == cli.ExitFound
	})
	if !strings.Contains(out, "not ready") || !strings.Contains(out, "journal: ") {
		t.Errorf("%s", out)
	}
	l.end(syscall.SIGKILL)
	if _, stderr, code := l.mayfly(append([]string{"status"}, flags...)...); code != cli.ExitFailed ||
		!strings.Contains(stderr, "cannot be reached") {
		t.Errorf("status %d, %s", code, stderr)
	}
}
