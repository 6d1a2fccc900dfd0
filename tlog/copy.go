package tlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/monitor"
)

// Copied is what a copy has of one shard.
type Copied struct {
	Name   string `json:"shard"`
	Origin string `json:"origin"`
	LogID  string `json:"log_id,omitempty"` // hexadecimal; "" for the shard of a log that was never rotated
	// Size and Root are those of the tree. A log that continues from the copy continues from here.
	Size uint64 `json:"size"`
	Root []byte `json:"root"`
	// Checkpoint is the size in the newest checkpoint, which is not larger than Size.
	Checkpoint uint64 `json:"checkpoint"`
}

// File is a file of a copy.
type File struct {
	Name string // relative to the directory of the log, with slashes
	Mode fs.FileMode
	Time time.Time // of the last change
	Data []byte
}

// Copy calls put with each file that a log in another directory needs: it is one state of the log, even if another
// process adds entries meanwhile. The log writes tiles before the tree that they belong to, and the tree before the
// checkpoint; Copy reads in the opposite order, and reads exactly the tiles of the tree that it has read. Locks and the
// files of a storage that is being written are not copied.
func (c Config) Copy(ctx context.Context, put func(File) error) ([]Copied, error) {
	list, err := os.ReadFile(filepath.Join(c.Dir, stateFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	shards, err := c.parseState(list)
	if err != nil {
		return nil, err
	}
	var out []Copied
	for _, s := range shards {
		one, err := c.copyShard(ctx, s, put)
		if err != nil {
			return nil, fmt.Errorf("shard %s: %w", s.Label(), err)
		}
		out = append(out, one)
	}
	if list == nil {
		return out, nil
	}
	return out, put(File{Name: stateFile, Mode: 0o644, Time: time.Now(), Data: list})
}

// Reserve locks the directory of the log, which must exist, against processes that write to the log, until the lock is
// released. The error wraps [durable.ErrLocked] if one runs.
func (c Config) Reserve() (*durable.FileLock, error) {
	return durable.TryLock(filepath.Join(c.Dir, lockFile))
}

// copyAttempts bounds how often the files at the edge of a tree are read again because the log replaced them. The log
// removes partial tiles once a minute.
const copyAttempts = 10

// copyShard copies one shard.
func (c Config) copyShard(ctx context.Context, s Shard, put func(File) error) (Copied, error) {
	dir := c.ShardDir(s)
	out := Copied{Name: s.Name, Origin: c.originOf(s.Name), LogID: s.LogID}
	rel, err := filepath.Rel(c.Dir, dir)
	if err != nil {
		return out, err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return out, nil // the log was never opened
	}
	below := shardFiles{dir: dir, bundles: c.Kind.bundles(), put: func(f File) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		f.Name = path.Join(filepath.ToSlash(rel), f.Name)
		return put(f)
	}}
	var head edgeFiles
	for attempt := 1; ; attempt++ {
		head, err = below.edge()
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || attempt == copyAttempts {
			return out, err
		}
	}
	out.Size, out.Root, out.Checkpoint = head.tree.Size, head.tree.Root, head.published
	for _, f := range head.files {
		if err := below.put(f); err != nil {
			return out, err
		}
	}
	for name := range fullTiles(head.tree.Size, below.bundles) {
		if err := below.copy(name); err != nil {
			return out, err
		}
	}
	return out, below.copyIssuers()
}

// shardFiles reads the files of a shard.
type shardFiles struct {
	dir     string
	bundles string // the directory of the entry bundles
	put     func(File) error
}

// edgeFiles are the files of a shard that change or are replaced, as of one moment.
type edgeFiles struct {
	files     []File
	tree      tree
	published uint64
}

// edge reads the files that change. Its error is [fs.ErrNotExist] if one of them was replaced meanwhile.
func (s shardFiles) edge() (out edgeFiles, err error) {
	top, err := os.ReadDir(s.dir)
	if err != nil {
		return out, err
	}
	for _, e := range top {
		if !e.Type().IsRegular() || notCopied(e.Name()) {
			continue
		}
		if err := out.read(s.dir, e.Name()); err != nil {
			return out, err
		}
	}
	// The checkpoint is read before the tree, which is then not smaller.
	checkpoint, err := out.optional(s.dir, checkpointFile)
	if err != nil {
		return out, err
	}
	if checkpoint != nil {
		h, _, err := monitor.ParseCheckpoint(checkpoint)
		if err != nil {
			return out, fmt.Errorf("%s: %w", filepath.Join(s.dir, checkpointFile), err)
		}
		out.published = h.Size
	}
	if _, err := out.optional(s.dir, path.Join(stateDir, versionFile)); err != nil {
		return out, err
	}
	state, err := out.optional(s.dir, path.Join(stateDir, treeFile))
	if err != nil {
		return out, err
	}
	if state != nil {
		if out.tree, err = parseTree(state); err != nil {
			return out, fmt.Errorf("%s: %w", filepath.Join(s.dir, stateDir, treeFile), err)
		}
	}
	for _, size := range slices.Compact([]uint64{out.published, out.tree.Size}) {
		for _, name := range partialTiles(size, s.bundles) {
			if slices.ContainsFunc(out.files, func(f File) bool { return f.Name == name }) {
				continue
			}
			if err := out.read(s.dir, name); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// notCopied reports whether a file in the directory of a shard is read elsewhere, or belongs to a process.
func notCopied(name string) bool {
	return slices.Contains([]string{checkpointFile, stateFile, stateLock, lockFile, fenceFile}, name) ||
		strings.HasPrefix(name, ".")
}

func (e *edgeFiles) read(dir, name string) error {
	f, err := readFile(dir, name)
	if err != nil {
		return err
	}
	e.files = append(e.files, f)
	return nil
}

// optional reads a file that a log without entries does not have.
func (e *edgeFiles) optional(dir, name string) ([]byte, error) {
	f, err := readFile(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		e.files = append(e.files, f)
	}
	return f.Data, err
}

func readFile(dir, name string) (File, error) {
	at := filepath.Join(dir, filepath.FromSlash(name))
	data, err := os.ReadFile(at) //nolint:gosec // a file of the log
	if err != nil {
		return File{}, err
	}
	st, err := os.Stat(at)
	if err != nil {
		return File{}, err
	}
	return File{Name: name, Mode: st.Mode().Perm(), Time: st.ModTime(), Data: data}, nil
}

func (s shardFiles) copy(name string) error {
	f, err := readFile(s.dir, name)
	if err != nil {
		return err
	}
	return s.put(f)
}

// copyIssuers copies the certificates that entries refer to by their digests. They are on disk before the entries.
func (s shardFiles) copyIssuers() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "issuer"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
			if err := s.copy(path.Join("issuer", e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// bundles returns the directory of the entry bundles.
func (k Kind) bundles() string {
	if k == StaticCT {
		return "tile/data" // c2sp.org/static-ct-api
	}
	return "tile/entries" // c2sp.org/tlog-tiles
}

// fullTiles lists the names of the full tiles and entry bundles of a tree.
func fullTiles(size uint64, bundles string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for n := range size / layout.TileWidth {
			if !yield(path.Join(bundles, layout.NWithSuffix(0, n, 0))) {
				return
			}
		}
		for level, hashes := uint64(0), size; hashes > 0; level, hashes = level+1, hashes>>layout.TileHeight {
			for n := range hashes / layout.TileWidth {
				if !yield(layout.TilePath(level, n, 0)) {
					return
				}
			}
		}
	}
}

// partialTiles lists the names of the partial tiles, and of the partial entry bundle, of a tree.
func partialTiles(size uint64, bundles string) (out []string) {
	if p := size % layout.TileWidth; p > 0 {
		out = append(out, path.Join(bundles, layout.NWithSuffix(0, size/layout.TileWidth, uint8(p)))) //nolint:gosec // below 256
	}
	for level, hashes := uint64(0), size; hashes > 0; level, hashes = level+1, hashes>>layout.TileHeight {
		if p := hashes % layout.TileWidth; p > 0 {
			out = append(out, layout.TilePath(level, hashes/layout.TileWidth, uint8(p))) //nolint:gosec // below 256
		}
	}
	return out
}

// VerifyCopy verifies a shard in a directory to which [Config.Copy] copied it: every entry, hash and signature that the
// checkpoint covers, and that the tree is the one that was copied.
func (c Config) VerifyCopy(ctx context.Context, want Copied) error {
	log, err := c.Reader(Shard{Kind: c.Kind, Name: want.Name, Origin: want.Origin})
	if err != nil {
		return err
	}
	var wrong error
	head, err := log.Check(ctx, monitor.CheckOptions{Now: time.Now(), Found: func(f monitor.Finding) {
		wrong = fmt.Errorf("%s: %s", f.Where, f.Problem)
	}})
	switch {
	case err != nil:
		return err
	case wrong != nil:
		return wrong
	case head.Size != want.Checkpoint:
		return fmt.Errorf("the checkpoint covers %d entries, not %d", head.Size, want.Checkpoint)
	case want.Size == 0:
		return nil
	}
	root, err := log.Edge(ctx, want.Size)
	if err == nil && !bytes.Equal(root, want.Root) {
		err = fmt.Errorf("the tiles do not give the root of the tree of %d entries", want.Size)
	}
	return err
}
