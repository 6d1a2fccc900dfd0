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

// maxFetches is how many units of a log are fetched at the same time. It bounds the memory: a unit has at most 256
// entries.
const maxFetches = 4

// Follower reads a log from where it stopped before, and proves that the log has only appended and that every entry it
// read is in the log's tree. It may be used by one goroutine at a time.
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
	// Step is how many entries one Next reads at most; 0 means no limit.
	Step uint64
	// Progress is called from time to time while entries are read. Optional.
	Progress func(read, size uint64)
}

// Follow makes a follower. It returns an error if the state is of another log.
func Follow(l *Log, o FollowerOptions) (*Follower, error) {
	if o.State.Log == ([32]byte{}) {
		o.State.Log = l.ID()
	}
	if o.State.Log != l.ID() {
		return nil, fmt.Errorf("log %s: the state is of the log with the ID %x", l.name, o.State.Log)
	}
	return &Follower{log: l, state: o.State, step: o.Step, progress: o.Progress}, nil
}

// Log returns the log of the follower.
func (f *Follower) Log() *Log { return f.log }

// State returns how far the log has been read. All entries up to there are proven.
func (f *Follower) State() State { return f.state }

// Restore goes back to a state that State returned before.
func (f *Follower) Restore(s State) { f.state = s }

// Rewind makes the next Next begin with the first entry again. The last head is kept: the log must still continue it.
func (f *Follower) Rewind() { f.state.Size, f.state.Hashes = 0, nil }

// Next reads a new head and the entries up to it, or up to one step, and passes each entry to take. Then it proves
// them. Only if it returns nil has the state advanced, and only then are the entries that take received proven; an
// error of take is returned. The slices of an entry MUST NOT be kept. more reports whether the head covers entries that
// were not read yet.
func (f *Follower) Next(ctx context.Context, take func(*Entry) error) (more bool, err error) {
	s, head, err := f.log.open(ctx)
	if err != nil {
		return false, fmt.Errorf("log %s: %w", f.log.name, err)
	}
	if err := f.compareHeads(ctx, s, head); err != nil {
		return false, fmt.Errorf("log %s: %w", f.log.name, err)
	}
	to := head.Size
	if f.step > 0 {
		to = min(to, f.state.Size+f.step)
	}
	r := run{
		stretch: stretch{source: s, from: f.state.Size, to: to}, head: head, take: take, progress: f.progress,
	}
	tree, err := r.read(ctx, f.state.tree())
	if err == nil {
		err = f.prove(ctx, r, tree)
	}
	if err != nil {
		return false, fmt.Errorf("log %s: %w", f.log.name, err)
	}
	f.state.Size, f.state.Hashes, f.state.Head = to, cloned(tree.Hashes()), head
	return to < head.Size, nil
}

// compareHeads compares a new head with the last one.
func (f *Follower) compareHeads(ctx context.Context, s source, head Head) error {
	last := f.state.Head
	switch {
	case head.Size == last.Size && head.Root != last.Root && (last.Size > 0 || last.Timestamp > 0):
		return fmt.Errorf("%w: two heads over %d entries have the roots %x and %x", ErrFork, head.Size, last.Root,
			head.Root)
	case head.Size < last.Size && head.Timestamp > last.Timestamp:
		return fmt.Errorf("%w: %d entries at %s, but %d at %s", ErrShrunk, last.Size, last.Time(),
			head.Size, head.Time())
	case head.Size < last.Size:
		path, err := s.consistency(ctx, head.Size, last.Size)
		if head.Size > 0 && err == nil && !consistent(head, last, path) {
			return fmt.Errorf("%w: its head over %d entries is not consistent with the one over %d",
				ErrFork, head.Size, last.Size)
		}
		// unlike a server, a directory has no replicas that lag behind: an older copy has replaced it
		if f.log.Local() {
			return fmt.Errorf("%w: from %d entries to %d; the head is that of %s", ErrShrunk, last.Size,
				head.Size, head.Time())
		}
		return fmt.Errorf("%w: %d entries, after %d before", ErrStale, head.Size, last.Size)
	// Otherwise the entries prove the consistency.
	case head.Size > last.Size && last.Size > 0 && f.state.Size != last.Size:
		return f.appended(ctx, s, head)
	}
	return nil
}

// appended verifies that head is consistent with the largest head seen.
func (f *Follower) appended(ctx context.Context, s source, head Head) error {
	path, err := s.consistency(ctx, f.state.Head.Size, head.Size)
	if err != nil {
		return fmt.Errorf("no consistency proof that %d entries continue %d: %w", head.Size, f.state.Head.Size, err)
	}
	if !consistent(f.state.Head, head, path) {
		return fmt.Errorf("%w: its head over %d entries does not continue the one over %d", ErrFork, head.Size,
			f.state.Head.Size)
	}
	return nil
}

func consistent(older, newer Head, path [][]byte) bool {
	return proof.VerifyConsistency(rfc6962.DefaultHasher, older.Size, newer.Size, path, older.Root[:],
		newer.Root[:]) == nil
}

// prove shows that the entries read are those under the signed root.
func (f *Follower) prove(ctx context.Context, r run, tree *compact.Range) error {
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
	return fmt.Errorf("%w: entries %d to %d do not give the signed root over %d entries; %s",
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

// units fetches a stretch unit by unit, several at a time, and yields the results in order. It ends early when ctx
// does.
func units[T any](ctx context.Context, s stretch, fetch func(ctx context.Context, from, to uint64) T) iter.Seq[T] {
	return func(yield func(T) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var fetching sync.WaitGroup
		defer fetching.Wait()
		defer cancel()
		queue := make(chan chan T, maxFetches-1)
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

// run reads one stretch.
type run struct {
	stretch
	head     Head
	take     func(*Entry) error
	progress func(read, size uint64)
}

// unit is a fetched unit of a log, with the hash of each leaf.
type unit struct {
	entries []Entry
	sums    [][32]byte
	err     error
}

// read passes the entries to take, in order. It returns tree with the entries appended.
func (r *run) read(ctx context.Context, tree *compact.Range) (*compact.Range, error) {
	for p := range units(ctx, r.stretch, r.fetch) {
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

func (r *run) fetch(ctx context.Context, from, to uint64) (u unit) {
	if u.entries, u.err = r.source.entries(ctx, from, to, r.head.Size); u.err != nil {
		return u
	}
	u.sums = make([][32]byte, len(u.entries))
	for i := range u.entries {
		u.sums[i] = u.entries[i].LeafHash()
	}
	return u
}
