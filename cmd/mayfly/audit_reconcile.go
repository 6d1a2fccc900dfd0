package main

import (
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

// reconcileFlags are those of "audit reconcile".
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
		Short: "Compare the journal with the logs: every certificate in both, and no other entries in a log",
		Long: "reconcile reads the logs of the configuration from their first entry, proves what it reads against their signed tree\n" +
			"heads, then reads the journals, and reports what does not match: an unintended entry (the CA key was used elsewhere), an\n" +
			"SCT whose obligation a log did not keep, a serial number used twice, signatures that no record explains. It needs the\n" +
			"chain and the logs' keys, not the CA key, and writes nothing. If several instances sign with one key, name the journals\n" +
			"of the others with --journal.\n\n" +
			"Exit status: 0 no finding, 1 something could not be read or the copy of a log is too old, 3 something was found\n" +
			"(docs/reconcile.md says what to do).",
		Example: "  mayfly audit reconcile --config /etc/mayfly/mayfly.yaml --journal /mnt/other/journal.jsonl --since 24h",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), cli.Streams{Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()})
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", "", "configuration file (required)")
	fl.StringArrayVar(&f.journals, "journal", nil, "journal of another instance that signs with the same key; may be repeated")
	fl.StringArrayVar(&f.logs, "log", nil, "read this log only; may be repeated (default: all)")
	fl.StringVar(&f.since, "since", "", "leave out findings before this date or time, or older than this duration; everything is read all the same")
	fl.Var(cli.Lasting(&f.lag, 0), "lag",
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
	in := reconcile.Input{
		Progress: reconcileProgress(std.Err),
		Commands: node.NextSteps{Path: f.config, Config: cfg}.Commands,
	}
	if in.Since, err = moment("--since", f.since, time.Now()); err != nil {
		return err
	}
	if cfg.Audit == nil || cfg.Audit.File == "" {
		return cli.Usage("%s has no audit.file: there is no journal to hold the logs against", f.config)
	}
	if f.lag < 0 {
		return cli.Usage("--lag %s: write how far behind a journal may be, such as 10m", f.lag)
	}
	if in.Lag = f.lag; in.Lag == 0 {
		in.Lag = cfg.Audit.Reconcile.LagOrDefault()
	}
	if in.Journals, err = node.JournalsOf(cfg, f.journals); err != nil {
		return located(cfg, err)
	}
	if in.Issuers, err = node.IssuersOf(cfg); err != nil {
		return located(cfg, err)
	}
	targets, err := node.TargetsOf(cfg)
	if err != nil {
		return located(cfg, err)
	}
	for _, name := range f.logs {
		if !slices.ContainsFunc(targets, func(t reconcile.Log) bool { return t.Name() == name }) {
			return cli.Usage("--log %q: there is no such log; the configuration has %s", name, logNamesOf(targets))
		}
	}
	for _, t := range targets {
		if len(f.logs) == 0 || slices.Contains(f.logs, t.Name()) {
			in.Logs = append(in.Logs, t)
		}
	}
	if len(in.Logs) == 0 {
		return cli.Usage("no log to read; the configuration has %s", logNamesOf(targets))
	}
	debug.SetGCPercent(25) // a million entries are kept at once: memory is dearer than time here
	report, err := reconcile.Run(ctx, in)
	if err != nil {
		return err
	}
	if terminal.IsTerminal(std.Err) {
		fmt.Fprint(terminal.ProgressTo(std.Err), "\r\x1b[K")
	}
	return f.tell(report, std)
}

// tell prints the report and decides the exit status: what was found counts more than what could not be read.
func (f *reconcileFlags) tell(r reconcile.Report, std cli.Streams) error {
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
		return fmt.Errorf("not everything could be read, so that nothing is proven: %s", strings.Join(r.Incomplete, "; "))
	}
	return nil
}

func logNamesOf(targets []reconcile.Log) string {
	var names []string
	for _, t := range targets {
		names = append(names, t.Name())
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// reconcileProgress writes how far a run is, on a terminal only.
func reconcileProgress(w io.Writer) func(reconcile.Progress) {
	if !terminal.IsTerminal(w) {
		return nil
	}
	shown := time.Now()
	return func(p reconcile.Progress) {
		if now := time.Now(); now.Sub(shown) > 200*time.Millisecond {
			shown = now
			fmt.Fprintf(terminal.ProgressTo(w), "\r\x1b[K%s: %d", terminal.Printable(p.Name), p.Read)
		}
	}
}

// printReport prints logs, journals and findings as tables, and one line that sums up.
func printReport(w io.Writer, r reconcile.Report) error {
	st := terminal.StyleFor(w)
	g := terminal.Grid{Head: []string{"LOG", "ENTRIES", "READ", "OURS", "HEAD", "STATE"}, Spare: []string{"READ", "HEAD"}}
	for _, l := range r.Logs {
		state := st.Green("proven")
		if l.Error != "" {
			state = st.Red(terminal.Printable(l.Error))
		}
		g.Add(terminal.Printable(l.Name), fmt.Sprint(l.Size), fmt.Sprint(l.Read), fmt.Sprint(l.Matched), logMoment(l.Head), state)
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
	word := st.Green("all is well")
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
	g := terminal.Grid{Head: []string{"TIME", "KIND", "WHERE", "INDEX", "SERIAL", "WHAT"}, Spare: []string{"TIME", "INDEX", "SERIAL"}}
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
		g.Add(logMoment(f.Time), st.Red(string(f.Kind)), orDash(where), index, orDash(f.Serial), terminal.Printable(f.Summary()))
		actions[f.Kind] = f.Action
	}
	if err := g.Write(w, st); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, k := range reconcile.Kinds() {
		if text := actions[k]; text != "" {
			if err := terminal.Flow(w, st, fmt.Sprintf("%s (%s): %s", st.Bold(string(k)), k.Severity(), text)); err != nil {
				return err
			}
		}
	}
	for i, f := range all {
		if i == maxToldCommands {
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

// maxToldCommands is for how many findings the commands to run next are printed.
const maxToldCommands = 20

// printCommands prints what to run next for a finding, one command a line, so that each can be copied.
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

// explained says what does not match and need not.
func explained(x reconcile.Explained) string {
	var out []string
	for _, one := range []struct {
		n    uint64
		text string
	}{
		{x.WithoutOutcome, "intents without outcome"},
		{x.OrphanPrecerts, "precertificates without certificate"},
		{x.PredateJournal, "entries of before the journal"},
		{x.Undecided, "entries that are not judged yet"},
		{x.Open, "promises whose time has not come"},
		{x.Overdue, "promises whose time is over, and the log here is older"},
		{x.UnreadLogs, "promises of logs that were not read"},
		{x.IntentsArchived, "outcomes after a cut journal's beginning"},
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
