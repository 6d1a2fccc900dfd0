package tlog

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/mayfly-ca/mayfly/monitor"
)

// ShardHead is the head of a shard on disk.
type ShardHead struct {
	Shard
	monitor.Head
	// Absent means that the shard has no head yet, because the log was never opened.
	Absent bool
	Err    error // why no head verifies with the shard's key
}

// Reader returns the log of a shard on disk, to be read as a monitor does. The key is that in the shard's file.
func (c Config) Reader(s Shard) (*monitor.Log, error) {
	description, err := c.Describe(s)
	if err != nil {
		return nil, err
	}
	return monitor.Open(monitor.Options{Log: description, Format: c.Kind.Format(), Dir: c.ShardDir(s)})
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
		log, err := c.Reader(s)
		if err == nil {
			one.Head, err = log.Head(ctx)
		}
		if _, e := os.Stat(c.PublicKeyFile(s)); errors.Is(e, fs.ErrNotExist) && s.LogID == "" {
			one.Absent, err = true, nil
		}
		one.Err = err
		out = append(out, one)
	}
	return out, nil
}
