package e2e_test

import (
	"os"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// TestWalkthroughs runs the shell lines of docs/walkthroughs.md, in one shell and in their order.
func TestWalkthroughs(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	page, err := os.ReadFile("../docs/walkthroughs.md")
	if err != nil {
		t.Fatal(err)
	}
	script := "set -eu\ntrap 'kill $(jobs -p); wait' EXIT\n"
	blocks := strings.Split(string(page), "```sh\n")[1:]
	for _, b := range blocks {
		lines, _, _ := strings.Cut(b, "```\n")
		script += lines
	}
	if len(blocks) < 5 {
		t.Fatalf("%d blocks", len(blocks))
	}
	r := l.Run(lab.Command{Name: "bash", Args: []string{l.Write("walkthroughs.sh", script+"echo all done\n")}})
	t.Log(r.Stdout)
	if !strings.HasSuffix(strings.TrimSpace(r.Stdout), "all done") {
		t.Errorf("not to the end:\n%s%s", r.Stdout, r.Stderr)
	}
}
