package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/rekor"
	"github.com/mayfly-ca/mayfly/tlog"
)

func newLogFsck() *cobra.Command {
	f := &logFlags{}
	cmd := &cobra.Command{
		Use:   "fsck [--config FILE | --dir DIR | URL]",
		Short: "Verify a log completely: signature, hashes and entries",
		Long: "fsck verifies the checkpoint's signature, computes every hash of the tree from the entries and\n" +
			"compares it with every tile. It checks every entry: whether the precertificate corresponds to the\n" +
			"logged entry, whether its issuer signed it, whether that issuer is in the log, and whether the\n" +
			"timestamp is plausible. It reports all findings. The exit status is 3 if there are any. Of a log of\n" +
			"signatures, it checks the form of each entry and verifies the signature in it.",
		Example: "  mayfly log fsck --config mayfly.yaml\n" +
			"  mayfly log fsck https://ca.example.com/ct --public-key log.pub.pem",
		Args: cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			targets, err := f.targets(cmd.Context(), args)
			if err != nil {
				return err
			}
			p := terminal.NewProgress(cmd.ErrOrStderr())
			reports, err := fsck(cmd.Context(), targets, p)
			p.Clear()
			if err != nil {
				return err
			}
			return printFsck(cmd.OutOrStdout(), reports, f.json)
		}),
	}
	f.register(cmd)
	return cmd
}

// fsckReport is the output of "log fsck --json" for one log.
type fsckReport struct {
	Log          string            `json:"log"`
	Origin       string            `json:"origin"`
	Entries      uint64            `json:"entries"`
	Checkpoint   time.Time         `json:"checkpoint,omitzero"`
	Cosignatures []string          `json:"cosignatures,omitempty"` // names of the cosigners; not verified
	Findings     []monitor.Finding `json:"findings"`
}

func fsck(ctx context.Context, targets []logTarget, p *terminal.Progress) ([]fsckReport, error) {
	var out []fsckReport
	for _, t := range targets {
		r := fsckReport{Log: t.Log.Name(), Origin: t.Origin, Findings: []monitor.Finding{}}
		o := monitor.CheckOptions{
			Now: time.Now(), NotBefore: t.NotBefore, NotAfter: t.NotAfter,
			Found:    func(f monitor.Finding) { r.Findings = append(r.Findings, f) },
			Progress: func(done, all uint64) { p.Showf("%s: %d of %d entries", r.Log, done, all) },
		}
		if t.Kind == tlog.Rekor {
			o.Entry = func(e *monitor.Entry) []string {
				if _, err := rekor.CheckEntry(ctx, e.Content); err != nil {
					return []string{err.Error()}
				}
				return nil
			}
		}
		h, err := t.Check(ctx, o)
		if err != nil {
			return nil, err
		}
		r.Entries, r.Checkpoint, r.Cosignatures = h.Size, signedAt(t, h.Head), h.Cosigners
		out = append(out, r)
	}
	return out, nil
}

// signedAt returns when a head was signed; zero for a log of signatures, whose heads have no timestamp.
func signedAt(t logTarget, h monitor.Head) time.Time {
	if t.Kind == tlog.Rekor {
		return time.Time{}
	}
	return h.Time()
}

func printFsck(w io.Writer, reports []fsckReport, asJSON bool) error {
	findings := 0
	for _, r := range reports {
		findings += len(r.Findings)
	}
	if err := writeFsck(w, reports, asJSON); err != nil {
		return err
	}
	switch findings {
	case 0:
		return nil
	case 1:
		return &cli.Error{Status: cli.ExitFound, Err: errors.New("mayfly: 1 finding")}
	}
	return &cli.Error{Status: cli.ExitFound, Err: fmt.Errorf("mayfly: %d findings", findings)}
}

func writeFsck(w io.Writer, reports []fsckReport, asJSON bool) error {
	if asJSON {
		return cli.WriteJSON(w, reports)
	}
	st := terminal.StyleFor(w)
	g := terminal.Grid{
		Head:  []string{"log", "origin", "entries", "checkpoint", "cosignatures", "findings"},
		Spare: []string{"cosignatures", "checkpoint"},
	}
	for _, r := range reports {
		found := st.Green("none")
		if n := len(r.Findings); n > 0 {
			found = st.Red(fmt.Sprint(n))
		}
		g.Add(r.Log, r.Origin, fmt.Sprint(r.Entries), logMoment(r.Checkpoint), fmt.Sprint(len(r.Cosignatures)), found)
	}
	if err := g.Write(w, st); err != nil {
		return err
	}
	for _, r := range reports {
		for _, f := range r.Findings {
			if err := terminal.Flow(w, st, fmt.Sprintf("  %s: %s: %s", r.Log, st.Bold(f.Where),
				f.Problem)); err != nil {
				return err
			}
		}
	}
	return nil
}
