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
)

// Tiles are 256 wide and eight levels high (c2sp.org/tlog-tiles).
const (
	tileWidth  = 256
	tileHeight = 8
)

// static reads a log of tiles (c2sp.org/static-ct-api).
type static struct {
	pin
	from getter
}

func (s *static) head(ctx context.Context) (Head, error) {
	note, err := s.from.get(ctx, "checkpoint", maxHead)
	if err != nil {
		return Head{}, err
	}
	return s.checkpoint(note)
}

// unit implements [source]: one entry bundle.
func (s *static) unit(from uint64) uint64 { return (from/tileWidth + 1) * tileWidth }

// entries implements [source]. from and to lie in one bundle.
func (s *static) entries(ctx context.Context, from, to, size uint64) ([]Entry, error) {
	n := from / tileWidth
	data, err := s.tile(ctx, tile{kind: "data", n: n, size: size, limit: maxBundle})
	if _, local := s.from.(folder); local && errors.Is(err, fs.ErrNotExist) { // tiles are on disk before the head that covers them
		return nil, fmt.Errorf("%w: bundle %d is gone: %w", ErrMismatch, n, err)
	}
	if err != nil {
		return nil, err
	}
	all, err := ParseDataTile(data, n*tileWidth)
	if err != nil {
		return nil, fmt.Errorf("%w: bundle %d: %w", ErrMismatch, n, err)
	}
	if have := n*tileWidth + uint64(len(all)); have < to || len(all) > tileWidth {
		return nil, fmt.Errorf("%w: bundle %d has %d entries, and %d are covered by the head", ErrMismatch, n, len(all), min(size-n*tileWidth, tileWidth))
	}
	return all[from-n*tileWidth : to-n*tileWidth], nil
}

// tile names a tile in a tree of size leaves or, for hashes, of so many nodes at the tile's lowest level.
type tile struct {
	kind  string // "data" or the level
	n     uint64
	size  uint64
	limit int64
}

// tile reads a tile: as a whole where the tree has it, else as the partial one that the size asks for. A partial tile may have
// gone since a larger one took its place, and then the whole one has what it had (c2sp.org/tlog-tiles, "Partial Tiles").
func (s *static) tile(ctx context.Context, t tile) ([]byte, error) {
	path := "tile/" + t.kind + "/" + tilePath(t.n)
	if width := min(t.size-t.n*tileWidth, tileWidth); width < tileWidth {
		data, err := s.from.get(ctx, fmt.Sprintf("%s.p/%d", path, width), t.limit)
		if !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
		if data, e := s.from.get(ctx, path, t.limit); !errors.Is(e, fs.ErrNotExist) {
			return data, e
		}
		return nil, err // it names the tile that should be there
	}
	return s.from.get(ctx, path, t.limit)
}

// tilePath is the number of a tile as a path: three digits each, "x" before all but the last (c2sp.org/tlog-tiles).
func tilePath(n uint64) string {
	path := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		path = fmt.Sprintf("x%03d/", n%1000) + path
	}
	return path
}

// node computes the hash of an inner node, which must be of a perfect tree, from the tile that has what is below it.
func (s *static) node(ctx context.Context, id compact.NodeID, size uint64) ([]byte, error) {
	level := uint64(id.Level) / tileHeight
	up := uint64(id.Level) % tileHeight
	first := id.Index << up // of the nodes at the tile's lowest level
	n, width := first/tileWidth, uint64(1)<<up
	data, err := s.tile(ctx, tile{kind: fmt.Sprint(level), n: n, size: size >> (tileHeight * level), limit: maxHashes})
	if err != nil {
		return nil, err
	}
	at := (first - n*tileWidth) * sha256.Size
	if uint64(len(data)) < at+width*sha256.Size {
		return nil, fmt.Errorf("tile %d/%d is cut short", level, n)
	}
	hashes := make([][]byte, width)
	for i := range hashes {
		hashes[i] = data[at : at+sha256.Size]
		at += sha256.Size
	}
	for ; len(hashes) > 1; hashes = hashes[:len(hashes)/2] {
		for i := range len(hashes) / 2 {
			hashes[i] = rfc6962.DefaultHasher.HashChildren(hashes[2*i], hashes[2*i+1])
		}
	}
	return hashes[0], nil
}

// consistency implements [source]: the proof is put together from tiles.
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

// stray implements [source]: it holds the entries against the hashes of the tree.
func (s *static) stray(ctx context.Context, from, to, size uint64) string {
	for n := from / tileWidth; n*tileWidth < to; n++ {
		hashes, err := s.tile(ctx, tile{kind: "0", n: n, size: size, limit: maxHashes})
		if err != nil {
			return ""
		}
		data, err := s.tile(ctx, tile{kind: "data", n: n, size: size, limit: maxBundle})
		if err != nil {
			return ""
		}
		all, err := ParseDataTile(data, n*tileWidth)
		if err != nil {
			return fmt.Sprintf("tile/data/%s cannot be read", tilePath(n))
		}
		for i := range all {
			sum := all[i].LeafHash()
			if at := i * sha256.Size; len(hashes) < at+sha256.Size || string(hashes[at:at+sha256.Size]) != string(sum[:]) {
				if all[i].Index >= to {
					break
				}
				return fmt.Sprintf("entry %d in tile/data/%s is not the one of tile/0/%s", all[i].Index, tilePath(n), tilePath(n))
			}
		}
	}
	return "the entries are those of the tree's lowest tiles, and the signed root is another"
}
