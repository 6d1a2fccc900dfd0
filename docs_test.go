package mayfly_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/fault"
)

var update = flag.Bool("update", false, "write generated parts of the documentation anew")

func readDoc(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Every reason that a client can meet has an entry that says what it means, what the signer does and what the operator does.
func TestErrorsPage(t *testing.T) {
	t.Parallel()
	entries := map[string]string{}
	for _, part := range strings.Split(readDoc(t, "docs/errors.md"), "\n### ")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		entries[name] = text
	}
	for r := range fault.Reasons() {
		text, ok := entries[string(r)]
		if !ok {
			t.Errorf("docs/errors.md has no entry %q", r)
			continue
		}
		delete(entries, string(r))
		for _, who := range []string{"*Signer:*", "*Operator:*"} {
			if !strings.Contains(strings.Join(strings.Fields(text), " "), who) {
				t.Errorf("docs/errors.md: %s does not say what the %s does", r, strings.Trim(who, "*:"))
			}
		}
		for _, key := range r.Keys() {
			if !strings.Contains(text, "`"+key+"`") {
				t.Errorf("docs/errors.md: %s does not explain its metadata %q", r, key)
			}
		}
	}
	for name := range entries {
		t.Errorf("docs/errors.md has an entry %q that is no reason", name)
	}
}

var (
	invariantRow  = regexp.MustCompile(`(?m)^\| ([A-H]\d+) \| (.+) \| ([^|]+) \|$`)
	invariantCite = regexp.MustCompile(`//[^\n"]*?\b([A-H]\d{1,2}(?:, [A-H]\d{1,2})*)\b`)
	invariantName = regexp.MustCompile(`[A-H]\d{1,2}`)
)

// citations returns the packages whose tests cite each invariant.
func citations(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string]map[string]bool{}
	walk(t, func(dir string) bool { return dir != "." && strings.HasPrefix(path.Base(dir), ".") || dir == "docs" }, func(name string) {
		if !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "testkit/") || path.Dir(name) == "." && name != "arch_test.go" {
			return
		}
		for _, m := range invariantCite.FindAllStringSubmatch(readDoc(t, name), -1) {
			for _, n := range invariantName.FindAllString(m[1], -1) {
				if found[n] == nil {
					found[n] = map[string]bool{}
				}
				found[n][path.Dir(name)] = true
			}
		}
	})
	out := map[string][]string{}
	for n, pkgs := range found {
		out[n] = slices.Sorted(maps.Keys(pkgs))
	}
	return out
}

// The page lists all 106 invariants, and its last column names exactly the packages whose tests cite them.
func TestInvariantsPage(t *testing.T) {
	t.Parallel()
	const name = "docs/invariants.md"
	page, cited := readDoc(t, name), citations(t)
	rows := invariantRow.FindAllStringSubmatch(page, -1)
	if len(rows) != 106 {
		t.Errorf("%s has %d rows; there are 106 invariants", name, len(rows))
	}
	seen := map[string]bool{}
	for _, r := range rows {
		if seen[r[1]] {
			t.Errorf("%s: %s stands twice", name, r[1])
		}
		seen[r[1]] = true
		want := "–"
		if pkgs := cited[r[1]]; len(pkgs) > 0 {
			want = strings.Join(pkgs, ", ")
		}
		if r[3] == want {
			continue
		}
		if *update {
			page = strings.Replace(page, r[0], fmt.Sprintf("| %s | %s | %s |", r[1], r[2], want), 1)
			continue
		}
		t.Errorf("%s: %s names the tests of %q, cited by %q; run: go test . -run TestInvariants -update", name, r[1], r[3], want)
	}
	if *update {
		if err := os.WriteFile(name, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var docLink = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

// A link in the documentation leads to a file that exists.
func TestDocumentationLinks(t *testing.T) {
	t.Parallel()
	walk(t, skipped, func(name string) {
		if !strings.HasSuffix(name, ".md") {
			return
		}
		for _, m := range docLink.FindAllStringSubmatch(readDoc(t, name), -1) {
			if _, err := os.Stat(path.Join(path.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s, which does not exist", name, m[1])
			}
		}
	})
}
