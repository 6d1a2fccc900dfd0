package fault_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/fault"
)

// F7: every reason of the table has a place in the production code that produces it: a reason without one
// would be documented although no client can get it.
func TestEveryReasonHasAProducer(t *testing.T) {
	t.Parallel()
	const table = "reason_table.go"
	tree, err := parser.ParseFile(token.NewFileSet(), table, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	constants := map[string]fault.Reason{} // by name
	ast.Inspect(tree, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Reason" {
			if literal, ok := spec.Values[0].(*ast.BasicLit); ok {
				text, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				constants[spec.Names[0].Name] = fault.Reason(text)
			}
		}
		return true
	})
	produced := producers(t)
	known := map[fault.Reason]bool{}
	for name, reason := range constants {
		known[reason] = true
		if produced[name] == "" {
			t.Errorf("%s: no production code returns it", reason)
		}
	}
	for reason := range fault.Reasons() {
		if !known[reason] {
			t.Errorf("%s is in the table and has no constant", reason)
		}
	}
}

// producers has, for each name that production code uses to make an error or an answer, one file that does: the first
// argument of [fault.New], a Reason that is returned or assigned, or one that becomes the text of an answer.
func producers(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		switch base := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && name != ".." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "testkit" ||
			base == "client"):
			return filepath.SkipDir // a client reads reasons
		case d.IsDir():
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil && name != ".." {
				return filepath.SkipDir // another module
			}
			return nil
		case !strings.HasSuffix(base, ".go") || strings.HasSuffix(base, "_test.go") || base == "reason_table.go":
			return nil
		}
		tree, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			return err
		}
		use := func(e ast.Expr) {
			switch e := e.(type) {
			case *ast.SelectorExpr:
				if x, ok := e.X.(*ast.Ident); ok && x.Name == "fault" {
					out[e.Sel.Name] = name
				}
			case *ast.Ident:
				if tree.Name.Name == "fault" {
					out[e.Name] = name
				}
			}
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			// fault.New(fault.X, …), string(fault.X), a helper of the package with the reason as an argument
			case *ast.CallExpr:
				for _, argument := range n.Args {
					use(argument)
				}
			case *ast.ReturnStmt:
				for _, result := range n.Results {
					use(result)
				}
			case *ast.AssignStmt:
				for _, value := range n.Rhs {
					use(value)
				}
			case *ast.KeyValueExpr:
				use(n.Value)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
