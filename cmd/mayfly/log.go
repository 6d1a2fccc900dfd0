package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/tlog"
)

func newLog() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Check, count, copy and rotate a static-ct log",
		Long: "These commands work on the log of ct.embedded, while the CA runs or not. fsck, stats and export only " +
			"read, and also take\nthe URL of another static-ct log.",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(newLogFsck(), newLogStats(), newLogExport(), newLogRotate())
	return cmd
}

// logFlags are the flags that select logs.
type logFlags struct {
	config, dir, publicKey, origin string
	json                           bool
}

func (f *logFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", "", "configuration file; the log is that of ct.embedded, with all shards")
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
	if len(args) == 1 {
		return f.remote(ctx, args[0])
	}
	c, err := f.local()
	if err != nil {
		return nil, err
	}
	shards, err := c.Shards()
	if err != nil {
		return nil, err
	}
	var out []logTarget
	for _, s := range shards {
		key, err := node.LoadLogKey(cmp.Or(f.publicKey, c.PublicKeyFile(s)))
		if err != nil {
			return nil, err
		}
		t := logTarget{Shard: s, dir: c.ShardDir(s)}
		if t.Log, err = monitor.Open(monitor.Options{
			Log: loglist.Log{Name: t.dir, Key: key, Origin: s.Origin},
			Dir: t.dir,
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
func (f *logFlags) local() (tlog.Config, error) {
	if f.dir != "" {
		return tlog.Local(tlog.StaticCT, f.dir)
	}
	_, c, err := embeddedOf(f.config)
	return c, err
}

// embeddedOf loads a configuration file, and returns it and its block ct.embedded.
func embeddedOf(path string) (*config.Config, tlog.Config, error) {
	cfg, _, err := config.Load(path)
	if err != nil {
		return nil, tlog.Config{}, cli.Misconfigured(err)
	}
	if cfg.CT.Embedded == nil {
		return nil, tlog.Config{}, cli.Usage("%s has no ct.embedded", path)
	}
	return cfg, cfg.CT.Embedded.Log(), nil
}

func (f *logFlags) remote(ctx context.Context, url string) ([]logTarget, error) {
	if f.publicKey == "" {
		return nil, cli.Usage("--public-key is missing; a remote log cannot be verified without its key")
	}
	key, err := node.LoadLogKey(f.publicKey)
	if err != nil {
		return nil, err
	}
	if err := monitor.CheckPrefix(url); err != nil {
		return nil, cli.Usage("%v", err)
	}
	o := monitor.Options{
		Log: loglist.Log{Name: url, MonitoringURL: url, Key: key, Origin: f.origin},
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
	return []logTarget{{Shard: tlog.Shard{Origin: o.Log.Origin}, Log: log}}, err
}

// logMoment formats a time for a table; "-" is the zero time.
func logMoment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
