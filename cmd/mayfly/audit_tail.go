package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/journal"
)

// followEvery is how often a journal is looked at for new records.
const followEvery = 100 * time.Millisecond

func newAuditTail() *cobra.Command {
	var from journalFlags
	var n uint64
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use:   "tail {JOURNAL | --config FILE}",
		Short: "Show the last records, and follow new ones",
		Long: "tail prints the last records of a journal, one line each. With -f it follows the journal, also " +
			"into the next file.",
		Example: "  mayfly audit tail -f --config /etc/mayfly/mayfly.yaml\n  mayfly audit tail -n 100 --json journal.jsonl",
		Args:    cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			t, err := from.target(args)
			if err != nil {
				return err
			}
			last, err := journal.Last(t.path)
			if err != nil {
				return err
			}
			if n > last {
				n = last
			}
			r := journal.NewReader(t.path, last-n+1)
			defer r.Close() //nolint:errcheck // only read
			p := tailPrinter{out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), json: asJSON}
			if !follow {
				return p.drain(r)
			}
			return p.follow(cmd.Context(), r)
		}),
	}
	from.add(cmd)
	cmd.Flags().Uint64VarP(&n, "lines", "n", 10, "how many records")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "follow the journal until interrupted")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the records as they are in the journal")
	return cmd
}

// tailPrinter prints records one by one.
type tailPrinter struct {
	out, err io.Writer
	json     bool
}

// drain prints what is there.
func (p tailPrinter) drain(r *journal.Reader) error {
	for {
		e, err := r.Next()
		var d *journal.Damage
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &d):
			reportDamage(p.err, d)
			continue
		case err != nil:
			return err
		}
		if err := p.print(e); err != nil {
			return err
		}
	}
}

func (p tailPrinter) follow(ctx context.Context, r *journal.Reader) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		if err := p.drain(r); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (p tailPrinter) print(e journal.Entry) error {
	if p.json {
		_, err := p.out.Write(e.Raw)
		return err
	}
	st := terminal.StyleFor(p.out)
	return terminal.Flow(p.out, st, strings.Join(recordCells(&e.Record, st)[1:], "  "))
}
