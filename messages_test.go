package mayfly_test

import (
	"go/ast"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// messageCalls lists the functions with a message among their arguments, and the positions of those arguments.
var messageCalls = map[string][]int{
	"errors.New": {0}, "fmt.Errorf": {0}, "usage": {0}, "cli.Usage": {0}, "Usage": {0}, "usageErrorf": {0},
	"fault.BadSetting": {0, 1}, "WithPublic": {0}, "Cure": {1},
	"http.Error": {1},
	"refuse":     {1, 2}, "showError": {1}, "Info": {0}, "Warn": {0}, "Error": {0}, "Debug": {0}, "warning": {1},
	"BadContent": {1},
}

// messageFields are the fields of structs that contain messages.
var messageFields = []string{"What", "Fix", "Problem", "Cause", "Warning", "Text", "Public"}

// template is the text of an expression, with {} in place of each part that is known only at run time.
func template(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		return template(e.X) + template(e.Y)
	case *ast.ParenExpr:
		return template(e.X)
	case *ast.CallExpr:
		if name := calledName(e); name == "fmt.Sprintf" && len(e.Args) > 0 {
			return template(e.Args[0])
		}
	case *ast.BasicLit:
		if s, ok := text(e); ok {
			return regexp.MustCompile(`%[-+# 0-9.*]*[a-zA-Z]`).ReplaceAllString(s, "{}")
		}
	}
	return "{}"
}

func calledName(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok {
			if full := x.Name + "." + f.Sel.Name; messageCalls[full] != nil || full == "fmt.Sprintf" {
				return full
			}
		}
		return f.Sel.Name
	}
	return ""
}

// messages are the texts of the product that people read, each with its package, sorted.
func messages(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, f := range parseAll(t) {
		name, tree := f.path, f.tree
		if f.test() ||
			strings.HasSuffix(name, ".pb.go") || strings.HasSuffix(name, ".pb.gw.go") || f.testkit() {
			continue
		}
		add := func(e ast.Expr) {
			if m := template(e); strings.ContainsFunc(strings.ReplaceAll(m, "{}", ""),
				func(r rune) bool { return r >= 'a' && r <= 'z' }) {
				out = append(out, path.Dir(name)+": "+strings.ReplaceAll(m, "\n", " / "))
			}
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				for _, i := range messageCalls[calledName(n)] {
					if i < len(n.Args) {
						add(n.Args[i])
					}
				}
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && slices.Contains(messageFields, key.Name) {
					add(n.Value)
				}
			case *ast.ValueSpec: // the messages of the reasons
				for i, id := range n.Names {
					if strings.HasPrefix(id.Name, "msg") && i < len(n.Values) {
						add(n.Values[i])
					}
				}
			}
			return true
		})
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// vague matches words that give an operator no term to search for, and word forms that depend on a number.
var vague = regexp.MustCompile(`(?i)\b(he|him|his|whoever|somebody|thief|stolen by)\b|\(s\)`)

// The golden file lists every message of a command, of an error and of the log, so that changes are reviewed as text.
func TestMessages(t *testing.T) {
	t.Parallel()
	all := messages(t)
	if len(all) < 500 {
		t.Fatalf("only %d messages found", len(all))
	}
	for _, m := range all {
		if word := vague.FindString(m); word != "" {
			t.Errorf("%q: write the noun in place of %q", m, word)
		}
	}
	const golden = "testdata/messages.golden"
	got := strings.Join(all, "\n") + "\n"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(readDoc(t, golden), got); d != "" {
		t.Errorf("read the new messages, then run go test . -run TestMessages -update\n%s", d)
	}
}
