// Package pages has mayfly write its own manual pages and shell completions.
//
// A binary for this machine and a date go in. Two directories come out: man with a page for each command, and
// completions with a file for each shell. The same version of mayfly and the same date MUST give the same files.
package pages

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// The directories that [Write] makes.
const (
	Manuals     = "man"
	Completions = "completions"
)

// Shells are the shells with a completion, and the names of their files.
var Shells = map[string]string{
	"bash": "mayfly.bash", "zsh": "mayfly.zsh", "fish": "mayfly.fish", "powershell": "mayfly.ps1",
}

// limit is the time that one run of the binary may need.
const limit = time.Minute

// Write writes both directories into dir. They must not exist.
func Write(ctx context.Context, binary string, date time.Time, dir string) error {
	for _, name := range []string{Manuals, Completions} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // everyone may read what a release contains
			return err
		}
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil { //nolint:gosec // as above
			return err
		}
	}
	if _, err := run(ctx, binary, "manual", "--out", filepath.Join(dir, Manuals),
		"--date", date.UTC().Format(time.DateOnly)); err != nil {
		return err
	}
	for shell, name := range Shells {
		text, err := run(ctx, binary, "completion", shell)
		if err != nil {
			return err
		}
		//nolint:gosec // as above
		if err := os.WriteFile(filepath.Join(dir, Completions, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, binary string, arguments ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, arguments...) //nolint:gosec // the program of this release
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", binary, arguments[0], err, bytes.TrimSpace(complaints.Bytes()))
	}
	return out.Bytes(), nil
}
