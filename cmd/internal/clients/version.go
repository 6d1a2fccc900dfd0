package clients

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/internal/version"
)

// NewVersion returns "mayfly version". details adds what the program knows beyond the build information; it may be nil.
func NewVersion(details func(*version.Info)) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show what this binary was built from, and what it includes",
		Args:  cobra.NoArgs,
		RunE: cli.Perform(func(cmd *cobra.Command, _ []string) error {
			b := version.Read()
			if details != nil {
				details(&b)
			}
			if asJSON {
				return cli.WriteJSON(cmd.OutOrStdout(), b)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "mayfly")
			return versionTable(b).Write(cmd.OutOrStdout(), terminal.StyleFor(cmd.OutOrStdout()))
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func versionTable(b version.Info) *terminal.Table {
	t := &terminal.Table{}
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
	if b.Tags != "" {
		t.Add("build tags", b.Tags)
	}
	if b.FIPS140.State != "off" {
		t.Add("FIPS 140-3", b.FIPS140.State+", module "+b.FIPS140.Module)
	}
	var keys, state []string
	for _, k := range b.KeyBackends {
		name := k.Name
		if k.Services != nil {
			name += " (" + strings.Join(k.Services, ", ") + ")"
		}
		keys = append(keys, name)
	}
	for _, f := range b.State {
		versions := strconv.Itoa(f.Writes)
		if f.Reads < f.Writes {
			versions = fmt.Sprintf("%d to %d", f.Reads, f.Writes)
		}
		state = append(state, f.Name+" "+versions)
	}
	if keys != nil {
		t.Add("key backends", strings.Join(keys, ", "))
	}
	if state != nil {
		t.Add("state formats", strings.Join(state, ", "))
	}
	return t
}
