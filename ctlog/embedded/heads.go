package embedded

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
)

// ShardHead is the head of a shard as the files have it.
type ShardHead struct {
	Shard
	monitor.Head
	// Absent: the shard has no head yet, because the log was never opened.
	Absent bool
	Err    error // why there is no head that verifies with the shard's key
}

// Heads reads the head of each shard and verifies it with the shard's public key. It changes nothing.
func Heads(ctx context.Context, c Config) ([]ShardHead, error) {
	shards, err := c.Shards()
	if err != nil {
		return nil, err
	}
	out := make([]ShardHead, 0, len(shards))
	for _, s := range shards {
		one := ShardHead{Shard: s}
		dir := c.ShardDir(s)
		key, err := readPublic(dir)
		if err == nil {
			var log *monitor.Log
			if log, err = monitor.Open(monitor.Options{Log: loglist.Log{Name: s.Label(), Key: key, Origin: c.originOf(s.Name)}, Dir: dir}); err == nil {
				one.Head, err = log.Head(ctx)
			}
		}
		if _, e := os.Stat(filepath.Join(dir, publicFile)); errors.Is(e, fs.ErrNotExist) && s.LogID == "" {
			one.Absent, err = true, nil
		}
		one.Err = err
		out = append(out, one)
	}
	return out, nil
}
