package monitor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
)

// Tiles are 256 wide and eight levels high (c2sp.org/tlog-tiles).
const (
	tileWidth  = 256
	tileHeight = 8
)

// The pseudo-levels of the entry bundles of certificate logs and of opaque logs.
const (
	bundles       = -1
	opaqueBundles = -2
)

const checkpointPath = "checkpoint"

// static reads a tiled log: a static-ct log (c2sp.org/static-ct-api), or an opaque one (c2sp.org/tlog-tiles).
type static struct {
	headVerifier
	from getter
}

func (s *static) local() bool {
	_, local := s.from.(folder)
	return local
}

func (s *static) head(ctx context.Context) (Head, error) {
	h, _, err := s.signed(ctx)
	return h, err
}

// signed returns the verified head and the names of its cosigners, which are not verified.
func (s *static) signed(ctx context.Context) (h Head, cosigners []string, err error) {
	note, err := s.from.get(ctx, checkpointPath, maxHead)
	if err != nil {
		return h, nil, err
	}
	return s.checkpoint(note)
}

// unit implements [source]: one entry bundle.
func (s *static) unit(from uint64) uint64 { return (from/tileWidth + 1) * tileWidth }

// entries implements [source]. from and to lie in one bundle.
func (s *static) entries(ctx context.Context, from, to, size uint64) ([]Entry, error) {
	t := s.bundle(from/tileWidth, size)
	data, err := s.tile(ctx, t)
	if s.local() && errors.Is(err, fs.ErrNotExist) { // a log writes tiles before the head that covers them
		return nil, fmt.Errorf("%w: bundle %d is missing: %w", ErrMismatch, t.n, err)
	}
	if err != nil {
		return nil, err
	}
	all, err := t.entries(data)
	if err != nil {
		return nil, fmt.Errorf("%w: bundle %d: %w", ErrMismatch, t.n, err)
	}
	return all[from-t.first() : to-t.first()], nil
}

// bundle names an entry bundle of a tree of size leaves.
func (s *static) bundle(n, size uint64) tile {
	if s.format == Opaque {
		return tile{opaqueBundles, n, size}
	}
	return tile{bundles, n, size}
}

// tile names a tile of a tree of size leaves.
type tile struct {
	level   int // a level of the tree, or a pseudo-level
	n, size uint64
}

// width returns how many hashes, or entries, the tree has in the tile.
func (t tile) width() uint64 {
	return min(t.size>>(tileHeight*max(t.level, 0))-t.first(), tileWidth)
}

// first returns the index of the tile's first hash, or entry, at its level.
func (t tile) first() uint64 { return t.n * tileWidth }

// path returns the path of the tile with a width (c2sp.org/tlog-tiles, c2sp.org/static-ct-api).
func (t tile) path(width uint64) string {
	partial := uint8(width % tileWidth) //nolint:gosec // below 256; 0 is a full tile
	switch t.level {
	case bundles:
		return "tile/data/" + layout.NWithSuffix(0, t.n, partial)
	case opaqueBundles:
		return layout.EntriesPath(t.n, partial)
	}
	return layout.TilePath(uint64(t.level), t.n, partial) //nolint:gosec // not negative
}

// full returns the path of the full tile.
func (t tile) full() string { return t.path(tileWidth) }

// String returns the path of the tile in its tree.
func (t tile) String() string { return t.path(t.width()) }

// entries reads an entry bundle and returns the entries that the tree has.
func (t tile) entries(data []byte) ([]Entry, error) {
	parse := ParseDataTile
	if t.level == opaqueBundles {
		parse = parseBundle
	}
	all, err := parse(data, t.first(), tileWidth)
	if err != nil {
		return nil, err
	}
	if uint64(len(all)) < t.width() {
		return nil, fmt.Errorf("the bundle has %d entries, but the head covers %d of the bundle", len(all), t.width())
	}
	return all[:t.width()], nil
}

// tile reads a tile: the full one if the tree fills it, else the partial one. A log may have replaced a partial tile by
// the full one, which begins with the same content (c2sp.org/tlog-tiles, "Partial Tiles").
func (s *static) tile(ctx context.Context, t tile) ([]byte, error) {
	limit, full := int64(t.width()*sha256.Size), int64(maxHashes) //nolint:gosec // at most 256
	if t.level < 0 {
		limit, full = maxBundle, maxBundle
	}
	data, err := s.from.get(ctx, t.String(), limit)
	if errors.Is(err, fs.ErrNotExist) && t.width() < tileWidth {
		if data, e := s.from.get(ctx, t.full(), full); !errors.Is(e, fs.ErrNotExist) {
			return data, e
		}
	}
	return data, err // the caller names the partial tile
}

// hashes reads a tile of hashes and returns the concatenated hashes that the tree has.
func (s *static) hashes(ctx context.Context, t tile) ([]byte, error) {
	data, err := s.tile(ctx, t)
	if err != nil {
		return nil, err
	}
	if have, want := uint64(len(data)), t.width()*sha256.Size; have < want {
		return nil, fmt.Errorf("the tile has %d bytes instead of %d", have, want)
	}
	return data[:t.width()*sha256.Size], nil
}

// node computes the hash of an inner node, the root of a perfect subtree, from the tile below it.
func (s *static) node(ctx context.Context, id compact.NodeID, size uint64) ([]byte, error) {
	up := id.Level % tileHeight
	first := id.Index << up // index of the first node at the tile's lowest level
	t := tile{int(id.Level / tileHeight), first / tileWidth, size}
	data, err := s.hashes(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	hashes := make([][]byte, 1<<up)
	for i := range hashes {
		at := (first - t.first() + uint64(i)) * sha256.Size //nolint:gosec // below 256
		hashes[i] = data[at : at+sha256.Size]
	}
	for ; len(hashes) > 1; hashes = hashes[:len(hashes)/2] {
		for i := range len(hashes) / 2 {
			hashes[i] = rfc6962.DefaultHasher.HashChildren(hashes[2*i], hashes[2*i+1])
		}
	}
	return hashes[0], nil
}

// consistency implements [source]: it computes the proof from tiles.
func (s *static) consistency(ctx context.Context, from, to uint64) ([][]byte, error) {
	need, err := proof.Consistency(from, to)
	if err != nil {
		return nil, err
	}
	hashes := make([][]byte, 0, len(need.IDs))
	for _, id := range need.IDs {
		h, err := s.node(ctx, id, to)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, h)
	}
	return need.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
}

// mismatch implements [source]: it compares the entries with the hashes of the tree.
func (s *static) mismatch(ctx context.Context, from, to, size uint64) string {
	for n := from / tileWidth; n*tileWidth < to; n++ {
		above, below := tile{0, n, size}, s.bundle(n, size)
		hashes, err := s.hashes(ctx, above)
		if err != nil {
			return ""
		}
		all, err := s.entries(ctx, below.first(), min(below.first()+tileWidth, to), size)
		if err != nil {
			return ""
		}
		for i := range all {
			if sum := all[i].LeafHash(); string(hashes[i*sha256.Size:(i+1)*sha256.Size]) != string(sum[:]) {
				return fmt.Sprintf("entry %d in %s does not match its hash in %s", all[i].Index, below, above)
			}
		}
	}
	return "the entries match the tree's lowest tiles, but not the signed root"
}
