package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/journal"
)

// usageFlags are the flags of "audit usage".
type usageFlags struct {
	by, since, until string
	top              int
	json             bool
}

func newAuditUsage() *cobra.Command {
	var from journalFlags
	var f usageFlags
	cmd := &cobra.Command{
		Use:   "usage {JOURNAL... | --config FILE}",
		Short: "Report who uses how much: certificates, refusals and peaks",
		Long: "usage adds up the requests with a verified token, by issuer, by identity or by repository. Give the\n" +
			"journals of all servers of a CA to add them up together. The highest number of certificates in a\n" +
			"minute helps to choose limits.issuer and limits.identity (docs/operations.md).",
		Example: "  mayfly audit usage --config mayfly.yaml --since 24h\n" +
			"  mayfly audit usage a.jsonl b.jsonl c.jsonl --by repository --top 20 --json",
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			var paths []string
			if len(args) < 2 {
				t, err := from.target(args)
				if err != nil {
					return err
				}
				paths = []string{t.path}
			} else if from.config != "" {
				return cli.Usage("JOURNAL and --config exclude each other; write one of them")
			}
			for _, path := range args[min(len(args), len(paths)):] {
				t, err := from.named(path)
				if err != nil {
					return err
				}
				paths = append(paths, t.path)
			}
			report, err := f.read(cmd, paths)
			if err != nil {
				return err
			}
			if f.json {
				return cli.WriteJSON(cmd.OutOrStdout(), report)
			}
			return report.print(cmd.OutOrStdout())
		}),
	}
	from.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.by, "by", string(journal.ByIdentity), "add up by issuer, identity or repository")
	fl.StringVar(&f.since, "since", "", "not before: RFC 3339, a date, or how long ago (24h)")
	fl.StringVar(&f.until, "until", "", "before: likewise")
	fl.IntVar(&f.top, "top", 0, "print only this many lines, those with the most certificates; 0: all")
	fl.BoolVar(&f.json, "json", false, "print the report as JSON")
	cli.CompleteWords(cmd, "by", string(journal.ByIssuer), string(journal.ByIdentity), string(journal.ByRepository))
	return cmd
}

// usageReport is the output of "audit usage --json".
type usageReport struct {
	By       journal.Group   `json:"by"`
	Journals []string        `json:"journals"`
	Total    journal.Usage   `json:"total"`
	Omitted  int             `json:"omitted"` // lines beyond --top
	Usage    []journal.Usage `json:"usage"`
}

func (f *usageFlags) read(cmd *cobra.Command, paths []string) (*usageReport, error) {
	by := journal.Group(f.by)
	if !slices.Contains(journal.Groups(), by) {
		return nil, cli.Usage("--by %q: write issuer, identity or repository", f.by)
	}
	if f.top < 0 {
		return nil, cli.Usage("--top %d: write a number of lines, or 0 for all", f.top)
	}
	since, err := moment("--since", f.since, time.Now())
	if err != nil {
		return nil, err
	}
	until, err := moment("--until", f.until, time.Now())
	if err != nil {
		return nil, err
	}
	usages, progress := journal.NewUsages(by), terminal.NewProgress(cmd.ErrOrStderr())
	defer progress.Clear()
	n := 0
	for e, err := range journal.Merge(paths, func(d *journal.Damage) { reportDamage(cmd.ErrOrStderr(), d) }) {
		if cmd.Context().Err() != nil {
			return nil, context.Cause(cmd.Context())
		}
		if err != nil {
			return nil, err
		}
		if n++; n%10000 == 0 {
			progress.Showf("%s read", human.Count(n, "record"))
		}
		if !e.Time.Before(since) && (until.IsZero() || e.Time.Before(until)) {
			usages.Add(&e.Record)
		}
	}
	out := &usageReport{By: by, Journals: paths, Total: usages.Total(), Usage: usages.Sorted()}
	if f.top > 0 && len(out.Usage) > f.top {
		out.Omitted, out.Usage = len(out.Usage)-f.top, out.Usage[:f.top]
	}
	return out, nil
}

func (r *usageReport) print(w io.Writer) error {
	st := terminal.StyleFor(w)
	if len(r.Usage) == 0 {
		_, err := fmt.Fprintln(w, "No request with a verified token is in these records.")
		return err
	}
	g := terminal.Grid{
		Head:  []string{"WHO", "ISSUED", "SHARE", "PEAK/MIN", "REPEATED", "DENIED", "FAILED", "LAST", "ISSUER"},
		Spare: []string{"REPEATED", "FAILED", "LAST", "ISSUER"},
	}
	if r.By == journal.ByIssuer {
		g.Head = g.Head[:len(g.Head)-1]
	}
	row := func(who, issuer string, u *journal.Usage) {
		denied, share := strconv.Itoa(u.Denied), "-"
		if u.Denied > u.Issued {
			denied = st.Yellow(denied)
		}
		if r.Total.Issued > 0 {
			share = fmt.Sprintf("%.1f%%", 100*float64(u.Issued)/float64(r.Total.Issued))
		}
		cells := []string{
			who, strconv.Itoa(u.Issued), share, strconv.Itoa(u.Peak), strconv.Itoa(u.Repeated), denied,
			strconv.Itoa(u.Failed), u.Last.UTC().Format(time.DateTime), issuer,
		}
		g.Add(cells[:len(g.Head)]...)
	}
	for i := range r.Usage {
		u := &r.Usage[i]
		if r.By == journal.ByIssuer {
			row(terminal.OrDash(u.Issuer), "", u)
		} else {
			row(terminal.OrDash(u.Identity+u.Repository), terminal.OrDash(u.Issuer), u)
		}
	}
	if r.Omitted > 0 {
		g.Add(st.Dim("(" + human.Count(r.Omitted, "line") + " more)"))
	}
	row(st.Bold("total"), "", &r.Total)
	return g.Write(w, st)
}
