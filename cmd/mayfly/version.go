package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/internal/version"
)

func newVersion() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show what this binary was built from",
		Args:  cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			b := version.Read()
			if asJSON {
				return cli.WriteJSON(cmd.OutOrStdout(), b)
			}
			var t terminal.Table
			t.Add("version", b.Version)
			if b.Commit != "" {
				commit := b.Commit
				if b.Modified {
					commit += " (modified)"
				}
				t.Add("commit", commit)
				t.Add("date", b.Date)
			}
			t.Add("go", b.GoVersion)
			t.Add("platform", b.Platform)
			if b.FIPS140.State != "off" {
				t.Add("FIPS 140-3", b.FIPS140.State+", module "+b.FIPS140.Module)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "mayfly")
			return t.Write(cmd.OutOrStdout(), terminal.StyleFor(cmd.OutOrStdout()))
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
