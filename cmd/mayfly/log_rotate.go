package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/tlog"
)

type logRotateFlags struct {
	log, config, at, name  string
	yes, unpublished, json bool
	restored               bool
}

func newLogRotate(o *cli.Common) *cobra.Command {
	f := &logRotateFlags{}
	cmd := &cobra.Command{
		Use:   "rotate --config FILE",
		Short: "Make the next shard of a log, with a new key",
		Long: "rotate shows the shards after the rotation; with --yes, it makes the new shard. The new shard becomes\n" +
			"active at --at, and the previous shard ends 20 minutes later. A running CA applies the change on its\n" +
			"own. Before --at, give verifiers a trusted root that has the new key (\"mayfly trust export\" lists\n" +
			"every shard). That takes time, so --at must be at least the lead of the log in the future. A log of\n" +
			"signatures whose keys are configured needs one more key, in rekor.next_keys.",
		Example: "  mayfly log rotate --config mayfly.yaml --at 2027-01-01T00:00:00Z\n" +
			"  mayfly log rotate --config mayfly.yaml --at 2027-01-01T00:00:00Z --name 2027 --yes",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			if f.restored { // the shards that are closed have messages of their own
				if _, err := o.NewLogger(cmd.ErrOrStderr()); err != nil {
					return err
				}
				return f.replace(cmd.Context(), cmd.OutOrStdout())
			}
			return f.run(cmd.Context(), cmd.OutOrStdout(), time.Now())
		}),
	}
	fl := cmd.Flags()
	registerLog(fl, &f.log)
	fl.StringVar(&f.config, "config", "", "configuration file (required)")
	fl.StringVar(&f.at, "at", "",
		"when the new shard becomes active, RFC 3339 (default: the next date of the log's schedule, or midnight, "+
			"that is at least the lead away)")
	fl.StringVar(&f.name, "name", "", "name of the new shard, in its origin and its path (default: from the date)")
	fl.BoolVar(&f.yes, "yes", false, "make the shard; without this flag nothing changes")
	fl.BoolVar(&f.unpublished, "unpublished", false,
		"allow an --at sooner than the lead: verifiers without the new key refuse what is signed from then on")
	fl.BoolVar(&f.restored, "restored", false,
		"close every shard of the logs that were restored from a backup, and make new ones that are active at once")
	fl.BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

func (f *logRotateFlags) run(ctx context.Context, w io.Writer, now time.Time) (err error) {
	if f.config == "" {
		return cli.Usage("--config is missing; write --config FILE")
	}
	kind, err := kindOf(f.log)
	if err != nil {
		return err
	}
	cfg, c, err := logOf(f.config, kind)
	if err != nil {
		return err
	}
	if kind == tlog.Rekor {
		var closeKeys func() error
		if c, closeKeys, err = node.RekorLog(ctx, cfg); err != nil {
			return located(cfg, err)
		}
		defer func() { err = errors.Join(err, closeKeys()) }()
	}
	r := tlog.Rotation{Name: f.name, Unpublished: f.unpublished}
	if f.at != "" {
		if r.At, err = time.Parse(time.RFC3339, f.at); err != nil {
			return cli.Usage("--at %q: write a time such as 2027-01-01T00:00:00Z", f.at)
		}
	} else if f.unpublished {
		r.At = now
	}
	shards, err := c.PlanShard(r, now)
	if err == nil && f.yes {
		if _, err = c.MakeShard(r, now); err == nil {
			shards, err = c.Shards()
		}
	}
	if errors.Is(err, tlog.ErrTooSoon) {
		return cli.Usage("%v, or add --unpublished: every signature with a promise of the new shard then fails to "+
			"verify for clients that do not have the key yet", err)
	}
	if s := new(fault.Setting); errors.As(err, &s) && len(s.Path) == 1 && (s.Path[0] == "at" || s.Path[0] == "name") {
		return cli.Usage("--%s: %s; %s", s.Path[0], s.Problem, s.Fix)
	}
	if err != nil {
		return located(cfg, fault.Under(err, blockOf(c.Kind)...))
	}
	if f.json {
		return cli.WriteJSON(w, shards)
	}
	return f.print(w, shards)
}

// replace closes the shards of each log of the configuration that was restored.
func (f *logRotateFlags) replace(ctx context.Context, w io.Writer) (err error) {
	if f.config == "" {
		return cli.Usage("--config is missing; write --config FILE")
	}
	if f.at != "" || f.name != "" || f.unpublished {
		return cli.Usage("--restored makes a shard that is active at once; remove --at, --name and --unpublished")
	}
	if !f.yes {
		return cli.Usage("--restored closes every shard of the logs that were restored; add --yes to do that")
	}
	cfg, _, err := config.Load(f.config)
	if err != nil {
		return cli.Misconfigured(err)
	}
	logs, release, err := node.ProcessLogs(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	replaced := [][]tlog.Shard{}
	for _, l := range logs {
		if !l.Config.Marked() {
			continue
		}
		if _, err := l.Config.Replace(ctx, tlog.Options{UserAgent: version.UserAgent()}); err != nil {
			return located(cfg, fault.Under(err, l.Setting...))
		}
		shards, err := l.Config.Shards()
		if err != nil {
			return err
		}
		replaced = append(replaced, shards)
	}
	switch {
	case len(replaced) == 0:
		return cli.Usage("--restored: no log of %s was restored from a backup", f.config)
	case f.json:
		return cli.WriteJSON(w, replaced)
	}
	for _, shards := range replaced {
		if err := f.print(w, shards); err != nil {
			return err
		}
	}
	return nil
}

// blockOf returns the path of a log's settings in the configuration.
func blockOf(kind tlog.Kind) []string {
	if kind == tlog.Rekor {
		return []string{"rekor"}
	}
	return []string{"ct", "embedded"}
}

func (f *logRotateFlags) print(w io.Writer, shards []tlog.Shard) error {
	st := terminal.StyleFor(w)
	g := terminal.Grid{
		Head:  []string{"shard", "origin", "path", "from", "to", "log ID"},
		Spare: []string{"path", "log ID"},
	}
	for i, s := range shards {
		id := s.LogID
		if i == len(shards)-1 {
			s.Origin = st.Bold(s.Origin)
		}
		if id == "" {
			id = "known when the key is made"
			if i == 0 {
				id = "-"
			}
		}
		name := s.Name
		if name == "" {
			name = "(first)"
		}
		g.Add(name, s.Origin, pathOf(s), logMoment(s.NotBefore), logMoment(s.NotAfter), id)
	}
	if err := g.Write(w, st); err != nil {
		return err
	}
	text := "Nothing was changed. Add --yes to make the new shard."
	if f.yes {
		text = "The shard was made. A running CA uses it without a restart. Publish a trusted root with the new key " +
			"now: mayfly trust export"
	}
	fmt.Fprintln(w)
	return terminal.Flow(w, st, text)
}

// pathOf returns the path of a shard at the URL of the CA.
func pathOf(s tlog.Shard) string {
	switch {
	case s.Kind == tlog.StaticCT:
		return "/ct" + s.Path() + "/"
	case s.Name == "":
		return "/api/v2/"
	}
	return "/rekor" + s.Path() + "/api/v2/"
}
