package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mayfly-ca/mayfly/testkit/process"
)

// The scripts run this test binary as "mayfly-bench", and a mayfly binary that TestScripts builds.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mayfly-bench": main})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	process.Build(t, process.Program{Package: "../mayfly", Out: filepath.Join(bin, "mayfly")})
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("NO_COLOR", "1")
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// dev starts "mayfly dev" on free ports, and sets URL and ADMIN
			"dev": func(ts *testscript.TestScript, _ bool, args []string) {
				p, err := process.DevOf(filepath.Join(bin, "mayfly"), ts.Getenv("WORK"), args...)
				ts.Check(err)
				ts.Setenv("URL", p.URL)
				ts.Setenv("ADMIN", p.Admin)
				ts.Defer(func() { ts.Check(p.Stop()) })
			},
		},
	})
}
