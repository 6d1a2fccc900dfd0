package monitor

import (
	"context"
	"crypto/sha256"
	"fmt"
	"iter"
	"sync"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// window is the number of pieces of a log that are fetched concurrently. It bounds the memory: a piece has at most 256 entries.
const window = 4

// Follower reads a log from where it last stopped, and verifies that the log is append-only and that every entry it returns is in the
// log's tree. It must not be used concurrently.
type Follower struct {
	log      *Log
	state    State
	step     uint64
	progress func(read, size uint64)
}

// FollowerOptions are the options of [Follow].
type FollowerOptions struct {
	// State is where to continue; the zero State is the beginning.
	State State
	// Step is the largest number of entries that one Next reads; 0 is unlimited.
	Step uint64
	// Progress is called at intervals while entries are read. Optional.
	Progress func(read, size uint64)
}

// Follow creates a follower. It returns an error if the state belongs to another log.
func Follow(l *Log, o FollowerOptions) (*Follower, error) {
	if o.State.Log == ([32]byte{}) {
		o.State.Log = l.ID()
	}
	if o.State.Log != l.ID() {
		return nil, fmt.Errorf("log %s: the state is one of the log with the id %x", l.name, o.State.Log)
	}
	return &Follower{log: l, state: o.State, step: o.Step, progress: o.Progress}, nil
}

// Log returns the log of the follower.
func (f *Follower) Log() *Log { return f.log }

// State returns the position of the follower. All entries before it are verified.
func (f *Follower) State() State { return f.state }

// Restore returns to a state that State returned.
func (f *Follower) Restore(s State) { f.state = s }

// Rewind makes the next call of Next start at the first entry. The largest head seen is kept: the log must remain consistent with it.
func (f *Follower) Rewind() { f.state.Size, f.state.Hashes = 0, nil }

// Next reads a new head and the entries up to it, at most one step, and passes each entry to take. Then it verifies the entries. The
// state advances only if Next returns nil, and only then may the caller use the entries that take received. If take returns an error,
// Next returns that error. The slices of an entry MUST NOT be retained. more reports that the head covers further entries.
func (f *Follower) Next(ctx context.Context, take func(*Entry) error) (more bool, err error) {
	s, head, err := f.log.open(ctx)
	if err != nil {
		return false, fmt.Errorf("log %s: %w", f.log.name, err)
	}
	if err := f.compare(ctx, s, head); err != nil {
		return false, fmt.Errorf("log %s: %w", f.log.name, err)
	}
	to := head.Size
	if f.step > 0 {
		to = min(to, f.state.Size+f.step)
	}
	r := reading{stretch: stretch{source: s, from: f.state.Size, to: to}, head: head, take: take, progress: f.progress}
	tree, err := r.run(ctx, f.state.tree())
	if err == nil {
		err = f.proven(ctx, r, tree)
	}
	if err != nil {
		return false, fmt.Errorf("log %s: %w", f.log.name, err)
	}
	f.state.Size, f.state.Hashes, f.state.Head = to, cloned(tree.Hashes()), head
	return to < head.Size, nil
}

// compare checks a new head against the largest head seen.
func (f *Follower) compare(ctx context.Context, s source, head Head) error {
	last := f.state.Head
	switch {
	case head.Size == last.Size && head.Root != last.Root && (last.Size > 0 || last.Timestamp > 0):
		return fmt.Errorf("%w: two heads over %d entries, with the roots %x and %x", ErrFork, head.Size, last.Root, head.Root)
	case head.Size < last.Size && head.Timestamp > last.Timestamp:
		return fmt.Errorf("%w: from %d entries at %s to %d at %s", ErrShrunk, last.Size, last.Time(), head.Size, head.Time())
	case head.Size < last.Size:
		if path, err := s.consistency(ctx, head.Size, last.Size); head.Size > 0 && err == nil && !consistent(head, last, path) {
			return fmt.Errorf("%w: its head over %d entries is not part of the one over %d", ErrFork, head.Size, last.Size)
		}
		if f.log.Local() { // a directory cannot lag behind as a replica can: an older copy has replaced it
			return fmt.Errorf("%w: from %d entries to %d, with the head of %s", ErrShrunk, last.Size, head.Size, head.Time())
		}
		return fmt.Errorf("%w: %d entries, and %d were seen", ErrStale, head.Size, last.Size)
	case head.Size > last.Size && last.Size > 0 && f.state.Size != last.Size: // otherwise, reading the entries verifies it
		return f.appended(ctx, s, head)
	}
	return nil
}

// appended verifies that head is consistent with the largest head seen.
func (f *Follower) appended(ctx context.Context, s source, head Head) error {
	path, err := s.consistency(ctx, f.state.Head.Size, head.Size)
	if err != nil {
		return fmt.Errorf("no proof that %d entries continue %d: %w", head.Size, f.state.Head.Size, err)
	}
	if !consistent(f.state.Head, head, path) {
		return fmt.Errorf("%w: its head over %d entries does not continue the one over %d", ErrFork, head.Size, f.state.Head.Size)
	}
	return nil
}

func consistent(old, young Head, path [][]byte) bool {
	return proof.VerifyConsistency(rfc6962.DefaultHasher, old.Size, young.Size, path, old.Root[:], young.Root[:]) == nil
}

// proven verifies that the entries read are those under the signed root.
func (f *Follower) proven(ctx context.Context, r reading, tree *compact.Range) error {
	root, err := rootOf(tree)
	if err != nil {
		return err
	}
	if r.to == r.head.Size && root == r.head.Root {
		return nil
	}
	if r.to < r.head.Size {
		path, err := r.source.consistency(ctx, r.to, r.head.Size)
		if err != nil {
			return fmt.Errorf("no proof that the first %d entries are in the tree of %d: %w", r.to, r.head.Size, err)
		}
		if consistent(Head{Size: r.to, Root: root}, r.head, path) {
			return nil
		}
	}
	if f.state.Head.Size > 0 && f.state.Head.Size < r.head.Size {
		if err := f.appended(ctx, r.source, r.head); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: entries %d to %d do not lead to the signed root over %d; %s",
		ErrMismatch, r.from, r.to-1, r.head.Size, r.source.mismatch(ctx, r.from, r.to, r.head.Size))
}

func rootOf(tree *compact.Range) ([32]byte, error) {
	if tree.End() == 0 {
		return sha256.Sum256(nil), nil
	}
	root, err := tree.GetRootHash(nil)
	if err != nil {
		return [32]byte{}, err
	}
	return [32]byte(root), nil
}

// stretch is the range [from, to) of entries of a log.
type stretch struct {
	source   source
	from, to uint64
}

// pieces fetches a stretch unit by unit, several concurrently, and yields the results in order. It stops early when ctx is done.
func pieces[T any](ctx context.Context, s stretch, fetch func(ctx context.Context, from, to uint64) T) iter.Seq[T] {
	return func(yield func(T) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var fetching sync.WaitGroup
		defer fetching.Wait()
		defer cancel()
		queue := make(chan chan T, window-1)
		fetching.Go(func() {
			defer close(queue)
			for to := s.from; to < s.to; {
				from := to
				to = min(s.source.unit(from), s.to)
				end := to
				answer := make(chan T, 1)
				select {
				case queue <- answer:
				case <-ctx.Done():
					return
				}
				fetching.Go(func() { answer <- fetch(ctx, from, end) })
			}
		})
		for answer := range queue {
			if !yield(<-answer) {
				return
			}
		}
	}
}

// reading is one pass over a stretch.
type reading struct {
	stretch
	head     Head
	take     func(*Entry) error
	progress func(read, size uint64)
}

// piece is a fetched unit of a log, with the leaf hash of each entry.
type piece struct {
	entries []Entry
	sums    [][32]byte
	err     error
}

// run passes the entries to take, in order, and returns tree with the entries appended.
func (r *reading) run(ctx context.Context, tree *compact.Range) (*compact.Range, error) {
	for p := range pieces(ctx, r.stretch, r.fetch) {
		if p.err != nil {
			return nil, p.err
		}
		for i := range p.entries {
			if err := tree.Append(p.sums[i][:], nil); err != nil {
				return nil, err
			}
			if err := r.take(&p.entries[i]); err != nil {
				return nil, err
			}
		}
		if r.progress != nil {
			r.progress(tree.End(), r.head.Size)
		}
	}
	return tree, context.Cause(ctx)
}

func (r *reading) fetch(ctx context.Context, from, to uint64) (p piece) {
	if p.entries, p.err = r.source.entries(ctx, from, to, r.head.Size); p.err != nil {
		return p
	}
	p.sums = make([][32]byte, len(p.entries))
	for i := range p.entries {
		p.sums[i] = p.entries[i].LeafHash()
	}
	return p
}
