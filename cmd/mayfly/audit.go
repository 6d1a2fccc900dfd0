package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/journal"
)

func newAudit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Verify, follow, search and sum up the journal, and compare it with the logs",
		Long: "The journal has every decision of the CA as one line of JSON; docs/audit.md describes it. All commands\n" +
			"except clear only read, and work on a journal that is being written.",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(newAuditVerify(), newAuditTail(), newAuditQuery(), newAuditUsage(),
		newAuditReconcile(), newAuditClear())
	return cmd
}

// journalFlags name a journal.
type journalFlags struct{ config string }

func (f *journalFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.config, "config", "", "configuration file that names the journal, instead of JOURNAL")
}

// target is a journal as the command line names it.
type target struct {
	path   string
	config journal.Config // only File and Subjects are set if the command line has the path of the journal
}

func (f *journalFlags) target(args []string) (target, error) {
	switch {
	case len(args) == 1 && f.config != "":
		return target{}, cli.Usage("JOURNAL and --config exclude each other; write one of them")
	case len(args) == 1:
		return f.named(args[0])
	case f.config == "":
		return target{}, cli.Usage("the journal is missing; write its path, or --config FILE")
	}
	cfg, _, err := config.Load(f.config)
	if err != nil {
		return target{}, cli.Misconfigured(err)
	}
	if cfg.Audit == nil || cfg.Audit.File == "" {
		return target{}, cli.Usage("%s has no audit.file, so there is no journal to read", f.config)
	}
	return f.existing(target{cfg.Audit.File, cfg.Audit.Config})
}

func (f *journalFlags) named(path string) (target, error) {
	return f.existing(target{path, journal.Config{File: path, Subjects: journal.SubjectsDigest}})
}

// existing returns t, or an error if there is no journal at its path.
func (f *journalFlags) existing(t target) (target, error) {
	if _, err := journal.Segments(t.path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return t, fmt.Errorf("the journal %s does not exist; write the path in audit.file of the configuration",
				t.path)
		}
		return t, err
	}
	return t, nil
}

// recordWord returns the kind of a record in one word, in its colour.
func recordWord(r *journal.Record, st terminal.Style) string {
	switch {
	case r.Kind == journal.Alarm:
		return st.Red(st.Bold("ALARM"))
	case r.Kind != journal.Outcome && r.Kind != journal.Rekor:
		return st.Dim(string(r.Kind))
	case r.Result == journal.Issued, r.Result == journal.Logged:
		return st.Green(string(r.Result))
	case r.Result == journal.Denied:
		return st.Yellow("denied")
	case r.Result == journal.Canary:
		return st.Dim("canary")
	}
	return st.Red(terminal.Printable(string(r.Result)))
}

// recordHead returns the headers of the columns of recordCells.
func recordHead() []string {
	return []string{"SEQ", "TIME", "WHAT", "WHO", "ISSUER", "SERIAL", "WHY"}
}

// recordCells returns the columns of one record for people. "-" means no value.
func recordCells(r *journal.Record, st terminal.Style) []string {
	who := r.SAN
	if who == "" {
		who = r.Subject
	}
	return []string{
		fmt.Sprint(r.Seq), r.Time.Local().Format(time.DateTime), recordWord(r, st), terminal.OrDash(who),
		terminal.OrDash(r.Issuer),
		terminal.OrDash(r.Serial), recordWhy(r),
	}
}

func recordWhy(r *journal.Record) string {
	var out []string
	add := func(s string) {
		if s != "" {
			out = append(out, terminal.Printable(s))
		}
	}
	add(r.Reason)
	if r.Reason == "" {
		add(r.Rule)
	}
	switch r.Kind {
	case journal.Start:
		add(strings.TrimSpace("version " + r.Version))
	case journal.Stop, journal.Reload:
		add(fmt.Sprintf("%d signatures since the start", r.Signatures))
	case journal.Dropped:
		add(fmt.Sprintf("%d denials not written", r.Count))
	case journal.Rekor:
		add(strings.TrimSpace(r.LogEntry.Kind + " " + r.LogEntry.Digest))
	case journal.Trial, journal.Intent, journal.Outcome, journal.Repeated, journal.Alarm,
		journal.Recovered, journal.Event:
	}
	add(r.Text)
	return strings.Join(out, "; ")
}

// printRecords prints records as a table.
func printRecords(w io.Writer, records []journal.Record) error {
	st := terminal.StyleFor(w)
	g := terminal.Grid{Head: recordHead(), Spare: []string{"ISSUER", "SEQ", "SERIAL"}}
	for i := range records {
		g.Add(recordCells(&records[i], st)...)
	}
	return g.Write(w, st)
}

// reportDamage reports to w that a damaged line was skipped.
func reportDamage(w io.Writer, d *journal.Damage) {
	fmt.Fprintf(w, "mayfly: %s (skipped; see \"mayfly audit verify\")\n", terminal.Printable(d.Error()))
}

// readSalt returns the salt for digests of subjects; nil if there is none.
func (t target) readSalt() ([]byte, error) {
	if t.config.Subjects != journal.SubjectsDigest {
		return nil, nil
	}
	salt, err := t.config.ReadSalt()
	if errors.Is(err, os.ErrNotExist) && t.config.Salt == nil {
		return nil, nil
	}
	return salt, err
}
