package mayfly_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
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

// Every reason has an entry that says what the reason means, what the client should do, and what the operator should
// do.
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
		for _, who := range []string{"*Client:*", "*Operator:*"} {
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
	walk(t, func(dir string) bool { return dir != "." && strings.HasPrefix(path.Base(dir), ".") || dir == "docs" },
		func(name string) {
			if !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "testkit/") ||
				path.Dir(name) == "." && name != "arch_test.go" {
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
		t.Errorf("%s: %s names the tests of %q, cited by %q; run: go test . -run TestInvariants -update",
			name, r[1], r[3], want)
	}
	if *update {
		if err := os.WriteFile(name, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var (
	docLink    = regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`)
	docHeading = regexp.MustCompile("(?m)^#{1,6} +(.+)$")
	docFence   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
)

// anchors returns the anchors that forges make from the headings of a page: lower case, hyphens for spaces, no
// punctuation.
func anchors(page string) []string {
	var out []string
	for _, m := range docHeading.FindAllStringSubmatch(docFence.ReplaceAllString(page, ""), -1) {
		out = append(out,
			strings.ReplaceAll(regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), ""), " ",
				"-"))
	}
	return out
}

// Each link in the documentation leads to an existing file, and to an existing heading of that file.
func TestDocumentationLinks(t *testing.T) {
	t.Parallel()
	known := map[string][]string{} // the anchors of each page
	walk(t, skipped, func(name string) {
		if !strings.HasSuffix(name, ".md") {
			return
		}
		for _, m := range docLink.FindAllStringSubmatch(docFence.ReplaceAllString(readDoc(t, name), ""), -1) {
			target := path.Join(path.Dir(name), m[1])
			if m[1] == "" {
				target = name
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which does not exist", name, m[1])
			} else if m[2] != "" && strings.HasSuffix(target, ".md") {
				if known[target] == nil {
					known[target] = anchors(readDoc(t, target))
				}
				if slices.Contains(known[target], m[2]) {
					continue
				}
				t.Errorf("%s links to %s#%s; %s has no such heading", name, m[1], m[2], target)
			}
		}
	})
}

// metric is a metric that the code registers.
type metric struct{ name, kind, labels, help string }

// text returns the value of a string literal, or of concatenated literals.
func text(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		a, okA := text(e.X)
		b, okB := text(e.Y)
		return a + b, okA && okB
	case *ast.ParenExpr:
		return text(e.X)
	}
	return "", false
}

// metricOf reads prometheus.NewXVec(prometheus.XOpts{Name: …, Help: …}, []string{…}), and calls of helpers and of
// prometheus.NewDesc with name, help and labels.
func metricOf(call *ast.CallExpr) (m metric) {
	function := ""
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		function = f.Sel.Name
	case *ast.Ident:
		function = f.Name
	}
	for _, kind := range []string{"counter", "gauge", "histogram", "summary"} {
		if strings.Contains(strings.ToLower(function), kind) {
			m.kind = kind
		}
	}
	var labels []string
	for i, arg := range call.Args {
		if s, ok := text(arg); ok {
			switch i {
			case 0:
				m.name = s
			case 1:
				m.help = s
			default:
				labels = append(labels, s)
			}
		}
		literal, ok := arg.(*ast.CompositeLit)
		if !ok {
			continue
		}
		for _, e := range literal.Elts {
			if pair, ok := e.(*ast.KeyValueExpr); ok {
				key, _ := pair.Key.(*ast.Ident)
				value, isText := text(pair.Value)
				switch {
				case key == nil || !isText:
				case key.Name == "Name":
					m.name = value
				case key.Name == "Help":
					m.help = value
				}
				if constant, ok := pair.Value.(*ast.CompositeLit); ok && key != nil && key.Name == "ConstLabels" {
					for _, e := range constant.Elts {
						if label, ok := text(e.(*ast.KeyValueExpr).Key); ok {
							labels = append(labels, label)
						}
					}
				}
			} else if s, ok := text(e); ok {
				labels = append(labels, s)
			}
		}
	}
	if strings.HasPrefix(m.name, "mayfly_ctlog_") && len(labels) == 0 {
		labels = []string{"log"} // a constant label of all of them
	}
	m.labels = strings.Join(labels, ", ")
	return m
}

// metrics are those of the product, by name.
func metrics(t *testing.T) map[string]metric {
	t.Helper()
	found := map[string]metric{}
	for _, f := range parseAll(t) {
		tree := f.tree
		if f.test() || f.testkit() {
			continue
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if m := metricOf(call); strings.HasPrefix(m.name, "mayfly_") && m.help != "" {
					if strings.HasSuffix(m.name, "_total") {
						m.kind = "counter"
					}
					if old, known := found[m.name]; !known || old.kind == "" || len(m.labels) > len(old.labels) {
						found[m.name] = m
					}
				}
			}
			return true
		})
	}
	return found
}

// docs/operations.md lists every metric that the code registers, with its meaning, and no page names one that does not
// exist.
func TestMetricsPage(t *testing.T) {
	t.Parallel()
	const name, begin, end = "docs/operations.md", "<!-- metrics -->\n", "<!-- end of metrics -->"
	known := metrics(t)
	if len(known) < 40 {
		t.Fatalf("only %d metrics found", len(known))
	}
	rows := "\n| metric | type | labels | what it says |\n|---|---|---|---|\n"
	for _, key := range slices.Sorted(maps.Keys(known)) {
		m := known[key]
		labels := "–"
		if m.labels != "" {
			labels = "`" + strings.ReplaceAll(m.labels, ", ", "`, `") + "`"
		}
		kind := m.kind
		if kind == "" {
			kind = "gauge" // the type of what a collector measures when it is asked
		}
		rows += fmt.Sprintf("| `%s` | %s | %s | %s |\n", key, kind, labels, strings.ReplaceAll(m.help, "|", `\|`))
	}
	page := readDoc(t, name)
	head, rest, ok := strings.Cut(page, begin)
	_, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place for the metrics", name)
	}
	if want := head + begin + rows + "\n" + end + tail; want != page {
		if !*update {
			t.Errorf("%s does not list the metrics of the code; run: go test . -run TestMetricsPage -update", name)
		} else if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	suffix := regexp.MustCompile(`_(bucket|sum|count)$`)
	walk(t, skipped, func(name string) {
		if !strings.HasSuffix(name, ".md") || name == "CHANGELOG.md" || name == "docs/decisions.md" {
			return
		}
		for _, m := range regexp.MustCompile("`(mayfly_[a-z0-9_]+)(…?)").FindAllStringSubmatch(readDoc(t, name), -1) {
			if _, ok := known[suffix.ReplaceAllString(m[1], "")]; !ok && m[2] == "" {
				if _, ok := known[m[1]]; !ok {
					t.Errorf("%s names the metric %s, which the code does not register", name, m[1])
				}
			}
		}
	})
}
