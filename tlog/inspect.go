package tlog

import (
	"context"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
)

// Inspect finds mistakes that would make [OpenStore] fail, without changing anything: files that are damaged, or that
// this process cannot read or write. The directory need not exist. Another process may have the log open. Its errors
// are [fault.Setting] values of c.
func Inspect(c Config) error {
	shards, err := c.Shards()
	if err != nil {
		var s *fault.Setting
		if errors.As(err, &s) {
			return err
		}
		return badFile(filepath.Join(c.Dir, stateFile), err)
	}
	if err := c.checkShards(shards, nil); err != nil {
		return fault.BadSetting(err.Error(), "", "dir")
	}
	if err := c.CheckFence(); err != nil {
		return err
	}
	var errs []error
	for _, s := range shards {
		dir := c.ShardDir(s)
		if s.Closed.IsZero() {
			errs = append(errs, inspect(Config{Kind: c.Kind, Dir: dir, Origin: c.originOf(s.Name), Keys: c.Keys}, s))
			continue
		}
		_, err := readPublic(c.Kind, dir)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// inspect checks a shard that accepts entries.
func inspect(c Config, s Shard) error {
	if _, err := os.Stat(c.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, name := range []string{".", "issuer", "tile", stateDir} {
		if err := mayWrite(filepath.Join(c.Dir, name), true); err != nil {
			return err
		}
	}
	for _, name := range []string{lockFile, filepath.Join(stateDir, treeLock)} {
		if err := mayWrite(filepath.Join(c.Dir, name), false); err != nil {
			return err
		}
	}
	path := filepath.Join(c.Dir, originFile)
	data, err := os.ReadFile(path)
	have := strings.TrimSpace(string(data))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return badFile(path, err)
	case have != c.Origin:
		return otherOrigin(c, have)
	}
	key, err := c.inspectKey(s)
	if err := errors.Join(err, inspectTree(c)); err != nil || key == nil {
		return err
	}
	tiles, err := monitor.Open(monitor.Options{
		Log: loglist.Log{Key: key, Origin: c.Origin}, Format: c.Kind.Format(), Dir: c.Dir,
	})
	if err != nil {
		return err
	}
	return checkSignedBy(context.Background(), tiles, c.Dir) // reads one file
}

// checkSignedBy returns an error if the checkpoint in dir is not signed with the log's key: a log must not have entries
// with SCTs of two keys.
func checkSignedBy(ctx context.Context, tiles *monitor.Log, dir string) error {
	if _, err := tiles.Head(ctx); errors.Is(err, monitor.ErrBadHead) {
		return fault.BadSetting(fmt.Sprintf("this key did not sign %s: %v", filepath.Join(dir, checkpointFile), err),
			"restore the key that belongs to this directory, or use a new directory for a new log", "dir").
			In(filepath.Join(dir, keyFile))
	}
	return nil
}

// inspectKey returns the public key of the log; nil if there is none yet.
func (c Config) inspectKey(s Shard) (public crypto.PublicKey, err error) {
	path := filepath.Join(c.Dir, keyFile)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(c.Keys) > 0:
		if isNewShard(c.Dir) {
			return nil, nil //nolint:nilnil // nil means none yet
		}
		key, err := c.configuredKey(c.Dir, nil)
		if err != nil {
			return nil, err
		}
		public = key.Public()
	case errors.Is(err, fs.ErrNotExist):
		if _, e := os.Stat(filepath.Join(c.Dir, checkpointFile)); e == nil {
			return nil, keyMissing(path)
		}
		return nil, nil //nolint:nilnil // nil means none yet
	case err != nil:
		return nil, badFile(path, err)
	default:
		key, err := parseKey(c.Kind, path, data)
		if err != nil {
			return nil, err
		}
		public = key.Public()
	}
	if s.LogID == "" {
		return public, nil
	}
	id, err := c.Kind.logID(c.Origin, public)
	if err == nil && hex.EncodeToString(id[:]) != s.LogID {
		err = otherKey(c.Dir, s)
	}
	return public, err
}

// The files of Tessera's POSIX storage.
const (
	stateDir = ".state"
	treeFile = "treeState"
	treeLock = "treeState.lock"

	versionFile   = "version" // of the layout
	layoutVersion = "1"       // the one that Tessera supports

	restoreHint = "restore it from a backup that is not older than the last entry"
)

// inspectTree checks the files that record the size of the tree.
func inspectTree(c Config) error {
	path := filepath.Join(c.Dir, stateDir, treeFile)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return badFile(path, err)
	default:
		if _, err := parseTree(data); err != nil {
			return fault.BadSetting(err.Error(), restoreHint, "dir").In(path)
		}
	}
	path = filepath.Join(c.Dir, stateDir, versionFile)
	data, err = os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return badFile(path, err)
	case string(data) != layoutVersion:
		return fault.BadSetting(fmt.Sprintf("the file has the layout %q, and this version of mayfly "+
			"supports the layout %s", data,
			layoutVersion), "use the version of mayfly that wrote the file", "dir").In(path)
	}
	path = filepath.Join(c.Dir, checkpointFile)
	data, err = os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return badFile(path, err)
	}
	if _, err := parseHead(data, c.Origin); err != nil {
		return fault.BadSetting(err.Error(),
			"restore it, or remove it: a new checkpoint is then signed over the existing tree",
			"dir").In(path)
	}
	return nil
}

// tree is the content of the storage's file treeState.
type tree struct {
	Size uint64 `json:"size"`
	Root []byte `json:"root"`
}

func parseTree(data []byte) (t tree, err error) {
	if err := json.Unmarshal(data, &t); err != nil {
		return t, fmt.Errorf("the file does not have the size and the root of a tree: %w", err)
	}
	return t, nil
}

// readPublic reads the public key of a shard from its file.
func readPublic(kind Kind, dir string) (crypto.PublicKey, error) {
	path := filepath.Join(dir, publicFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, badFile(path, err)
	}
	key, err := pemfile.PublicKey(data)
	if err != nil {
		return nil, fault.BadContent(err, "restore it", "dir").In(path)
	}
	if problem := kind.keyProblem(key); problem != "" {
		return nil, fault.BadSetting(problem, "restore it", "dir").In(path)
	}
	return key, nil
}

func otherKey(dir string, s Shard) error {
	return fault.BadSetting(fmt.Sprintf("this is not the key that %s names (log ID %s)", stateFile, s.LogID),
		"restore the key", "dir").In(filepath.Join(dir, keyFile))
}

// badFile returns the error of a file of the log that cannot be used.
func badFile(path string, err error) error {
	s := fault.BadFile(path, err, "dir")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENOTDIR) {
		s.Fix = "restore it"
	}
	s.Problem = strings.TrimPrefix(s.Problem, path+": ")
	return s
}

// mayWrite returns an error if this process may not write to an existing file, or make files in an existing directory.
func mayWrite(path string, dir bool) error {
	const read, write, search = 4, 2, 1 // access(2)
	st, err := os.Stat(path)
	mode := uint32(read | write)
	if dir {
		mode |= search
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
	case st.IsDir() && !dir:
		err = syscall.EISDIR
	case !st.IsDir() && dir:
		err = syscall.ENOTDIR
	default:
		err = syscall.Access(path, mode)
	}
	if err != nil {
		return badFile(path, err)
	}
	return nil
}
