package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/tlog"
)

func newLog(o *cli.Common) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Check, count, copy and rotate the logs of the CA",
		Long: "These commands work on the CT log of ct.embedded or, with --log rekor, on the log of signatures of\n" +
			"rekor, while the CA runs or not. fsck, stats and export only read, and also take the URL of another\n" +
			"log: a static-ct log or, with --log rekor, a Rekor v2 log.",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(newLogFsck(), newLogStats(), newLogExport(), newLogRotate(o))
	return cmd
}

// logFlags are the flags that select logs.
type logFlags struct {
	log                            string
	config, dir, publicKey, origin string
	json                           bool
}

// registerLog registers the flag that selects one of the two logs.
func registerLog(fl *pflag.FlagSet, to *string) {
	fl.StringVar(to, "log", logCT, "which log: ct or rekor")
}

// The values of --log.
const (
	logCT    = "ct"
	logRekor = "rekor"
)

// kindOf returns the kind of log that --log names.
func kindOf(name string) (tlog.Kind, error) {
	switch name {
	case logCT:
		return tlog.StaticCT, nil
	case logRekor:
		return tlog.Rekor, nil
	}
	return 0, cli.Usage("--log %q: write ct or rekor", name)
}

func (f *logFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	registerLog(fl, &f.log)
	fl.StringVar(&f.config, "config", "", "configuration file; the log is the one in it, with all shards")
	fl.StringVar(&f.dir, "dir", "", "directory of the log, with all shards")
	fl.StringVar(&f.publicKey, "public-key", "", "PEM file with the log's key; required for a URL")
	fl.StringVar(&f.origin, "origin", "",
		"origin in the log's checkpoints, for a URL (default: as its checkpoint says)")
	fl.BoolVar(&f.json, "json", false, "print JSON")
}

// logTarget is one log to read.
type logTarget struct {
	tlog.Shard
	*monitor.Log        // named by its directory or URL
	dir          string // "" for a remote log
}

// targets opens the logs that the flags and the argument name. If the origin of a remote log is not given, it is read
// from the log's checkpoint.
func (f *logFlags) targets(ctx context.Context, args []string) ([]logTarget, error) {
	named := 0
	for _, one := range []string{f.config, f.dir, strings.Join(args, "")} {
		if one != "" {
			named++
		}
	}
	if named != 1 {
		return nil, cli.Usage("write one of --config FILE, --dir DIR and the URL of a log")
	}
	kind, err := kindOf(f.log)
	if err != nil {
		return nil, err
	}
	if len(args) == 1 {
		return f.remote(ctx, kind, args[0])
	}
	c, err := f.local(kind)
	if err != nil {
		return nil, err
	}
	shards, err := c.Shards()
	if err != nil {
		return nil, err
	}
	var out []logTarget
	for _, s := range shards {
		key, err := loadLogKey(kind, cmp.Or(f.publicKey, c.PublicKeyFile(s)))
		if err != nil {
			return nil, err
		}
		t := logTarget{Shard: s, dir: c.ShardDir(s)}
		if t.Log, err = monitor.Open(monitor.Options{
			Log:    loglist.Log{Name: t.dir, Key: key, Origin: s.Origin},
			Format: kind.Format(), Dir: t.dir,
		}); err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	if f.publicKey != "" && len(out) > 1 {
		return nil, cli.Usage("--public-key: the log has %d shards, each with its own key; remove --public-key",
			len(out))
	}
	return out, nil
}

// local returns the log that --config or --dir names.
func (f *logFlags) local(kind tlog.Kind) (tlog.Config, error) {
	if f.dir != "" {
		return tlog.Local(kind, f.dir)
	}
	_, c, err := logOf(f.config, kind)
	return c, err
}

// loadLogKey reads the public key of a log.
func loadLogKey(kind tlog.Kind, name string) (any, error) {
	if kind == tlog.StaticCT {
		return node.LoadLogKey(name)
	}
	data, err := input.Read(nil, name)
	if err != nil {
		return nil, fault.BadFile(name, err)
	}
	key, err := pemfile.PublicKey(data)
	if err != nil {
		return nil, fault.BadContent(err, "write the path of the log's public key in PEM").In(name)
	}
	return key, nil
}

// logOf loads a configuration file, and returns it and its log of a kind, without keys.
func logOf(path string, kind tlog.Kind) (*config.Config, tlog.Config, error) {
	cfg, _, err := config.Load(path)
	switch {
	case err != nil:
		return nil, tlog.Config{}, cli.Misconfigured(err)
	case kind == tlog.Rekor && cfg.Rekor == nil:
		return nil, tlog.Config{}, cli.Usage("%s has no block rekor", path)
	case kind == tlog.Rekor:
		return cfg, cfg.RekorLog(), nil
	case cfg.CT.Embedded == nil:
		return nil, tlog.Config{}, cli.Usage("%s has no ct.embedded", path)
	}
	return cfg, cfg.CT.Embedded.Log(), nil
}

func (f *logFlags) remote(ctx context.Context, kind tlog.Kind, url string) ([]logTarget, error) {
	if f.publicKey == "" {
		return nil, cli.Usage("--public-key is missing; a remote log cannot be verified without its key")
	}
	key, err := loadLogKey(kind, f.publicKey)
	if err != nil {
		return nil, err
	}
	if err := monitor.CheckPrefix(url); err != nil {
		return nil, cli.Usage("%v", err)
	}
	prefix := url
	if kind == tlog.Rekor {
		prefix = strings.TrimRight(url, "/") + "/api/v2"
	}
	o := monitor.Options{
		Log:    loglist.Log{Name: url, MonitoringURL: prefix, Key: key, Origin: f.origin},
		Format: kind.Format(),
		Transport: monitor.Transport{
			Proxy: http.ProxyFromEnvironment, UserAgent: version.UserAgent(),
		},
	}
	if o.Log.Origin == "" {
		if o.Log.Origin, err = monitor.OriginOf(ctx, o); err != nil {
			return nil, fmt.Errorf("%s: %w", url, err)
		}
	}
	log, err := monitor.Open(o)
	return []logTarget{{Shard: tlog.Shard{Kind: kind, Origin: o.Log.Origin}, Log: log}}, err
}

// logMoment formats a time for a table; "-" is the zero time.
func logMoment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
