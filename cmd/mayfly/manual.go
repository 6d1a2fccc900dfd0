package main

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/cmd/internal/manual"
	"github.com/mayfly-ca/mayfly/internal/version"
)

func newManual() *cobra.Command {
	var out, date string
	cmd := &cobra.Command{
		Use:   "manual --out DIR",
		Short: "Write the manual pages of all commands",
		Long: "manual writes one page for each command, for man(1). The packages contain the pages; a build from\n" +
			"source makes them with this command. The same binary and the same date give the same files.",
		Example: "  mayfly manual --out /usr/local/share/man/man1",
		Hidden:  true,
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return cli.Usage("--out is missing; write the directory for the pages")
			}
			b := version.Read()
			var at time.Time
			var err error
			switch {
			case date != "":
				at, err = time.Parse(time.DateOnly, date)
			case b.Date != "":
				at, err = time.Parse(time.RFC3339, b.Date)
			default:
				return cli.Usage("--date is missing, and this binary was not built from a commit; write a date such " +
					"as 2026-11-30")
			}
			if err != nil {
				return cli.Usage("--date %q: write a date such as 2026-11-30", date)
			}
			pages, err := manual.Pages(cmd.Root(), manual.Options{Date: at, Version: b.Version})
			if err != nil {
				return err
			}
			if err := os.MkdirAll(out, 0o755); err != nil { //nolint:gosec // every user reads the pages
				return err
			}
			var errs []error
			for _, p := range pages {
				errs = append(errs, os.WriteFile(filepath.Join(out, p.Name), p.Text, 0o644)) //nolint:gosec // as above
			}
			return errors.Join(errs...)
		}),
	}
	cmd.Flags().StringVar(&out, "out", "", "directory for the pages (required)")
	cmd.Flags().StringVar(&date, "date", "", "date of the pages, such as 2026-11-30 (default: that of the commit)")
	return cmd
}
