package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/status"
)

// sloFlags are the flags of "slo".
type sloFlags struct {
	adminFlags
	urls          []string
	over, within  time.Duration
	success, fast float64
	json          bool
}

func newSLO() *cobra.Command {
	f := &sloFlags{}
	cmd := &cobra.Command{
		Use:   "slo [--admin URL]... [--over DURATION]",
		Short: "Show the service level of running CAs",
		Long: "slo reads /metrics of the admin listeners of one or several CAs and prints the service level of all of\n" +
			"them together: the share of requests that got a certificate, and the share that got one in time.\n" +
			"Requests that failed by the fault of their caller do not count (docs/operations.md). The counts are\n" +
			"since the start of each CA or, with --over, of a time that begins now.\n\n" +
			"Exit status: 0 the objectives are met, 3 an objective is missed, 1 a CA cannot be reached.",
		Example: "  mayfly slo\n" +
			"  mayfly slo --admin http://10.0.0.1:2112 --admin http://10.0.0.2:2112 --over 5m --json",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			level, err := f.ask(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if f.json {
				err = cli.WriteJSON(cmd.OutOrStdout(), level)
			} else {
				err = level.Write(cmd.OutOrStdout())
			}
			if err == nil && !level.Met {
				err = &cli.Error{Status: cli.ExitFound, Err: errors.New("mayfly: an objective is missed")}
			}
			return err
		}),
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.urls, "admin", []string{"http://" + config.DefaultAdmin},
		"URL of an admin listener; may be repeated")
	fl.Var(cli.DurationFlag(&f.over, 0), "over",
		"count over this time from now on; by default since the start of each CA")
	fl.Float64Var(&f.success, "success", 99.9, "objective: percent of the requests that get a certificate")
	fl.Var(cli.DurationFlag(&f.within, time.Second), "within",
		"a certificate is in time if it takes no longer than this")
	fl.Float64Var(&f.fast, "in-time", 99, "objective: percent of the requests that get a certificate in time")
	fl.BoolVar(&f.json, "json", false, "print JSON")
	f.register(cmd)
	return cmd
}

// mostOver is the longest time that a command counts.
const mostOver = 24 * time.Hour

func (f *sloFlags) ask(ctx context.Context, stderr io.Writer) (*status.Level, error) {
	for name, percent := range map[string]float64{"success": f.success, "in-time": f.fast} {
		if !(percent > 0 && percent <= 100) {
			return nil, cli.Usage("--%s %v: write a number above 0 and up to 100", name, percent)
		}
	}
	if f.over < 0 || f.over > mostOver {
		return nil, cli.Usage("--over %s: write a duration up to 24h", f.over)
	}
	counts, err := f.counts(ctx)
	if err != nil {
		return nil, err
	}
	if f.over > 0 {
		p := terminal.NewProgress(stderr)
		p.Showf("counting for %s", human.Duration(f.over))
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(f.over):
		}
		p.Clear()
		later, err := f.counts(ctx)
		if err != nil {
			return nil, err
		}
		for i := range later {
			counts[i] = later[i].Since(counts[i])
		}
	}
	level, err := status.LevelOf(counts, status.Objectives{
		Success: f.success / 100, Within: f.within, Fast: f.fast / 100,
	})
	if err != nil {
		return nil, cli.Usage("--within: %w", err)
	}
	level.URLs = f.urls
	return level, nil
}

// counts asks each CA, one after the other.
func (f *sloFlags) counts(ctx context.Context) (out []*status.Counts, err error) {
	for _, url := range f.urls {
		o, err := f.options(url)
		if err != nil {
			return nil, err
		}
		c, err := status.AskCounts(ctx, o)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}
