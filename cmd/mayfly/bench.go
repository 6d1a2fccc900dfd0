package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
)

// newBench returns the command "bench", the former name of mayfly-bench, which it executes.
func newBench() *cobra.Command {
	return &cobra.Command{
		Use:                "bench",
		Short:              "Measure how many certificates a CA issues; the tool is now mayfly-bench",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			if slices.Contains(args, "--help") || slices.Contains(args, "-h") {
				return cmd.Help()
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			tool, err := exec.LookPath(filepath.Join(filepath.Dir(self), "mayfly-bench"))
			if err != nil {
				tool, err = exec.LookPath("mayfly-bench")
			}
			if err != nil {
				return cli.Usage("the load tool mayfly-bench is neither in the directory of mayfly "+
					"nor on the PATH; run %s",
					strings.Join(append([]string{"go run github.com/mayfly-ca/mayfly/cmd/mayfly-bench --mayfly " +
						self}, args...), " "))
			}
			argv := append([]string{tool, "--mayfly", self}, args...)
			return fmt.Errorf("%s: %w", tool, syscall.Exec(tool, argv, os.Environ())) //nolint:gosec // the same arguments
		}),
	}
}
