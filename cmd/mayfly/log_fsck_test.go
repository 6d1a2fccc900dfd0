package main

import (
	"bytes"
	"errors"
	"testing"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/monitor"
)

// "log fsck" exits with status 3 for any number of findings.
func TestFsckExit(t *testing.T) {
	t.Parallel()
	for n, want := range []int{0, cli.ExitFound, cli.ExitFound} {
		var out bytes.Buffer
		err := printFsck(&out, []fsckReport{{Log: "a"}, {Log: "b", Findings: make([]monitor.Finding, n)}}, false)
		got := 0
		var s *cli.Error
		if errors.As(err, &s) {
			got = s.Status
		}
		if got != want {
			t.Errorf("%d faults: exit %d, want %d", n, got, want)
		}
	}
}
