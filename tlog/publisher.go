package tlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/note"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
)

const (
	never       = 100 * 365 * 24 * time.Hour // Tessera publishes no checkpoint
	catchUp     = time.Second                // between two attempts, if nobody waits
	maxProofAge = 10 * time.Second           // how long Add waits for a checkpoint
)

// Inclusion is an entry's place in the tree of a published checkpoint.
type Inclusion struct {
	LogID  [32]byte // of the shard
	Index  uint64
	Size   uint64   // entries that the checkpoint covers
	Root   []byte   // SHA-256, of the tree of that size
	Hashes [][]byte // the inclusion proof (RFC 6962 §2.1.1), from the leaf to the root
	// Checkpoint is the signed note (c2sp.org/tlog-checkpoint), with the cosignatures of the log's witnesses.
	Checkpoint []byte
}

// publisher signs checkpoints and publishes them: after each batch of entries, but not more often than the log's
// interval, and each time nobody has added an entry for [republishEvery]. A checkpoint is on disk before it is used.
type publisher struct {
	log    *Log
	signer note.Signer
	every  time.Duration
	woken  chan struct{}

	publishing sync.Mutex // one publication at a time
	last       published

	mu      sync.Mutex
	closed  bool
	waiting []*waiter
}

// published is a published checkpoint.
type published struct {
	tree
	raw []byte
	at  time.Time
}

// waiter is an entry that waits for a checkpoint.
type waiter struct {
	index  uint64
	leaf   []byte // the leaf hash
	result chan<- proven
}

type proven struct {
	inclusion Inclusion
	err       error
}

func newPublisher(l *Log, every time.Duration) *publisher {
	return &publisher{log: l, every: every, woken: make(chan struct{}, 1)}
}

// wake makes the publisher look for a larger tree.
func (p *publisher) wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

// run publishes until ctx ends.
func (p *publisher) run(ctx context.Context) {
	tick := time.NewTicker(max(catchUp, p.every))
	defer tick.Stop()
	problem := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.woken:
		case <-tick.C:
		}
		p.publishing.Lock()
		p.answer(ctx)
		rest := p.every - time.Since(p.last.at)
		p.publishing.Unlock()
		if rest > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(rest):
			}
		}
		text := ""
		if err := p.publish(ctx); err != nil && ctx.Err() == nil {
			text = err.Error()
		}
		if text != "" && text != problem {
			p.log.log.Error("no checkpoint could be published; trying again", "log", p.log.label, "cause", text)
		}
		problem = text
	}
}

// publish signs and publishes a checkpoint over the tree on disk, if the last one is of a smaller tree or old, and
// answers the waiters that it covers.
func (p *publisher) publish(ctx context.Context) error {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	path := filepath.Join(p.log.dir, checkpointFile)
	now, err := readTree(p.log.dir)
	if err != nil {
		return err
	}
	head, at, err := p.log.published()
	size, age := head.Size, time.Since(at)
	recent := age >= 0 && age < republishEvery
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fault.Cure(fmt.Errorf("checkpoint: %w", err),
			"restore it, or remove it: a new one is then signed over the existing tree")
	case size > now.Size:
		return fmt.Errorf("%s covers %d entries, but the tree in %s has %d; restore the directory from one copy", path,
			size, p.log.dir, now.Size)
	case size == now.Size && !bytes.Equal(head.Root[:], now.Root):
		return fmt.Errorf("%s and the tree in %s have different roots over %d entries; restore the directory from one "+
			"copy", path, p.log.dir, size)
	case size == now.Size && p.last.raw != nil && recent:
		p.answer(ctx)
		return nil
	case size == now.Size && recent: // the log was opened
		raw, err := os.ReadFile(path)
		p.last = published{tree: now, raw: raw}
		return err
	}
	if err := p.log.health.degraded(); err != nil {
		return fmt.Errorf("no checkpoint is signed while the storage fails: %w", err)
	}
	raw, err := signCheckpoint(p.signer, now)
	if err != nil {
		return fmt.Errorf("sign the checkpoint: %w", err)
	}
	if err := durable.WriteFile(path, raw, 0o644); err != nil {
		p.log.storageFailed(err)
		return err
	}
	p.last = published{now, raw, time.Now()}
	p.answer(ctx)
	return nil
}

// answer proves to each waiter that its entry is in the tree of the last checkpoint, if the tree has the entry.
func (p *publisher) answer(ctx context.Context) {
	covered := p.take(p.last.Size)
	if len(covered) == 0 {
		return
	}
	raw := p.last.raw
	if c := p.log.cosigner; c != nil {
		raw = c.cosigned(ctx, raw)
	}
	n := nodes{size: p.last.Size, read: p.log.reader.ReadTile, known: map[compact.NodeID][]byte{}}
	for _, w := range covered {
		in, err := p.prove(ctx, n, w, raw)
		w.result <- proven{in, err}
	}
}

// prove returns the proof for a waiter, which it verifies.
func (p *publisher) prove(ctx context.Context, n nodes, w *waiter, raw []byte) (Inclusion, error) {
	hashes, err := n.inclusion(ctx, w.index)
	if err == nil {
		err = proof.VerifyInclusion(rfc6962.DefaultHasher, w.index, p.last.Size, w.leaf, hashes, p.last.Root)
	}
	if err != nil {
		return Inclusion{}, fmt.Errorf("no inclusion proof for entry %d: %w", w.index, err)
	}
	return Inclusion{
		LogID: p.log.id, Index: w.index, Size: p.last.Size, Root: p.last.Root, Hashes: hashes, Checkpoint: raw,
	}, nil
}

// nodes are hashes of a tree of size entries. They are kept, because the proofs of the entries of one batch have most
// nodes in common: package client of Tessera computes each node of each proof from the lowest hashes of its tile.
type nodes struct {
	size  uint64
	read  client.TileFetcherFunc
	known map[compact.NodeID][]byte
}

// inclusion returns the inclusion proof of an entry (RFC 6962 §2.1.1).
func (n nodes) inclusion(ctx context.Context, index uint64) ([][]byte, error) {
	need, err := proof.Inclusion(index, n.size)
	if err != nil {
		return nil, err
	}
	hashes := make([][]byte, 0, len(need.IDs))
	for _, id := range need.IDs {
		hash, err := n.hash(ctx, id)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, hash)
	}
	return need.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
}

// hash returns the root of a perfect subtree: it reads the lowest hashes of a tile, and computes the others.
func (n nodes) hash(ctx context.Context, id compact.NodeID) ([]byte, error) {
	if hash, ok := n.known[id]; ok {
		return hash, nil
	}
	if id.Level%layout.TileHeight == 0 {
		return n.tile(ctx, id)
	}
	left, err := n.hash(ctx, compact.NewNodeID(id.Level-1, 2*id.Index))
	if err != nil {
		return nil, err
	}
	right, err := n.hash(ctx, compact.NewNodeID(id.Level-1, 2*id.Index+1))
	if err != nil {
		return nil, err
	}
	n.known[id] = rfc6962.DefaultHasher.HashChildren(left, right)
	return n.known[id], nil
}

// tile reads the tile that contains the hash of id.
func (n nodes) tile(ctx context.Context, id compact.NodeID) ([]byte, error) {
	level, index := uint64(id.Level/layout.TileHeight), id.Index/layout.TileWidth
	data, err := n.read(ctx, level, index, layout.PartialTileSize(level, index, n.size))
	if err != nil {
		return nil, err
	}
	first := index * layout.TileWidth
	for i := range uint64(len(data) / sha256.Size) {
		n.known[compact.NewNodeID(id.Level, first+i)] = data[i*sha256.Size : (i+1)*sha256.Size : (i+1)*sha256.Size]
	}
	hash, ok := n.known[id]
	if !ok {
		return nil, fmt.Errorf("the tile %d of level %d has %d bytes, and its hash %d is missing",
			index, level, len(data),
			id.Index-first)
	}
	return hash, nil
}

// take removes the waiters whose entries a tree of size entries has.
func (p *publisher) take(size uint64) (covered []*waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rest := p.waiting[:0]
	for _, w := range p.waiting {
		if w.index < size {
			covered = append(covered, w)
		} else {
			rest = append(rest, w)
		}
	}
	clear(p.waiting[len(rest):])
	p.waiting = rest
	return covered
}

// wait returns the inclusion of the entry at index, whose leaf hash is leaf. It waits no longer than ctx.
func (p *publisher) wait(ctx context.Context, index uint64, leaf []byte) (Inclusion, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, maxProofAge,
		fmt.Errorf("the entry is in the log, but no checkpoint has covered it for %s", maxProofAge))
	defer cancel()
	result := make(chan proven, 1)
	p.mu.Lock()
	closed := p.closed
	p.waiting = append(p.waiting, &waiter{index, leaf, result})
	p.mu.Unlock()
	if closed { // the last checkpoint may cover the entry
		p.end(ctx)
	}
	p.wake()
	select {
	case r := <-result:
		return r.inclusion, r.err
	case <-ctx.Done():
		p.forget(result)
		return Inclusion{}, context.Cause(ctx)
	}
}

func (p *publisher) forget(result chan<- proven) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, w := range p.waiting {
		if w.result == result {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			return
		}
	}
}

// close publishes the last checkpoint, and answers all waiters.
func (p *publisher) close(ctx context.Context) error {
	err := p.publish(ctx)
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.end(ctx)
	return err
}

// end answers all waiters: no further checkpoint will be published.
func (p *publisher) end(ctx context.Context) {
	p.publishing.Lock()
	p.answer(ctx)
	p.publishing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.waiting {
		w.result <- proven{err: errClosed}
	}
	p.waiting = nil
}

// Add adds an entry and returns its inclusion in the tree of a published checkpoint, once both are on disk. Its errors
// are those of [Log.Append].
func (l *Log) Add(ctx context.Context, leaf []byte) (Inclusion, error) {
	index, err := l.Append(ctx, func() (Entry, error) {
		return func(ctx context.Context, a *tessera.Appender) tessera.IndexFuture {
			return a.Add(ctx, tessera.NewEntry(leaf))
		}, nil
	})
	if err != nil {
		return Inclusion{}, err
	}
	in, err := l.publisher.wait(ctx, index, rfc6962.DefaultHasher.HashLeaf(leaf))
	if err != nil && ctx.Err() == nil {
		err = l.unavailable(err)
	}
	return in, err
}

// readTree reads the tree that the storage has recorded.
func readTree(dir string) (t tree, err error) {
	path := filepath.Join(dir, stateDir, treeFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return t, err
	}
	if t, err = parseTree(data); err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return t, err
}
