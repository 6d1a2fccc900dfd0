package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/reconcile"
)

// reconcileFlags are the flags of "audit reconcile".
type reconcileFlags struct {
	config, since  string
	journals, logs []string
	lag            time.Duration
	json           bool
}

func newAuditReconcile() *cobra.Command {
	var f reconcileFlags
	cmd := &cobra.Command{
		Use:   "reconcile --config FILE",
		Short: "Compare the journal with the logs: every certificate is in both, and a log has nothing else",
		Long: "reconcile reads the logs of the configuration from their first entry, verifies the entries against the\n" +
			"signed tree heads, and then reads the journal. It reports every mismatch: a log entry without an\n" +
			"intent (the CA key was used outside this CA), an SCT whose entry the log did not publish, a serial\n" +
			"number that is used twice, signatures that no record explains. It needs the chain and the logs' public\n" +
			"keys, but not the CA key, and writes nothing. If other instances sign with the same key, name their\n" +
			"journals with --journal.\n\n" +
			"Exit status: 0 nothing was found, 1 something could not be read or the copy of a log is too old, 3\n" +
			"something was found (docs/reconcile.md says what to do).",
		Example: "  mayfly audit reconcile --config /etc/mayfly/mayfly.yaml --journal " +
			"/mnt/other/journal.jsonl --since 24h",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), cli.Streams{Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()})
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", "", "configuration file (required)")
	fl.StringArrayVar(&f.journals, "journal", nil,
		"journal of another instance that signs with the same key; can be repeated")
	fl.StringArrayVar(&f.logs, "log", nil, "read only this log; can be repeated (default: all)")
	fl.StringVar(&f.since, "since", "",
		"omit findings before this date or time, or older than this duration; everything is read nevertheless")
	fl.Var(cli.DurationFlag(&f.lag, 0), "lag",
		"how far the journals named by --journal may be behind (default: audit.reconcile.lag)")
	fl.BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

func (f *reconcileFlags) run(ctx context.Context, std cli.Streams) error {
	if f.config == "" {
		return cli.Usage("--config is missing; write --config FILE")
	}
	cfg, _, err := config.Load(f.config)
	if err != nil {
		return cli.Misconfigured(err)
	}
	since, err := moment("--since", f.since, time.Now())
	switch {
	case err != nil:
		return err
	case cfg.Audit == nil || cfg.Audit.File == "":
		return cli.Usage("%s has no audit.file, so there is no journal to compare the logs with", f.config)
	case f.lag < 0:
		return cli.Usage("--lag %s: write the greatest delay of a journal, such as 10m", f.lag)
	}
	in, err := node.AuditInput(f.config, cfg, f.journals)
	if err != nil {
		return located(cfg, err)
	}
	line := terminal.NewProgress(std.Err)
	in.Progress = func(p reconcile.Progress) { line.Showf("%s: %d", p.Name, p.Read) }
	in.Since, in.Lag = since, cmp.Or(f.lag, in.Lag)
	if in.Logs, err = f.selectLogs(in.Logs); err != nil {
		return err
	}
	debug.SetGCPercent(25) // less memory for the rows of all entries, at the price of time
	report, err := reconcile.Run(ctx, in)
	line.Clear()
	if err != nil {
		return err
	}
	return f.print(report, std)
}

// selectLogs returns the logs that --log names.
func (f *reconcileFlags) selectLogs(all []reconcile.Log) (out []reconcile.Log, err error) {
	names := make([]string, len(all))
	for i, l := range all {
		names[i] = l.Name()
		if len(f.logs) == 0 || slices.Contains(f.logs, l.Name()) {
			out = append(out, l)
		}
	}
	have := cmp.Or(strings.Join(names, ", "), "none")
	for _, name := range f.logs {
		if !slices.Contains(names, name) {
			return nil, cli.Usage("--log %q: unknown log; the configuration has %s", name, have)
		}
	}
	if len(out) == 0 {
		return nil, cli.Usage("there is no log to read; the configuration has %s", have)
	}
	return out, nil
}

// print prints the report. The error has the exit status: that of findings has priority over that of an incomplete
// report.
func (f *reconcileFlags) print(r reconcile.Report, std cli.Streams) error {
	var err error
	if f.json {
		err = cli.WriteJSON(std.Out, r)
	} else {
		err = printReport(std.Out, r)
	}
	if err != nil {
		return err
	}
	if len(r.Findings) > 0 {
		return &cli.Error{Status: cli.ExitFound, Err: fmt.Errorf("mayfly: %s; docs/reconcile.md says what to do",
			human.Count(len(r.Findings), "finding"))}
	}
	if len(r.Incomplete) > 0 {
		return fmt.Errorf("not everything could be read, so the comparison proves nothing: %s",
			strings.Join(r.Incomplete, "; "))
	}
	return nil
}

// printReport prints logs, journals and findings as tables, and a summary in one line.
func printReport(w io.Writer, r reconcile.Report) error {
	st := terminal.StyleFor(w)
	g := terminal.Grid{
		Head:  []string{"LOG", "ENTRIES", "READ", "OURS", "HEAD", "STATE"},
		Spare: []string{"READ", "HEAD"},
	}
	for _, l := range r.Logs {
		state := st.Green("verified")
		if l.Error != "" {
			state = st.Red(terminal.Printable(l.Error))
		}
		g.Add(terminal.Printable(l.Name), fmt.Sprint(l.Size), fmt.Sprint(l.Read), fmt.Sprint(l.Matched),
			logMoment(l.Head), state)
	}
	if err := g.Write(w, st); err != nil {
		return err
	}
	fmt.Fprintln(w)
	g = terminal.Grid{Head: []string{"JOURNAL", "RECORDS", "FROM", "TO", "STATE"}, Spare: []string{"FROM", "TO"}}
	for _, j := range r.Journals {
		state := st.Green("read")
		if j.Error != "" {
			state = st.Red(terminal.Printable(j.Error))
		}
		g.Add(terminal.Printable(j.Name), fmt.Sprint(j.Records), logMoment(j.First), logMoment(j.Last), state)
	}
	if err := g.Write(w, st); err != nil {
		return err
	}
	if err := printFindings(w, r.Findings); err != nil {
		return err
	}
	fmt.Fprintln(w)
	word := st.Green("nothing found")
	switch {
	case len(r.Findings) > 0:
		word = st.Red(human.Count(len(r.Findings), "finding"))
	case len(r.Incomplete) > 0:
		word = st.Yellow("incomplete")
	}
	return terminal.Flow(w, st, word+explained(r.Explained))
}

func printFindings(w io.Writer, all []reconcile.Finding) error {
	if len(all) == 0 {
		return nil
	}
	st := terminal.StyleFor(w)
	fmt.Fprintln(w)
	g := terminal.Grid{
		Head:  []string{"TIME", "KIND", "WHERE", "INDEX", "SERIAL", "WHAT"},
		Spare: []string{"TIME", "INDEX", "SERIAL"},
	}
	actions := map[reconcile.Kind]string{}
	for _, f := range all {
		index := "-"
		if f.Index != nil {
			index = fmt.Sprint(*f.Index)
		}
		where := f.Log
		if where == "" {
			where = f.Journal
		}
		g.Add(logMoment(f.Time), st.Red(string(f.Kind)), terminal.OrDash(where), index, terminal.OrDash(f.Serial),
			terminal.Printable(f.Summary()))
		actions[f.Kind] = f.Action
	}
	if err := g.Write(w, st); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, k := range reconcile.Kinds() {
		if text := actions[k]; text != "" {
			if err := terminal.Flow(w, st, fmt.Sprintf("%s (%s): %s", st.Bold(string(k)), k.Severity(),
				text)); err != nil {
				return err
			}
		}
	}
	for i, f := range all {
		if i == maxCommands {
			_, err := fmt.Fprintf(w, "\n--json has the commands for the other %s.\n",
				human.Count(len(all)-i, "finding"))
			return err
		}
		if err := printCommands(w, st, f); err != nil {
			return err
		}
	}
	return nil
}

// maxCommands is the number of findings whose commands are printed.
const maxCommands = 20

// printCommands prints the commands to run next for a finding, one per line.
func printCommands(w io.Writer, st terminal.Style, f reconcile.Finding) error {
	if len(f.Commands) == 0 {
		return nil
	}
	about := f.ID
	if f.Identity != "" {
		about += ", " + terminal.Printable(f.Identity)
	}
	if _, err := fmt.Fprintf(w, "\n%s (%s), run next:\n", st.Bold(string(f.Kind)), about); err != nil {
		return err
	}
	for _, c := range f.Commands {
		if _, err := fmt.Fprintf(w, "  %s\n", terminal.Printable(c)); err != nil {
			return err
		}
	}
	return nil
}

// explained returns a text about the differences that have a harmless reason.
func explained(x reconcile.Explained) string {
	var out []string
	for _, one := range []struct {
		n    uint64
		text string
	}{
		{x.WithoutOutcome, "intents without an outcome"},
		{x.OrphanPrecerts, "precertificates without a certificate"},
		{x.Canaries, "precertificates of the canary"},
		{x.PredateJournal, "entries older than the journal"},
		{x.Undecided, "entries that cannot be checked yet"},
		{x.Open, "SCTs whose merge delay is not over"},
		{x.Overdue, "SCTs whose merge delay is over, in a copy of a log that is older"},
		{x.UnreadLogs, "SCTs of logs that were not read"},
		{x.IntentsArchived, "outcomes whose intents were archived"},
	} {
		if one.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", one.n, one.text))
		}
	}
	if len(out) == 0 {
		return ""
	}
	return " (explained: " + strings.Join(out, ", ") + ")"
}
