package tlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/loglist"
)

// fenceFile marks a log that was restored from a copy, after which the log may have signed more. A log that continued
// from such a copy would sign a second history. While the file exists, the log is only read.
const fenceFile = "restored.json"

// Mark is what the mark of a log says.
type Mark struct {
	// Copied is when the copy was made.
	Copied time.Time `json:"copied"`
	// Moved says that the log is the original, and that it continues where the copy was restored.
	Moved bool `json:"moved,omitempty"`
}

// Fence marks the log in a directory: it is not opened until the mark is removed.
func Fence(dir string, m Mark) error {
	m.Copied = m.Copied.UTC().Truncate(time.Second)
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, fenceFile), append(data, '\n'), 0o644)
}

// CheckFence returns an error if the log is marked. The error says how to continue.
func (c Config) CheckFence() error {
	path := filepath.Join(c.Dir, fenceFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return badFile(path, err)
	}
	var f Mark
	if err := json.Unmarshal(data, &f); err != nil {
		return fault.BadSetting("the file does not say when the copy was made", "restore the backup again",
			"dir").In(path)
	}
	if f.Moved {
		return fault.BadSetting(fmt.Sprintf("the log was moved by the backup of %s, and continues "+
			"where that backup was restored",
			f.Copied.Format(time.RFC3339)), "restore that backup; only if it was never restored, remove this file",
			"dir").
			In(path)
	}
	return fault.BadSetting(fmt.Sprintf("the log was restored from a backup of %s: if a server has signed anything "+
		"since, the log would sign a second history", f.Copied.Format(time.RFC3339)),
		`close the log at its last entry and continue with a new key: "mayfly log rotate --restored --yes"`,
		"dir").In(path)
}

// Marked reports whether the log is marked.
func (c Config) Marked() bool { return c.CheckFence() != nil }

// Replace closes every shard of a log that was restored, each with a checkpoint over the entries that it has, and makes
// a new shard with a new key that is active at once. Nothing is added to the old shards: a verifier that has seen more
// of their entries sees no second history. Then the log is no longer marked. A log that is not marked is an error.
// After an error or a crash, Replace can be called again; a shard that it made before then stays empty.
func (c Config) Replace(ctx context.Context, o Options) (Shard, error) {
	if !c.Marked() { // a log that was moved may be replaced, too: its copy may be lost
		return Shard{}, fault.BadSetting("the log was not restored from a backup", "remove --restored", "restored")
	}
	if err := c.checkOwner(); err != nil {
		return Shard{}, err
	}
	o = o.withDefaults()
	shards, err := c.Shards()
	if err != nil {
		return Shard{}, err
	}
	now := o.Now().UTC().Truncate(time.Second)
	for i, s := range shards {
		if !s.Closed.IsZero() || s.NotBefore.After(now) { // a shard for the future has signed nothing
			continue
		}
		if shards[i], err = c.finishShard(ctx, s, o); err != nil {
			return Shard{}, fmt.Errorf("shard %s: %w", s.Label(), err)
		}
		shards[i].Closed = now
	}
	made, err := c.replaceShards(shards, now)
	if err != nil {
		return Shard{}, err
	}
	return made, errors.Join(os.Remove(filepath.Join(c.Dir, fenceFile)), durable.SyncDir(c.Dir))
}

// finishShard publishes a checkpoint over the entries of a shard, and completes its description.
func (c Config) finishShard(ctx context.Context, s Shard, o Options) (Shard, error) {
	o.label = s.Label()
	shard := c
	shard.Dir, shard.Origin, shard.Witnesses = c.ShardDir(s), c.originOf(s.Name), nil
	l, err := Open(ctx, shard, o)
	if err != nil {
		return s, err
	}
	s.LogID = fmt.Sprintf("%x", l.ID())
	if s.Created.IsZero() {
		s.Created = keyCreated(c.ShardDir(s))
	}
	return s, l.Close(ctx)
}

// replaceShards writes the list of shards with a new one, which is active now, before those of the future.
func (c Config) replaceShards(shards []Shard, now time.Time) (made Shard, err error) {
	err = c.change(func([]Shard) ([]Shard, error) {
		at := slices.IndexFunc(shards, func(s Shard) bool { return s.NotBefore.After(now) })
		made = Shard{
			Kind: c.Kind, Name: "restored-" + now.Format("20060102-150405"),
			Window: loglist.Window{NotBefore: now}, Created: now,
		}
		if at < 0 {
			at = len(shards)
		} else {
			made.NotAfter = shards[at].NotBefore.Add(Overlap)
		}
		made.Origin = c.originOf(made.Name)
		used := map[string]bool{}
		for _, s := range shards {
			used[s.LogID] = true
		}
		if made, err = c.createShard(made, used); err != nil {
			return nil, err
		}
		next := slices.Insert(slices.Clone(shards), at, made)
		if at > 0 {
			next[at-1].NotAfter = now.Add(Overlap)
		}
		return next, checkOrder(next)
	})
	return made, err
}
