package embedded

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
)

// rightEdge errs when a file is missing or damaged that the next entry builds on: the tiles that are not full, and the entries beside
// them. They have to give the root that the storage has kept. No other file is read when an entry is added.
func (l *Log) rightEdge(ctx context.Context) error {
	err := l.readEdge(ctx)
	if err != nil && ctx.Err() == nil {
		err = l.readEdge(ctx) // the tree may have grown over it
	}
	if err != nil {
		return fmt.Errorf("%w; restore the file from a copy of the directory (\"mayfly log fsck\" finds what else is wrong)", err)
	}
	return nil
}

func (l *Log) readEdge(ctx context.Context) error {
	data, err := os.ReadFile(filepath.Join(l.dir, stateDir, treeFile))
	if err != nil {
		return err
	}
	t, err := parseTree(data)
	if err != nil || t.Size == 0 {
		return err
	}
	r := &Reader{Source: Dir(l.dir)}
	var hashes [][]byte // of the perfect trees that the tree is made of, the largest first
	for level, n := uint64(0), t.Size; n > 0; level, n = level+1, n/layout.TileWidth {
		width := int(n % layout.TileWidth) //nolint:gosec // below 256
		if width == 0 {
			continue
		}
		nodes, err := r.tile(ctx, level, n/layout.TileWidth, width)
		if err != nil {
			return err
		}
		if len(nodes) != width*hashSize {
			return fmt.Errorf("%s has %d bytes, not %d", filepath.Join(l.dir, layout.TilePath(level, n/layout.TileWidth, uint8(width))), len(nodes), width*hashSize) //nolint:gosec // below 256
		}
		hashes = append(perfect(nodes, width), hashes...)
	}
	if width := int(t.Size % layout.EntryBundleWidth); width > 0 { //nolint:gosec // below 256
		if _, err := r.bundle(ctx, t.Size/layout.EntryBundleWidth, width); err != nil {
			return err
		}
	}
	whole, err := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewRange(0, t.Size, hashes)
	if err != nil {
		return err
	}
	root, err := whole.GetRootHash(nil)
	if err != nil {
		return err
	}
	if !bytes.Equal(root, t.Root) {
		return fmt.Errorf("the newest tiles in %s do not give the root of the tree's %d entries", filepath.Join(l.dir, "tile"), t.Size)
	}
	return nil
}

// perfect splits the width nodes of a tile into perfect trees, the largest first, and returns their roots.
func perfect(nodes []byte, width int) (out [][]byte) {
	all := slices.Collect(slices.Chunk(nodes, hashSize))
	for size := layout.TileWidth / 2; size > 0; size /= 2 {
		if width&size != 0 {
			out = append(out, rootOver(all[:size]))
			all = all[size:]
		}
	}
	return out
}

func rootOver(nodes [][]byte) []byte {
	if len(nodes) == 1 {
		return nodes[0]
	}
	half := len(nodes) / 2
	return rfc6962.DefaultHasher.HashChildren(rootOver(nodes[:half]), rootOver(nodes[half:]))
}
