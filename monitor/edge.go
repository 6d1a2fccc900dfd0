package monitor

import (
	"context"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Edge reads the files on which the next entry of a tiled log of size entries depends: the partial tiles and their
// entries. It returns the root that these tiles give, for the caller to compare.
func (l *Log) Edge(ctx context.Context, size uint64) ([]byte, error) {
	s, err := l.tiles()
	if err != nil {
		return nil, err
	}
	var hashes [][]byte
	for _, id := range compact.RangeNodes(0, size, nil) {
		hash, err := s.node(ctx, id, size)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, hash)
	}
	if last := s.bundle(size/tileWidth, size); last.width() > 0 {
		if _, err := s.entries(ctx, last.first(), size, size); err != nil {
			return nil, fmt.Errorf("%s: %w", last, err)
		}
	}
	whole, err := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewRange(0, size, hashes)
	if err != nil {
		return nil, err
	}
	return whole.GetRootHash(nil)
}
