package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// trusted errs if shards, as shards.json has them, may not take the place of those that are in force: a log only ever
// gets another shard, and shards end and are closed. What is in force stays then. Without shards in force, at a start,
// the directory itself is held against the file: a shard that has published a checkpoint and is not named has entries
// that the CA promised to show.
func (c Config) trusted(shards, inForce []Shard) error {
	path := filepath.Join(c.Dir, stateFile)
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s: %s; restore it from a copy", path, fmt.Sprintf(format, args...))
	}
	if err := c.writableByAll(shards); err != nil {
		return err
	}
	if len(shards) < len(inForce) {
		return bad("it has %d shards, and %d are in force", len(shards), len(inForce))
	}
	for i, have := range inForce {
		switch one := shards[i]; {
		case one.Name != have.Name || one.Origin != have.Origin:
			return bad("it has the shard %q where %q is in force", one.Label(), have.Label())
		case one.LogID != have.LogID && one.LogID != "" && have.LogID != "":
			return bad("it gives the shard %q another key (log ID %s) than the one in force (log ID %s)", one.Label(),
				one.LogID, have.LogID)
		case !one.NotBefore.Equal(have.NotBefore), !have.NotAfter.IsZero() && !one.NotAfter.Equal(have.NotAfter):
			return bad("it gives the shard %q another validity than the one in force", one.Label())
		}
	}
	return c.unnamed(shards)
}

// unnamed errs if there is a shard on disk that has published a checkpoint, and that shards do not name.
func (c Config) unnamed(shards []Shard) error {
	dir := filepath.Join(c.Dir, shardsDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if slices.ContainsFunc(shards, func(s Shard) bool { return s.Name == e.Name() }) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, e.Name(), checkpointFile)); err == nil {
			return fmt.Errorf("%s does not name the shard in %s, which has published a checkpoint; "+
				"restore the file from a copy",
				filepath.Join(c.Dir, stateFile), filepath.Join(dir, e.Name()))
		}
	}
	return nil
}

// writableByAll errs if every user of this machine may change which shards there are, or with which keys.
func (c Config) writableByAll(shards []Shard) error {
	paths := []string{c.Dir, filepath.Join(c.Dir, stateFile), filepath.Join(c.Dir, shardsDir)}
	for _, s := range shards {
		paths = append(paths, c.ShardDir(s), filepath.Join(c.ShardDir(s), keyFile))
	}
	for _, path := range paths {
		st, err := os.Stat(path)
		if err == nil && st.Mode().Perm()&0o002 != 0 {
			return fmt.Errorf("every user may write to %s, and so replace the log's keys or shards; run: chmod o-w %s",
				path, path)
		}
	}
	return nil
}

// inOrder errs if shards do not follow each other: each begins after the one before, which ends later than that, and
// has a key of its own.
func inOrder(shards []Shard) error {
	ids := map[string]string{}
	for i, s := range shards {
		if other, twice := ids[s.LogID]; twice {
			return fmt.Errorf("the shards %q and %q have the same key", other, s.Label())
		}
		ids[s.LogID] = s.Label()
		switch {
		case i == 0:
		case !s.NotBefore.After(shards[i-1].NotBefore):
			return fmt.Errorf("the shard %q does not begin after %q", s.Label(), shards[i-1].Label())
		case shards[i-1].NotAfter.Before(s.NotBefore):
			return fmt.Errorf("the shard %q ends before %q begins, or has no end", shards[i-1].Label(), s.Label())
		}
	}
	return nil
}
