package node

import (
	"context"
	"errors"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tlog"
)

// ProcessLog is a log in the process of a CA.
type ProcessLog struct {
	// Setting is the path of its block in the configuration.
	Setting []string
	Config  tlog.Config
}

// processLogs returns the logs in the process of the CA of a configuration. Without keys, what the log of signatures
// signs with is not set, which is enough to read it.
func processLogs(cfg *config.Config, keys ...*signer.Key) (logs []ProcessLog) {
	if c := cfg.CT.Embedded; c != nil {
		logs = append(logs, ProcessLog{[]string{"ct", "embedded"}, c.Log()})
	}
	if cfg.Rekor != nil {
		logs = append(logs, ProcessLog{[]string{"rekor"}, rekorConfig(cfg, keys)})
	}
	return logs
}

// ProcessLogs returns the logs in the process of the CA of a configuration, with the keys that the configuration names.
// The caller calls release when the keys are no longer needed.
func ProcessLogs(ctx context.Context, cfg *config.Config) (logs []ProcessLog, release func() error, err error) {
	keys, err := openRekorKeys(ctx, nil, cfg)
	if err != nil {
		return nil, nil, cfg.Locate(err)
	}
	return processLogs(cfg, keys...), func() error { return closeKeys(keys) }, nil
}

// monitors opens the files of each shard of a log, to read them. Its errors say where the settings of the log are.
func (l ProcessLog) monitors() (out []*monitor.Log, err error) {
	shards, err := l.Config.Shards()
	if err != nil {
		return nil, fault.Under(err, l.Setting...)
	}
	for _, s := range shards {
		log, err := l.Config.Reader(s)
		if err != nil {
			return nil, fault.Under(err, l.Setting...)
		}
		out = append(out, log)
	}
	return out, nil
}

// MakeLogs opens and closes each log in the process of the CA, so that it has a key and a checkpoint.
func MakeLogs(ctx context.Context, cfg *config.Config) (err error) {
	logs, release, err := ProcessLogs(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	for _, l := range logs {
		store, err := tlog.OpenStore(ctx, l.Config, tlog.Options{})
		if err == nil {
			err = store.Close(ctx)
		}
		if err != nil {
			return cfg.Locate(fault.Under(err, l.Setting...))
		}
	}
	return nil
}
