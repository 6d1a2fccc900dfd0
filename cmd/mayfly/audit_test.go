package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
)

func outcomeOf(n int, san string) *journal.Record {
	return &journal.Record{
		Kind: journal.Outcome, Result: journal.Denied, Reason: "POLICY_DENIED", Subject: san,
		SAN: san, RequestID: fmt.Sprintf("request-%d", n),
	}
}

// "audit tail -f" continues in the next file, and neither skips nor repeats a record.
func TestTailFollows(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j, err := journal.Open(journal.Config{File: path, MaxSize: "64KiB"}, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var out logbuf.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int)
	go func() {
		done <- run(ctx, []string{"audit", "tail", "-f", "-n", "1", "--json", path}, cli.Streams{Out: &out, Err: &out})
	}()
	lines := func() int { return strings.Count(out.String(), "\n") }
	wait := func(n int) {
		t.Helper()
		// the output of another goroutine can only be polled
		for end := time.Now().Add(20 * time.Second); lines() < n; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d lines of %d", lines(), n)
			}
		}
	}
	wait(1) // the command has started
	for n := range 400 {
		if err := j.Append(t.Context(), outcomeOf(n, strings.Repeat("a", 200)+"@example.com")); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	wait(402)
	cancel()
	if status := <-done; status != 0 {
		t.Errorf("status %d", status)
	}
	if segments, err := journal.Segments(path); err != nil || len(segments) < 3 {
		t.Errorf("%d files, %v", len(segments), err)
	}
	for i, l := range strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n") {
		if r, err := journal.ParseRecord([]byte(l)); err != nil || r.Seq != uint64(i+1) {
			t.Fatalf("line %d: record %d, %v", i+1, r.Seq, err)
		}
	}
}

// A subject is found by its plain text although the journal has digests. A journal with a key can be read only with the
// key.
func TestQueryDigests(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, keyFile := filepath.Join(dir, "journal.jsonl"), filepath.Join(dir, "key")
	if err := os.WriteFile(keyFile, []byte("the key of the sums\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := journal.Config{File: path, Subjects: journal.SubjectsDigest, Key: &secret.Source{File: keyFile}}
	j, err := journal.Open(c, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for n, san := range []string{"alice@example.com", "bob@example.com"} {
		if err := j.Append(t.Context(), outcomeOf(n, san)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	call := func(args ...string) (int, string) {
		var out logbuf.Buffer
		status := run(t.Context(), append([]string{"audit"}, args...), cli.Streams{Out: &out, Err: &out})
		return status, out.String()
	}
	for _, flag := range []string{"--san", "--subject"} {
		if status, out := call("query", path, flag, "alice@example.com"); status != 0 ||
			!strings.Contains(out, "POLICY_DENIED") || strings.Count(out, "\n") != 2 || strings.Contains(out, "alice") {
			t.Errorf("%d %s", status, out)
		}
	}
	if status, out := call("verify", "--key-file", keyFile, path); status != 0 ||
		!strings.Contains(out, "intact, 4 records") {
		t.Errorf("%d %s", status, out)
	}
	if status, out := call("verify", path); status != cli.ExitFound || !strings.Contains(out, "--key-file") {
		t.Errorf("%d %s", status, out)
	}
	if err := os.Remove(path + ".salt"); err != nil {
		t.Fatal(err)
	}
	if _, out := call("query", path, "--san", "alice@example.com"); !strings.Contains(out, "without the salt") {
		t.Error(out)
	}
}

// A time may be a duration before now, a date, or a time of RFC 3339.
func TestQueryTimes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"": {}, "24h": now.Add(-24 * time.Hour), "2026-11-24": time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC),
		"2026-11-24T10:00:00Z": time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC),
	} {
		if got, err := moment("--since", in, now); err != nil || !got.Equal(want) {
			t.Errorf("%q became %s, %v", in, got, err)
		}
	}
}

// G2: "config check" finds the errors with which the journal would stop a start.
func TestCheckSeesJournal(t *testing.T) {
	t.Parallel()
	for more, want := range map[string]string{
		"audit: {file: journal.jsonl, subjects: digest}\n":                                                              "",
		"audit: {file: journal.jsonl, key: {env: MAYFLY_TEST_NO_SUCH_KEY}}\n":                                           "audit.key",
		"audit: {file: journal.jsonl, syslog: {address: \"tls://127.0.0.1:6514\", ca_cert: key.pem}}\n":                 "ca_cert",
		"audit: {file: journal.jsonl, otlp: {url: \"https://127.0.0.1:4318\", headers: {A: {env: MAYFLY_TEST_NOT}}}}\n": "headers.A",
		"audit: {file: journal.jsonl, subjects: digest, salt: {env: MAYFLY_TEST_NO_SUCH_SALT}}\n":                       "audit.salt",
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{
			"key.pem": "x",
			"identity.yaml": "oidc-issuers:\n  \"https://idp.example.com\": {issuer-url: " +
				"\"https://idp.example.com\", client-id: sigstore, type: email}\n",
			"mayfly.yaml": "identity: {file: identity.yaml}\nca: {ephemeral: {}}\nct: {none: {reason: a test}}\n" +
				more,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var out logbuf.Buffer
		status := run(t.Context(), []string{"config", "check", "--config", filepath.Join(dir, "mayfly.yaml")},
			cli.Streams{Out: &out, Err: &out})
		if ok := want == "" && status == 0; !ok && (status != cli.ExitUsage || !strings.Contains(out.String(), want)) {
			t.Errorf("%s: %d %s", more, status, out.String())
		}
		if found, _ := filepath.Glob(filepath.Join(dir, "journal*")); len(found) > 0 {
			t.Errorf("the check created %v", found)
		}
	}
}
