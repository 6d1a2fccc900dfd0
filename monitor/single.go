package monitor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
)

// Around reads the entries that the log serves together with the entry at index: those of its bundle, or of a batch of
// get-entries, up to size, which a head must cover. They are not verified: the caller compares them with entries that a
// [Follower] has proven before.
func (l *Log) Around(ctx context.Context, index, size uint64) ([]Entry, error) {
	l.mu.Lock()
	s := l.source
	l.mu.Unlock()
	if s == nil || index >= size {
		return nil, fmt.Errorf("log %s: entry %d cannot be read: %w", l.name, index, fs.ErrNotExist)
	}
	end := s.unit(index)
	first := index // the beginning of the unit that contains index
	for first > 0 && s.unit(first-1) == end {
		first--
	}
	all, err := s.entries(ctx, first, min(end, size), size)
	if err != nil {
		return nil, fmt.Errorf("log %s: %w", l.name, err)
	}
	return all, nil
}

// Issuer reads a certificate of the chains of a static-ct log, by its SHA-256 (c2sp.org/static-ct-api, "Issuers"). The
// error is [fs.ErrNotExist] if the log does not have the certificate.
func (l *Log) Issuer(ctx context.Context, sum [32]byte) ([]byte, error) {
	s, err := l.tiles()
	if err != nil {
		return nil, err
	}
	path := "issuer/" + hex.EncodeToString(sum[:])
	der, err := s.from.get(ctx, path, maxIssuer)
	if err != nil {
		return nil, fmt.Errorf("log %s: %w", l.name, err)
	}
	if sha256.Sum256(der) != sum {
		return nil, fmt.Errorf("log %s: %s: the content does not have the SHA-256 in the name", l.name, path)
	}
	return der, nil
}
