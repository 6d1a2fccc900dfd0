package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mayfly-ca/mayfly/ceremony"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// The scripts run this test binary as "mayfly", with a key derivation that is quick with the race detector.
func TestMain(m *testing.M) {
	if keyIterations != ceremony.DefaultIterations {
		panic("the key derivation of the program is another one than that of package ceremony")
	}
	keyIterations = 1000
	// Most of these tests wait for other processes. A value on the command line of the test binary, which testscript
	// parses, wins.
	if err := flag.Set("test.parallel", strconv.Itoa(max(waitingTests, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){"mayfly": main})
}

// waitingTests is how many tests run at once on a machine with few processors.
const waitingTests = 5

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("NO_COLOR", "1")
			bundles, err := filepath.Abs("../../trust/testdata")
			if err != nil {
				return err
			}
			e.Setenv("BUNDLES", bundles)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"dev": cmdDev, "occupy": cmdOccupy, "status": cmdStatus, "eventually": cmdEventually,
		},
	})
}

// cmdDev starts "mayfly dev" on free ports with the given further flags, and sets URL, GRPC, ISSUER and ADMIN. When the
// script ends, the process gets an interrupt and must stop in time without an error.
func cmdDev(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: dev [FLAG...]")
	}
	p, err := process.Dev(ts.Getenv("WORK"), args...)
	ts.Check(err)
	ts.Setenv("URL", p.URL)
	ts.Setenv("GRPC", p.GRPC)
	ts.Setenv("ISSUER", p.Issuer)
	ts.Setenv("ADMIN", p.Admin)
	ts.Defer(func() { ts.Check(p.Stop()) })
}

// cmdOccupy listens on a free port for the rest of the script and puts the address into the named variable.
func cmdOccupy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: occupy VARIABLE")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

// cmdEventually runs mayfly repeatedly until its output matches, for at most ten seconds: eventually PATTERN ARG...
func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually PATTERN ARG...")
	}
	want := regexp.MustCompile(args[0])
	// the state of another process can only be polled
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := ts.Exec("mayfly", args[1:]...)
		out := ts.ReadFile("stdout")
		if err == nil && want.MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v: no %q in %q", err, args[0], out)
		}
	}
}

// cmdStatus runs mayfly and compares its exit status, which testscript's exec does not report: status CODE ARG...
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: status CODE ARG...")
	}
	err := ts.Exec("mayfly", args[1:]...)
	got := 0
	if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // testscript returns the error unwrapped
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, std cli.Streams) int {
	return cli.Execute(ctx, newRoot(), args, std)
}
