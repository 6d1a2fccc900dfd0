package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestListsFit checks that each entry of the lists matches the code exactly once: a change of such a line must also
// change the entry.
func TestListsFit(t *testing.T) {
	t.Parallel()
	list, err := readLists(".")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatal("no list has an entry")
	}
	for _, m := range list {
		if _, err := m.apply("../.."); err != nil {
			t.Errorf("%s (%s): %v; correct the entry", m.place(), m.title, err)
		}
	}
}

const entry = "# the bound is off\nfile: x.go\ntest: ./ -run 'TestA|TestB'\n--- \nn < 3\n+++\nn < 4\n===\n"

func TestParseList(t *testing.T) {
	t.Parallel()
	got, err := parseList("x", "\n"+entry+"\n# two\n# lines\nfile: a/b.go\n---\nif bad {\n\treturn err\n}\n+++\n===\n")
	want := []mutant{
		{
			area: "x", line: 2, title: "the bound is off", file: "x.go", test: []string{"./", "-run", "TestA|TestB"},
			old: "n < 3", new: "n < 4",
		},
		{
			area: "x", line: 11, title: "two lines", file: "a/b.go", test: []string{"./a"},
			old: "if bad {\n\treturn err\n}",
		},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(mutant{})); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	for name, text := range map[string]string{
		"no end":        strings.TrimSuffix(entry, "===\n"),
		"only a title":  "# x\n",
		"no file":       strings.Replace(entry, "file: x.go\n", "", 1),
		"no title":      strings.Replace(entry, "# the bound is off\n", "", 1),
		"no difference": strings.Replace(entry, "n < 4", "n < 3", 1),
		"no text":       strings.Replace(entry, "n < 3\n", "", 1),
		"twice":         entry + entry,
		"open quote":    strings.Replace(entry, "TestB'", "TestB", 1),
		"other words":   "n < 3\n" + entry,
	} {
		if list, err := parseList("x", text); err == nil {
			t.Errorf("%s: accepted: %+v", name, list)
		}
	}
}

func TestChosen(t *testing.T) {
	t.Parallel()
	m := mutant{area: "ca", title: "backdate is ignored"}
	for only, want := range map[string]bool{
		"": true, "ca": true, "oidc": false, "oidc,ca": true, "ca: backdate": true, "ca: serial": false,
		"backdate": false,
	} {
		if m.chosen(only) != want {
			t.Errorf("%q: %v", only, !want)
		}
	}
}

// TestRun plants defects in a temporary module, one for each way in which a mutant can end.
func TestRun(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/x\n\ngo 1.26\n",
		"x.go": "package x\n\n// Add adds.\nfunc Add(a, b int) int { return a + b }\n\n// Sub subtracts.\nfunc " +
			"Sub(a, b int) int { return a - b }\n",
		"x_test.go": "package x\n\nimport \"testing\"\n\nfunc TestAdd(t *testing.T) {\n" +
			"\tif Add(1, 2) != 3 {\n\t\tt.Fatal(\"not 3\")\n\t}\n}\n",
		"testkit/mutants/a.txt": "# it subtracts\nfile: x.go\n---\na + b\n+++\na - b\n===\n" +
			"# it adds\nfile: x.go\n---\nreturn a - b\n+++\nreturn a + b\n===\n",
		"testkit/mutants/b.txt": "# it never returns\nfile: x.go\ntest: .\n---\n{ return a + b " +
			"}\n+++\n{ for { a++ } }\n===\n",
		"testkit/mutants/c.txt": "# not there\nfile: x.go\n---\na * b\n+++\na - b\n===\n# does not build\nfile: " +
			"x.go\n---\na + b\n+++\na + c\n===\n",
		"testkit/mutants/d.txt": "# no test runs\nfile: x.go\ntest: . -run TestNone\n---\na + b\n+++\na - b\n===\n",
		"testkit/mutants/e.txt": "# it panics\nfile: x.go\n---\na + b\n+++\na / (b-2)\n===\n",
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for only, want := range map[string]struct {
		status int
		said   string
	}{
		"a: it subtracts": {0, "1 defects: 1 caught, 0 survive, 0 hang, 0 do not fit the code"},
		"a":               {1, "survives  testkit/mutants/a.txt:8  x.go  it adds"},
		"b":               {1, "hangs  testkit/mutants/b.txt:1  x.go  it never returns"},
		"c":               {2, "testkit/mutants/c.txt:1: the text occurs 0 times in x.go, want once"},
		"c: does not":     {2, "undefined: c"},
		"d":               {2, "the tests fail without a defect"},
		"e":               {0, "1 caught"},
		"f":               {2, `no mutant is named "f"`},
	} {
		t.Run(only, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			limit := time.Minute
			if only == "b" {
				limit = time.Second
			}
			if got := run(t.Context(), options{
				root: root, only: only, limit: limit, jobs: 2,
				out: &out,
			}); got != want.status {
				t.Errorf("exit status %d, want %d", got, want.status)
			}
			if !strings.Contains(out.String(), want.said) {
				t.Errorf("%q is not in\n%s", want.said, out.String())
			}
		})
	}
}

func FuzzParseList(f *testing.F) {
	f.Add(entry)
	f.Add("# x\nfile: y\n---\na\n+++\n===\n===\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseList("x", text)
		if err != nil {
			return
		}
		for _, m := range list {
			if m.title == "" || m.file == "" || m.old == "" || m.old == m.new || m.line == 0 {
				t.Errorf("%q: %+v", text, m)
			}
		}
	})
}
