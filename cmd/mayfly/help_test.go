package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
)

// The help of all commands is compared with a golden file. After a change, read the whole diff.
func TestHelp(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		path := strings.Fields(cmd.CommandPath())[1:]
		if len(path) > 0 && path[0] == "completion" { // added by cobra
			return
		}
		var help bytes.Buffer
		if status := run(t.Context(), append(path, "--help"),
			cli.Streams{In: strings.NewReader(""), Out: &help, Err: io.Discard}); status != 0 {
			t.Errorf("%s --help: exit status %d", cmd.CommandPath(), status)
		}
		out.WriteString("-- " + cmd.CommandPath() + " --\n")
		for line := range strings.Lines(help.String()) {
			out.WriteString(strings.TrimRight(line, " \n") + "\n") // cobra pads
		}
		for _, c := range cmd.Commands() {
			visit(c)
		}
	}
	visit(newRoot())
	const golden = "testdata/help.golden"
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), out.String()); d != "" {
		t.Errorf("read the new text, then run go test ./cmd/mayfly -run TestHelp -update\n%s", d)
	}
}
