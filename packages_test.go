package mayfly_test

import (
	"cmp"
	"fmt"
	"go/doc"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// room is a row of the table of packages in CONTRIBUTING.md.
type room struct {
	name, contract string
	imports        map[string]bool
}

// roomOf returns the row of the table that a package belongs to, or "" for none.
func roomOf(pkg string) string {
	switch first, _, _ := strings.Cut(pkg, "/"); first {
	case "proto", "testkit":
		return first
	case ".", "docs":
		return ""
	}
	return pkg
}

// rooms are the packages of the product, each with the first sentence of its comment and the packages that it imports.
func rooms(t *testing.T) map[string]*room {
	t.Helper()
	out := map[string]*room{}
	for _, f := range parseAll(t) {
		name := roomOf(f.pkg)
		if f.test() || name == "" {
			continue
		}
		r := out[name]
		if r == nil {
			r = &room{name: name, imports: map[string]bool{}}
			out[name] = r
		}
		if text := new(doc.Package).Synopsis(f.tree.Doc.Text()); text != "" {
			_, text, _ = strings.Cut(text, " ") // "Package" or "Command"
			_, r.contract, _ = strings.Cut(text, " ")
		}
		for _, p := range f.imports {
			ours, ok := strings.CutPrefix(p, module+"/")
			if ok && roomOf(ours) != name && !strings.HasPrefix(ours, "internal/") {
				r.imports[roomOf(ours)] = true
			}
		}
	}
	out["proto"].contract = "has the API: the .proto files, the code that is generated from them, " +
		"and the OpenAPI document"
	out["testkit"].contract = "helps tests: virtual providers, logs and clients, an independent " +
		"checker of certificates, " +
		"planted defects"
	return out
}

// floor returns the length of the longest chain of imports below a package.
func floor(all map[string]*room, name string) int {
	n := 0
	for below := range all[name].imports {
		if all[below] != nil {
			n = max(n, 1+floor(all, below))
		}
	}
	return n
}

// CONTRIBUTING.md lists each package with the first sentence of its comment and its imports; packages that others use
// come first.
func TestPackagesTable(t *testing.T) {
	t.Parallel()
	const name, begin, end = "CONTRIBUTING.md", "<!-- packages -->\n", "<!-- end of packages -->"
	all := rooms(t)
	rows := "\n| package | what it does | imports |\n|---|---|---|\n"
	for _, r := range slices.SortedFunc(maps.Values(all), func(a, b *room) int {
		return cmp.Or(cmp.Compare(shelf(a.name), shelf(b.name)), cmp.Compare(floor(all, a.name), floor(all, b.name)),
			strings.Compare(a.name, b.name))
	}) {
		if r.contract == "" {
			t.Errorf("package %s has no comment", r.name)
		}
		imports := strings.Join(slices.Sorted(maps.Keys(r.imports)), ", ")
		if r.name == "testkit" {
			imports = "everything; only tests import it"
		}
		rows += fmt.Sprintf("| `%s` | %s | %s |\n", r.name, strings.TrimSuffix(r.contract, "."), cmp.Or(imports, "–"))
	}
	page := readDoc(t, name)
	head, rest, ok := strings.Cut(page, begin)
	_, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place for the packages", name)
	}
	if want := head + begin + rows + "\n" + end + tail; want != page {
		if !*update {
			t.Errorf("%s does not list the packages of the code; run: go test . -run TestPackagesTable -update", name)
		} else if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// shelf orders the table: internal packages, then the product, then commands, then packages that only tests use.
func shelf(pkg string) int {
	first, _, _ := strings.Cut(pkg, "/")
	return cmp.Or(map[string]int{"internal": -1, "cmd": 1, "testkit": 2}[first], 0)
}
