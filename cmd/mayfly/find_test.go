package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/find"
)

// find finds the certificates of an identity at a CA that runs and at one that does not, by the CA's URL and by its
// configuration. Bad input is refused with what to do.
func TestFind(t *testing.T) {
	t.Parallel()
	l := newAuditLab(t, false)
	file := filepath.Join(l.dir, "mayfly.yaml")
	plain, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := l.mayfly("find", "--config", file, "--serial", "1"); code != cli.ExitUsage ||
		!strings.Contains(stderr, "find: {dir: index}") {
		t.Errorf("without an index: status %d, %s", code, stderr)
	}
	l.write("mayfly.yaml", append(plain, "find: {dir: index}\n"...))
	l.start()
	l.issue(3)
	search := func(args ...string) (a find.Answer, code int) {
		t.Helper()
		out, stderr, code := l.mayfly(append([]string{"find", "--json"}, args...)...)
		if err := json.Unmarshal([]byte(out), &a); err != nil {
			t.Fatalf("%v: status %d, %v, %s%s", args, code, err, out, stderr)
		}
		return a, code
	}
	identity := ""
	l.process.Until(t, "in the index", func() bool {
		a, _ := search("--url", "http://"+l.process.HTTP, "--serial", "1")
		return a.Logs != nil && a.Logs[0].Size == 3
	})
	out, _, _ := l.mayfly("audit", "query", "--config", file, "--json")
	var record struct{ SAN, Serial string }
	for line := range strings.Lines(out) {
		if json.Unmarshal([]byte(line), &record) == nil && record.Serial != "" {
			identity = record.SAN
		}
	}
	for _, at := range [][]string{{"--url", "http://" + l.process.HTTP}, {"--config", file}} {
		a, code := search(append(at, "--identity", identity)...)
		if code != 0 || len(a.Entries) == 0 || a.Entries[0].Certificates[0].Issuer != l.provider.URL() {
			t.Errorf("%v: status %d, %+v", at, code, a)
		}
		if a, code := search(append(at, "--serial", record.Serial)...); code != 0 || len(a.Entries) != 1 {
			t.Errorf("%v: status %d, %+v", at, code, a)
		}
		if a, code := search(append(at, "--artifact", file)...); code != cli.ExitFound || len(a.Entries) != 0 {
			t.Errorf("%v: status %d, %+v", at, code, a)
		}
	}
	if page, _ := l.get("/readyz"); !strings.Contains(page, `"find":{"ok":true`) {
		t.Errorf("readiness: %s", page)
	}
	l.end(syscall.SIGTERM)
	if a, code := search("--config", file, "--serial", record.Serial); code != 0 || len(a.Entries) != 1 {
		t.Errorf("a CA that does not run: status %d, %+v", code, a)
	}
	if err := os.RemoveAll(filepath.Join(l.dir, "index")); err != nil {
		t.Fatal(err)
	}
	out, _, code := l.mayfly("find", "--config", file, "--identity", identity)
	if code != 0 || !strings.Contains(out, identity) || !strings.Contains(out, "certificate") ||
		!strings.Contains(out, "embedded (3 entries)") {
		t.Errorf("a removed index: status %d, %s", code, out)
	}
	for _, bad := range [][]string{
		{"--url", "http://" + l.process.HTTP},
		{"--serial", "1"},
		{"--config", file, "--serial", "x"},
		{"--config", file, "--serial", "1", "--digest", strings.Repeat("ab", 32)},
		{"--config", file, "--digest", "md5:00"},
		{"--config", file, "--serial", "1", "--limit", "0"},
		{"--config", file, "--serial", "1", "--issuer", "x"},
		{"--config", file, "--artifact", file, "--serial", "1"},
	} {
		if _, stderr, code := l.mayfly(append([]string{"find"}, bad...)...); code != cli.ExitUsage || stderr == "" {
			t.Errorf("%v: status %d, %s", bad, code, stderr)
		}
	}
}
