package embedded

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
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

// Inspect finds what would stop [OpenStore] and can be seen without changing anything: files that are damaged, or that this process
// cannot read or write. A directory that is not there is fine. Another process may have the log and write to it. Its errors are
// [fault.Setting] values of c.
func Inspect(c Config) error {
	shards, err := c.Shards()
	if err != nil {
		var s *fault.Setting
		if errors.As(err, &s) {
			return err
		}
		return badFile(filepath.Join(c.Dir, stateFile), err)
	}
	if err := c.trusted(shards, nil); err != nil {
		return fault.BadSetting(err.Error(), "", "dir")
	}
	var errs []error
	for _, s := range shards {
		dir := c.ShardDir(s)
		if s.Closed.IsZero() {
			errs = append(errs, inspect(Config{Dir: dir, Origin: c.originOf(s.Name)}, s))
			continue
		}
		_, err := readPublic(dir)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// inspect looks at a shard that takes entries.
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
	key, err := inspectKey(c.Dir, s)
	if err := errors.Join(err, inspectTree(c)); err != nil || key == nil {
		return err
	}
	tiles, err := monitor.Open(monitor.Options{Log: loglist.Log{Key: key.Public(), Origin: c.Origin}, Dir: c.Dir})
	if err != nil {
		return err
	}
	return signedBy(context.Background(), tiles, c.Dir) // it reads one file
}

// signedBy errs if another key than the log's signed the checkpoint in dir: entries promised by two keys must not come into one log.
func signedBy(ctx context.Context, tiles *monitor.Log, dir string) error {
	if _, err := tiles.Head(ctx); errors.Is(err, monitor.ErrBadHead) {
		return fault.BadSetting(fmt.Sprintf("it is not the key that signed %s: %v", filepath.Join(dir, checkpointFile), err),
			"restore the key that belongs to this directory, or use a new directory for a new log", "dir").In(filepath.Join(dir, keyFile))
	}
	return nil
}

// inspectKey returns the key of the log; nil is none yet.
func inspectKey(dir string, s Shard) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(dir, keyFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, e := os.Stat(filepath.Join(dir, checkpointFile)); e == nil {
			return nil, keyGone(path)
		}
		return nil, nil //nolint:nilnil // nil is none yet
	}
	if err != nil {
		return nil, badFile(path, err)
	}
	key, err := parseKey(path, data)
	if err != nil || s.LogID == "" {
		return key, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	if fmt.Sprintf("%x", sha256.Sum256(spki)) != s.LogID {
		return nil, otherKey(dir, s)
	}
	return key, nil
}

// The files of the storage library.
const (
	stateDir = ".state"
	treeFile = "treeState"
	treeLock = "treeState.lock"

	versionFile   = "version" // of the layout
	layoutVersion = "1"       // the one that the library knows

	repairing = "restore it from a backup that is not older than the last SCT"
)

// inspectTree looks at the two files that say how far the log is.
func inspectTree(c Config) error {
	path := filepath.Join(c.Dir, stateDir, treeFile)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return badFile(path, err)
	default:
		if _, err := parseTree(data); err != nil {
			return fault.BadSetting(err.Error(), repairing, "dir").In(path)
		}
	}
	path = filepath.Join(c.Dir, stateDir, versionFile)
	data, err = os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return badFile(path, err)
	case string(data) != layoutVersion:
		return fault.BadSetting(fmt.Sprintf("it says %q, and this version of mayfly knows the layout %s", data, layoutVersion), "use the mayfly that wrote it", "dir").In(path)
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
		return fault.BadSetting(err.Error(), "restore it, or remove it: then another one is signed over the tree that is there", "dir").In(path)
	}
	return nil
}

// tree is how far the storage has got, as it keeps it.
type tree struct {
	Size uint64 `json:"size"`
	Root []byte `json:"root"`
}

func parseTree(data []byte) (t tree, err error) {
	if err := json.Unmarshal(data, &t); err != nil {
		return t, fmt.Errorf("it does not hold a tree's size and root: %w", err)
	}
	return t, nil
}

// readPublic reads the public key of a shard that is only read.
func readPublic(dir string) (*ecdsa.PublicKey, error) {
	path := filepath.Join(dir, publicFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, badFile(path, err)
	}
	k, err := pemfile.PublicKey(data)
	if err != nil {
		return nil, fault.BadContent(err, "restore it", "dir").In(path)
	}
	key, ok := k.(*ecdsa.PublicKey)
	if !ok {
		return nil, fault.BadSetting("it holds no P-256 key", "restore it", "dir").In(path)
	}
	return key, nil
}

func otherKey(dir string, s Shard) error {
	return fault.BadSetting(fmt.Sprintf("it is not the key that %s names (log ID %s)", stateFile, s.LogID), "restore the key", "dir").In(filepath.Join(dir, keyFile))
}

// badFile is a file of the log that cannot be used.
func badFile(path string, err error) error {
	s := fault.BadFile(path, err, "dir")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENOTDIR) {
		s.Fix = "restore it"
	}
	s.Problem = strings.TrimPrefix(s.Problem, path+": ")
	return s
}

// mayWrite errs when this process may not write to a file, or make files in a directory, that is there.
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
