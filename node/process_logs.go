package node

import (
	"context"
	"errors"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tlog"
)

// ProcessLog is a log in the process of a CA.
type ProcessLog struct {
	// Setting is the path of its block in the configuration.
	Setting []string
	Config  tlog.Config
}

// ProcessLogs returns the logs in the process of the CA of a configuration, with the keys that the configuration names.
// The caller calls release, which is never nil, when the keys are no longer needed.
func ProcessLogs(ctx context.Context, cfg *config.Config) (logs []ProcessLog, release func() error, err error) {
	release = func() error { return nil }
	if c := cfg.CT.Embedded; c != nil {
		logs = append(logs, ProcessLog{[]string{"ct", "embedded"}, c.Log()})
	}
	if cfg.Rekor == nil {
		return logs, release, nil
	}
	keys, err := openRekorKeys(ctx, nil, cfg)
	if err != nil {
		return nil, release, cfg.Locate(err)
	}
	return append(logs, ProcessLog{[]string{"rekor"}, rekorConfig(cfg, keys)}),
		func() error { return closeKeys(keys) }, nil
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
