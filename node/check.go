package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/tlog"
)

// Report is the result of [Check], and what "config check --json" prints.
type Report struct {
	File     string            `json:"file"`
	OK       bool              `json:"ok"`
	Error    string            `json:"error,omitempty"`
	Problems []ReportedProblem `json:"problems,omitempty"`
	Warnings []string          `json:"warnings"`
	Digest   string            `json:"digest,omitempty"`
	Issuers  int               `json:"issuers"`
	Entries  []oidc.EntryInfo  `json:"entries,omitempty"`
	Chain    []string          `json:"chain,omitempty"`
	Logs     []string          `json:"logs"`
	Online   []ReportedIssuer  `json:"online,omitempty"` // with --online
	// OnlineLogs are the results of the logs, with --online.
	OnlineLogs []ReportedLog `json:"online_logs,omitempty"`
}

// ReportedProblem is one thing that is wrong in a file; line and column are 0 for the file as a whole.
type ReportedProblem struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	What   string `json:"what"`
	Fix    string `json:"fix,omitempty"`
}

// ReportedIssuer is whether the keys of an issuer could be had.
type ReportedIssuer struct {
	Issuer string `json:"issuer"`
	OK     bool   `json:"ok"`
	Cause  string `json:"cause,omitempty"`
}

// ReportedLog is the result for one log of "config check --online".
type ReportedLog struct {
	Name     string   `json:"name"`
	OK       bool     `json:"ok"`
	Problems []string `json:"problems,omitempty"` // for which no certificate could be had of the log
	Warnings []string `json:"warnings,omitempty"`
}

// askLogs asks every log of the configuration for its roots and its head, all at the same time.
func (f *loadedFiles) askLogs(ctx context.Context, cfg *config.Config) []ReportedLog {
	out := make([]ReportedLog, len(f.logs))
	var all sync.WaitGroup
	for i, l := range f.logs {
		all.Go(func() { out[i], _ = f.askLog(ctx, l) })
	}
	all.Wait()
	return append(out, ownHeads(ctx, cfg)...) //nolint:makezero // the first ones are filled above
}

// ownHeads reads the heads of the logs in this process: of the embedded log, and of the log of signatures.
func ownHeads(ctx context.Context, cfg *config.Config) (out []ReportedLog) {
	for _, own := range processLogs(cfg) {
		out = append(out, shardHeads(ctx, own.Config)...)
	}
	return out
}

// askLog asks one log.
func (f *loadedFiles) askLog(ctx context.Context, l remoteLog) (ReportedLog, ctlog.Examination) {
	roots := f.issuingRoots()
	e := ctlog.Examine(ctx, l.remote, ctlog.ExamineOptions{Active: roots[0], Others: roots[1:]})
	if now := time.Now(); l.outside(now, now) != nil {
		e.Warnings = append(e.Warnings, l.outside(now, now).Error())
	}
	return ReportedLog{
		Name: l.config.Name, OK: len(e.Problems) == 0, Problems: e.Problems, Warnings: e.Warnings,
	}, e
}

// shardHeads reads the head of each shard of a log that is there, and verifies it with the shard's key.
func shardHeads(ctx context.Context, c tlog.Config) []ReportedLog {
	var out []ReportedLog
	heads, err := tlog.Heads(ctx, c)
	if err != nil {
		return []ReportedLog{{Name: tlog.Shard{Kind: c.Kind}.Label(), Problems: []string{err.Error()}}}
	}
	for _, h := range heads {
		one := ReportedLog{Name: h.Label(), OK: h.Err == nil}
		switch {
		case h.Err != nil:
			one.Problems = []string{h.Err.Error()}
		case h.Absent:
			one.Warnings = []string{fmt.Sprintf("%s holds no log yet; it is made at the first start",
				c.ShardDir(h.Shard))}
		}
		out = append(out, one)
	}
	return out
}

// Check does what [Build] does before it opens a socket, and changes nothing. With online it also asks every identity
// provider for its keys, and every log for its roots and its head.
func Check(ctx context.Context, path string, online bool) (r Report, err error) {
	r = Report{File: path, Warnings: []string{}, Logs: []string{}}
	cfg, warnings, err := config.Load(path)
	for _, w := range warnings {
		r.Warnings = append(r.Warnings, w.String())
	}
	var f *loadedFiles
	if err == nil {
		f, err = loadAndTest(ctx, nil, cfg)
	}
	if err != nil {
		r.Error, r.Problems = err.Error(), problemsOf(err)
		return r, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	if err := checkTLS(cfg); err != nil {
		r.Error, r.Problems = err.Error(), problemsOf(err)
		return r, err
	}
	r.Warnings = append(r.Warnings, f.skipped(cfg)...)
	for _, w := range f.warnings {
		r.Warnings = append(r.Warnings, w.String())
	}
	if err := r.describe(cfg, f); err != nil {
		return r, err
	}
	r.OK = true
	if online {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if r.Online, err = askIssuers(ctx, cfg); err != nil {
			return r, err
		}
		r.OnlineLogs = f.askLogs(ctx, cfg)
	}
	return r, nil
}

// describe adds what the configuration amounts to.
func (r *Report) describe(cfg *config.Config, f *loadedFiles) error {
	e, err := oidc.NewExplainer(cfg.Issuers)
	if err != nil {
		return err
	}
	r.Digest, r.Entries = cfg.Digest, e.Entries()
	r.Issuers = len(r.Entries)
	for _, c := range f.chain {
		r.Chain = append(r.Chain, fmt.Sprintf("%s, until %s", c.Subject, c.NotAfter.UTC().Format("2006-01-02")))
	}
	if f.mldsa != nil {
		for _, c := range f.mldsa.Chain {
			r.Chain = append(r.Chain, fmt.Sprintf("%s, until %s, for clients with an ML-DSA key", c.Subject,
				c.NotAfter.UTC().Format("2006-01-02")))
		}
	}
	for _, l := range cfg.CT.Logs {
		r.Logs = append(r.Logs, l.Name+" "+l.URL)
	}
	if cfg.CT.Embedded != nil {
		r.Logs = append(r.Logs, "embedded "+cfg.CT.Embedded.Dir)
	}
	if cfg.Rekor != nil {
		r.Logs = append(r.Logs, "rekor "+cfg.Rekor.Dir)
	}
	return nil
}

func problemsOf(err error) []ReportedProblem {
	all, ok := errors.AsType[config.Problems](err)
	if !ok {
		return []ReportedProblem{{What: err.Error()}}
	}
	var out []ReportedProblem
	for _, p := range all {
		out = append(out, ReportedProblem{p.File, p.Line, p.Column, p.What, p.Fix})
	}
	return out
}

// askIssuers fetches the keys of every issuer.
func askIssuers(ctx context.Context, cfg *config.Config) ([]ReportedIssuer, error) {
	return probeIssuers(ctx, cfg, nil)
}

// probeIssuers fetches the keys of every issuer. answered is called with the time of each answer; optional.
func probeIssuers(ctx context.Context, cfg *config.Config,
	answered func(entry string, date, sent time.Time),
) ([]ReportedIssuer, error) {
	v, err := oidc.New(cfg.Issuers, oidc.Options{
		StateDir: "", UserAgent: version.UserAgent(), Answered: answered,
	})
	if err != nil {
		return nil, cfg.Locate(err)
	}
	defer v.Wait()
	var out []ReportedIssuer
	for _, s := range v.Probe(ctx) {
		out = append(out, ReportedIssuer{s.Issuer, s.OK, s.Cause})
	}
	return out, nil
}
