package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/journal"
)

func newAuditTail() *cobra.Command {
	var from journalFlags
	var n uint64
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use:   "tail {JOURNAL | --config FILE}",
		Short: "Show the last records, and follow new ones",
		Long: "tail prints the last records of a journal, one line each. With -f it follows the journal, also into\n" +
			"the next file.",
		Example: "  mayfly audit tail -f --config /etc/mayfly/mayfly.yaml\n  mayfly audit tail -n " +
			"100 --json journal.jsonl",
		Args: cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			t, err := from.target(args)
			if err != nil {
				return err
			}
			r, err := journal.Tail(t.path, n)
			if err != nil {
				return err
			}
			defer r.Close() //nolint:errcheck // only read
			damaged := func(d *journal.Damage) { reportDamage(cmd.ErrOrStderr(), d) }
			show := recordPrinter(cmd.OutOrStdout(), asJSON)
			if !follow {
				return r.Drain(damaged, show)
			}
			return r.Follow(cmd.Context(), damaged, show)
		}),
	}
	from.add(cmd)
	cmd.Flags().Uint64VarP(&n, "lines", "n", 10, "how many records")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "follow the journal until interrupted")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the records as they are in the journal")
	return cmd
}

// recordPrinter returns a function that prints a record on one line.
func recordPrinter(w io.Writer, asJSON bool) func(journal.Entry) error {
	st := terminal.StyleFor(w)
	return func(e journal.Entry) error {
		if asJSON {
			_, err := w.Write(e.Raw)
			return err
		}
		return terminal.Flow(w, st, strings.Join(recordCells(&e.Record, st)[1:], "  "))
	}
}
