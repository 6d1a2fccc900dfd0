package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
)

// The program has the commands of those who sign and verify, and no others.
func TestCommands(t *testing.T) {
	t.Parallel()
	var have []string
	for _, c := range newRoot().Commands() {
		have = append(have, c.Name())
	}
	if got := strings.Join(have, " "); got != "inspect request verify version" {
		t.Errorf("commands %q", got)
	}
}

// A client has neither key backends nor state.
func TestVersion(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	args := []string{"version", "--json"}
	if status := cli.Execute(t.Context(), newRoot(), args, cli.Streams{Out: &out, Err: &errs}); status != 0 {
		t.Fatalf("status %d: %s", status, errs.String())
	}
	if s := out.String(); !strings.Contains(s, `"go_version": "go1.`) || strings.Contains(s, "key_backends") ||
		strings.Contains(s, "reads_from") {
		t.Error(s)
	}
}

// Standard input has one content: a bundle and an artifact from it would be verified against the rest of it.
func TestVerifyStandardInput(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	args := []string{
		"verify", "-", "--artifact", "-", "--trusted-root", "x", "--identity", "alice@example.com", "--issuer", "x",
	}
	status := cli.Execute(t.Context(), newRoot(), args, cli.Streams{In: strings.NewReader("{}"), Out: &out, Err: &errs})
	if status != cli.ExitUsage || !strings.Contains(errs.String(), "only one of them can be standard input") {
		t.Errorf("status %d: %s", status, errs.String())
	}
}
