package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/journal"
)

func newAuditVerify() *cobra.Command {
	var from journalFlags
	var keyFile string
	var first uint64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify {JOURNAL | --config FILE}",
		Short: "Check that a journal is intact, and show the place where it is not",
		Long: "verify reads the whole journal. It checks the sum of each record, its place in the chain across all\n" +
			"files, the end against what was acknowledged (JOURNAL.head), and records against each other: no\n" +
			"certificate without an intent, no serial number twice, every signature of the CA key accounted for.\n" +
			"Anyone who can write to all the files can rewrite the end of a journal without a key so that it\n" +
			"verifies. Compare the printed sum with one that was kept on another machine (docs/audit.md).\n\n" +
			"Exit status: 0 the journal is intact, 3 something is wrong.",
		Example: "  mayfly audit verify --config /etc/mayfly/mayfly.yaml\n  mayfly audit verify " +
			"--first 100001 journal.jsonl",
		Args: cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			t, err := from.target(args)
			if err != nil {
				return err
			}
			line := terminal.NewProgress(cmd.ErrOrStderr())
			o := journal.VerifyOptions{First: first, Progress: func(done, total int64) {
				line.Showf("%3d %%", 100*done/max(total, 1))
			}}
			if o.Key, err = journalKey(t, keyFile); err != nil {
				return err
			}
			summary, findings, err := journal.Verify(t.path, o)
			line.Clear()
			if err != nil {
				return err
			}
			if asJSON {
				err = cli.WriteJSON(cmd.OutOrStdout(), newVerifyView(summary, findings))
			} else if len(findings) == 0 {
				_, err = fmt.Fprintln(cmd.OutOrStdout(),
					summaryLine(terminal.StyleFor(cmd.OutOrStdout()), t.path, summary))
			}
			if err != nil || len(findings) == 0 {
				return err
			}
			return &cli.Error{
				Status: cli.ExitFound,
				Err:    fmt.Errorf("%s", findingLines(findings, summary, len(o.Key) > 0)),
			}
		}),
	}
	from.add(cmd)
	cmd.Flags().StringVar(&keyFile, "key-file", "",
		"file with the secret of audit.key, if the journal is named by its path")
	cmd.Flags().Uint64Var(&first, "first", 0,
		"number of the first record, if older files are stored in another place (default 1: no file is missing)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// journalKey returns the secret that keys the sums, from the configuration or from a file.
func journalKey(t target, file string) ([]byte, error) {
	if file == "" {
		key, err := t.config.Key.Read()
		if err != nil {
			return nil, fmt.Errorf("audit.key: %w", err)
		}
		return key, nil
	}
	key, err := input.Read(nil, file)
	return bytes.TrimSuffix(bytes.TrimSuffix(key, []byte("\n")), []byte("\r")), err
}

func summaryLine(st terminal.Style, path string, s journal.Summary) string {
	if s.Last == 0 {
		return path + ": " + st.Green("intact") + ", without a record"
	}
	line := fmt.Sprintf("%s: %s, %s (%d to %d) in %s, %s to %s, %d issued, %d failed, %d denied", path,
		st.Green("intact"),
		human.Count(s.Records(), "record"), s.First, s.Last, human.Count(s.Segments, "file"),
		s.From.Format(time.RFC3339), s.To.Format(time.RFC3339),
		s.Results[journal.Issued], s.Results[journal.Failed], s.Results[journal.Denied])
	if n := s.Results[journal.Canary]; n > 0 {
		line += fmt.Sprintf(", %d canary", n)
	}
	if n := s.Results[journal.Logged]; n > 0 {
		line += fmt.Sprintf(", %d logged", n)
	}
	if s.Open > 0 {
		line += fmt.Sprintf(", %d in progress", s.Open)
	}
	if s.Crashes > 0 {
		line += fmt.Sprintf(", %d without a stop record", s.Crashes)
	}
	return line + ", sum " + s.Sum
}

func findingLines(findings []journal.Damage, s journal.Summary, keyed bool) string {
	var b strings.Builder
	for i := range findings {
		fmt.Fprintf(&b, "%s\n", terminal.Printable(findings[i].Error()))
	}
	fmt.Fprintf(&b, "mayfly: the journal is not intact: %d findings in %d records that could be read",
		len(findings), s.Records())
	if s.Records() == 0 && !keyed {
		b.WriteString("; if audit.key is set, use --config or --key-file")
	}
	return b.String()
}

// verifyView is the output of "audit verify --json".
type verifyView struct {
	Whole    bool                   `json:"whole"`
	Findings []findingView          `json:"findings"`
	Segments int                    `json:"segments"`
	First    uint64                 `json:"first"`
	Last     uint64                 `json:"last"`
	Sum      string                 `json:"sum"`
	From     time.Time              `json:"from"`
	To       time.Time              `json:"to"`
	Kinds    map[journal.Kind]int   `json:"kinds"`
	Results  map[journal.Result]int `json:"results"`
	Open     int                    `json:"open"`
	Crashes  int                    `json:"crashes"`
}

type findingView struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Offset int64  `json:"offset"`
	What   string `json:"what"`
}

func newVerifyView(s journal.Summary, findings []journal.Damage) verifyView {
	v := verifyView{
		Whole: len(findings) == 0, Findings: []findingView{}, Segments: s.Segments, First: s.First,
		Last: s.Last, Sum: s.Sum,
		From: s.From, To: s.To, Kinds: s.Kinds, Results: s.Results, Open: s.Open, Crashes: s.Crashes,
	}
	for _, d := range findings {
		v.Findings = append(v.Findings, findingView{d.At.File, d.At.Line, d.At.Offset, d.What})
	}
	return v
}
