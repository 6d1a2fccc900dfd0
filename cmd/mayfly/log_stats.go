package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/rekor/entry"
	"github.com/mayfly-ca/mayfly/tlog"
)

func newLogStats() *cobra.Command {
	f := &logFlags{}
	cmd := &cobra.Command{
		Use:   "stats [--config FILE | --dir DIR | URL]",
		Short: "Count the entries of a log",
		Long: "stats counts the entries of a log by day and by issuing key, and shows its size on disk. It verifies\n" +
			"only the checkpoint. The day of a signature is the one on which its certificate was issued.",
		Example: "  mayfly log stats --config mayfly.yaml\n" +
			"  mayfly log stats https://ca.example.com/ct --public-key log.pub.pem --json",
		Args: cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			targets, err := f.targets(cmd.Context(), args)
			if err != nil {
				return err
			}
			var all []logStats
			p := terminal.NewProgress(cmd.ErrOrStderr())
			for _, t := range targets {
				s, err := count(cmd.Context(), t, p)
				if err != nil {
					p.Clear()
					return err
				}
				all = append(all, s)
			}
			p.Clear()
			if f.json {
				return cli.WriteJSON(cmd.OutOrStdout(), all)
			}
			return printStats(cmd.OutOrStdout(), all)
		}),
	}
	f.register(cmd)
	return cmd
}

// logStats is the output of "log stats --json" for one log.
type logStats struct {
	Log        string         `json:"log"`
	Origin     string         `json:"origin"`
	Entries    uint64         `json:"entries"`
	Checkpoint time.Time      `json:"checkpoint,omitzero"`
	NotBefore  time.Time      `json:"not_before,omitzero"`
	NotAfter   time.Time      `json:"not_after,omitzero"`
	Closed     time.Time      `json:"closed,omitzero"`
	First      time.Time      `json:"first,omitzero"`
	Last       time.Time      `json:"last,omitzero"`
	ByDay      map[string]int `json:"by_day"`
	ByIssuer   map[string]int `json:"by_issuer_key"` // by SHA-256 of the issuing certificate's SPKI
	// ByKind counts the entries of a log of signatures, by hashedrekord or dsse, and by certificate or key.
	ByKind map[string]int `json:"by_kind,omitempty"`
	Disk   *diskStats     `json:"disk,omitempty"`
}

type diskStats struct {
	Bytes   int64 `json:"bytes"`
	Files   int   `json:"files"`
	Partial int   `json:"partial_tiles"`
}

func count(ctx context.Context, t logTarget, p *terminal.Progress) (logStats, error) {
	s := logStats{
		Log: t.Log.Name(), Origin: t.Origin, NotBefore: t.NotBefore, NotAfter: t.NotAfter, Closed: t.Closed,
		ByDay: map[string]int{}, ByIssuer: map[string]int{},
	}
	h, err := t.Head(ctx)
	if err != nil {
		return s, fmt.Errorf("%s: %w", s.Log, err)
	}
	s.Entries, s.Checkpoint = h.Size, signedAt(t, h)
	for e, err := range t.Entries(ctx, h, 0, h.Size) {
		if err != nil {
			return s, fmt.Errorf("%s: %w", s.Log, err)
		}
		if t.Kind == tlog.Rekor {
			s.addSignature(e)
		} else {
			s.addCertificate(e)
		}
		p.Showf("%s: %d of %d entries", s.Log, e.Index+1, h.Size)
	}
	if t.dir == "" {
		return s, nil
	}
	s.Disk, err = diskUsage(t.dir)
	return s, err
}

func (s *logStats) addCertificate(e *monitor.Entry) {
	s.addTime(e.Time())
	issuer := "none"
	if e.Precert {
		issuer = hex.EncodeToString(e.IssuerKeyHash[:])
	}
	s.ByIssuer[issuer]++
}

func (s *logStats) addTime(at time.Time) {
	if s.First.IsZero() || at.Before(s.First) {
		s.First = at
	}
	if at.After(s.Last) {
		s.Last = at
	}
	s.ByDay[at.Format(time.DateOnly)]++
}

func (s *logStats) addSignature(e *monitor.Entry) {
	if s.ByKind == nil {
		s.ByKind = map[string]int{}
	}
	one, err := entry.Parse(e.Content)
	if err != nil {
		s.ByKind["unreadable"]++
		return
	}
	for _, signature := range one.Signatures {
		if signature.Certificate == nil {
			s.ByKind[one.Kind+" with a key"]++
			continue
		}
		s.ByKind[one.Kind+" with a certificate"]++
		s.addTime(signature.Certificate.NotBefore.UTC())
	}
}

// diskUsage counts the files of one log. It ignores files that the log removes meanwhile.
func diskUsage(dir string) (*diskStats, error) {
	d := &diskStats{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case entry.IsDir() && path == filepath.Join(dir, "shards"): // each shard is counted as a separate log
			return filepath.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		st, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // the file was removed
		}
		d.Bytes += st.Size()
		d.Files++
		if strings.HasSuffix(filepath.Dir(path), ".p") {
			d.Partial++
		}
		return nil
	})
	return d, err
}

func printStats(w io.Writer, all []logStats) error {
	st := terminal.StyleFor(w)
	for _, s := range all {
		t := terminal.Table{}
		t.Add("log", s.Log)
		t.Add("origin", s.Origin)
		t.Add("entries", fmt.Sprint(s.Entries))
		if !s.Checkpoint.IsZero() {
			t.Add("checkpoint", logMoment(s.Checkpoint))
		}
		t.Add("validity", logMoment(s.NotBefore)+" to "+logMoment(s.NotAfter))
		if !s.Closed.IsZero() {
			t.Add("closed", logMoment(s.Closed))
		}
		t.Add("first entry", logMoment(s.First))
		t.Add("last entry", logMoment(s.Last))
		if d := s.Disk; d != nil {
			t.Add("on disk", fmt.Sprintf("%s in %s, %d of them partial tiles", human.Count(int(d.Bytes), "byte"),
				human.Count(d.Files, "file"), d.Partial))
		}
		if err := t.Write(w, st); err != nil {
			return err
		}
		for _, by := range []struct {
			head   string
			counts map[string]int
		}{{"day", s.ByDay}, {"issuer key (SHA-256)", s.ByIssuer}, {"kind", s.ByKind}} {
			g := terminal.Grid{Head: []string{by.head, "entries"}}
			for _, key := range slices.Sorted(maps.Keys(by.counts)) {
				g.Add(key, fmt.Sprint(by.counts[key]))
			}
			if len(g.Rows) == 0 {
				continue
			}
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
			if err := g.Write(w, st); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return nil
}
