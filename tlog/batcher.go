package tlog

import (
	"context"
	"errors"
	"sync"

	"github.com/transparency-dev/tessera"
)

// batcher is a group commit: the entries that arrive while one batch is written form the next one. Tessera alone writes
// a batch for every millisecond in which an entry arrives, with a single writer, so that entries would queue under
// load; with the batcher, a batch of any size costs one write.
type batcher struct {
	storage
	queue   chan pendingEntry
	life    context.Context //nolint:containedctx // of the writer, not of a request
	stopped chan struct{}   // closed: no entry is accepted any more
	done    chan struct{}   // closed: every accepted entry has its result
	once    sync.Once
}

// storage has the methods that a batcher needs to write.
type storage struct {
	appender *tessera.Appender
	// ready returns an error if a write would fail. It is called before each batch: Tessera ends the process when it
	// cannot open its lock file, for example because there are no file descriptors left.
	ready func() error
	// failed is called for each batch that could not be written.
	failed func(error)
	// written is called for each batch that was written.
	written func()
}

type pendingEntry struct {
	entry  Entry
	result chan<- addResult
}

type addResult struct {
	index uint64
	err   error
}

var errClosed = errors.New("the log is closed")

func newBatcher(life context.Context, s storage) *batcher {
	b := &batcher{
		storage: s, queue: make(chan pendingEntry, batchSize), life: life,
		stopped: make(chan struct{}), done: make(chan struct{}),
	}
	go b.run()
	return b
}

// add returns the entry's index when the entry is on disk. If ctx ends first, the entry may still be logged.
func (b *batcher) add(ctx context.Context, e Entry) (uint64, error) {
	result := make(chan addResult, 1)
	select {
	case <-b.stopped:
		return 0, errClosed
	default:
	}
	select {
	case b.queue <- pendingEntry{e, result}:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-b.stopped:
		return 0, errClosed
	}
	select {
	case r := <-result:
		return r.index, r.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-b.life.Done():
		return 0, errClosed
	case <-b.done:
	}
	select {
	case r := <-result: // written with the last batch
		return r.index, r.err
	default: // queued after the last batch
		return 0, errClosed
	}
}

func (b *batcher) run() {
	defer close(b.done)
	for {
		var batch []pendingEntry
		select {
		case p := <-b.queue:
			batch = append(batch, p)
		case <-b.stopped:
			return
		}
		for more := true; more && len(batch) < batchSize; {
			select {
			case p := <-b.queue:
				batch = append(batch, p)
			default:
				more = false
			}
		}
		b.write(batch)
	}
}

func (b *batcher) write(batch []pendingEntry) {
	err := b.ready()
	if err != nil {
		b.failed(err)
		for _, p := range batch {
			p.result <- addResult{0, err}
		}
		return
	}
	futures := make([]tessera.IndexFuture, len(batch))
	for i, p := range batch {
		futures[i] = p.entry(b.life, b.appender)
	}
	for i, p := range batch {
		index, e := futures[i]()
		if e != nil && err == nil {
			err = e
			b.failed(err)
		}
		p.result <- addResult{index.Index, e}
	}
	b.written()
}

// close accepts no more entries and waits for the results of those that were accepted, no longer than ctx.
func (b *batcher) close(ctx context.Context) error {
	b.once.Do(func() { close(b.stopped) })
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
