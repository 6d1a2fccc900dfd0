package tlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// checkShards returns an error if the shards of shards.json may not replace those in use: a log may get further shards,
// and shards may end and be closed, but nothing else may change. The shards in use then stay in use. At a start, when
// no shards are in use, the file is compared with the directory: a shard that has published a checkpoint, but is
// missing in the file, has entries for which the CA has SCTs.
func (c Config) checkShards(shards, inUse []Shard) error {
	path := filepath.Join(c.Dir, stateFile)
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s: %s; restore it from a copy", path, fmt.Sprintf(format, args...))
	}
	if err := c.checkPermissions(shards); err != nil {
		return err
	}
	if len(shards) < len(inUse) {
		return bad("it lists %d shards, but %d are in use", len(shards), len(inUse))
	}
	for i, have := range inUse {
		switch one := shards[i]; {
		case one.Name != have.Name || one.Origin != have.Origin:
			return bad("it lists the shard %q in the place of %q, which is in use", one.Label(), have.Label())
		case one.LogID != have.LogID && one.LogID != "" && have.LogID != "":
			return bad("it gives the shard %q a different key (log ID %s) from the one in use (log ID %s)", one.Label(),
				one.LogID, have.LogID)
		case !one.NotBefore.Equal(have.NotBefore), !have.NotAfter.IsZero() && !one.NotAfter.Equal(have.NotAfter):
			return bad("it gives the shard %q a different validity from the one in use", one.Label())
		}
	}
	return c.checkUnlisted(shards)
}

// checkUnlisted returns an error if a shard on disk has published a checkpoint and is not among shards.
func (c Config) checkUnlisted(shards []Shard) error {
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
			return fmt.Errorf("%s does not list the shard in %s, which has published a checkpoint; "+
				"restore the file from a copy",
				filepath.Join(c.Dir, stateFile), filepath.Join(dir, e.Name()))
		}
	}
	return nil
}

// checkPermissions returns an error if every user of this machine can change the list of shards or their keys.
func (c Config) checkPermissions(shards []Shard) error {
	paths := []string{c.Dir, filepath.Join(c.Dir, stateFile), filepath.Join(c.Dir, shardsDir)}
	for _, s := range shards {
		paths = append(paths, c.ShardDir(s), filepath.Join(c.ShardDir(s), keyFile))
	}
	for _, path := range paths {
		st, err := os.Stat(path)
		if err == nil && st.Mode().Perm()&0o002 != 0 {
			return fmt.Errorf("every user may write to %s, and could replace the log's keys or "+
				"shards; run: chmod o-w %s",
				path, path)
		}
	}
	return nil
}

// checkOrder returns an error unless each shard begins after the previous one, the previous one ends after that, and
// all keys differ.
func checkOrder(shards []Shard) error {
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
			return fmt.Errorf("the shard %q ends before %q begins, or does not end", shards[i-1].Label(), s.Label())
		}
	}
	return nil
}
