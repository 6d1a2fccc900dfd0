package embedded

import (
	"context"
	"errors"
	"sync"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"
)

// gate commits in groups: what arrives while one group is being written forms the next. The storage writes a batch for every
// millisecond in which an entry arrives and has one writer, so that under load single entries would queue; a group costs
// them one write.
type gate struct {
	storage
	queue   chan waiting
	life    context.Context //nolint:containedctx // of the writer, not of a request
	stopped chan struct{}   // closed: nothing is taken any more
	done    chan struct{}   // closed: what was taken is answered
	once    sync.Once
}

// storage is what a gate writes to.
type storage struct {
	append func(context.Context, *ctonly.Entry) tessera.IndexFuture
	// ready errs when writing would fail. It is asked before each group: the storage library ends the process when it cannot open
	// its lock file, for example because there are no file descriptors left.
	ready func() error
	// failed hears of each group that could not be written.
	failed func(error)
}

type waiting struct {
	entry  *ctonly.Entry
	result chan<- stored
}

type stored struct {
	index uint64
	err   error
}

var errClosed = errors.New("the log is closed")

func newGate(life context.Context, s storage) *gate {
	g := &gate{storage: s, queue: make(chan waiting, batchSize), life: life, stopped: make(chan struct{}), done: make(chan struct{})}
	go g.run()
	return g
}

// add returns the entry's index when it is on disk. A caller who leaves early leaves the entry behind: it may still be logged.
func (g *gate) add(ctx context.Context, e *ctonly.Entry) (uint64, error) {
	result := make(chan stored, 1)
	select {
	case <-g.stopped:
		return 0, errClosed
	default:
	}
	select {
	case g.queue <- waiting{e, result}:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-g.stopped:
		return 0, errClosed
	}
	select {
	case r := <-result:
		return r.index, r.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-g.life.Done():
		return 0, errClosed
	case <-g.done:
	}
	select {
	case r := <-result: // answered with the last group
		return r.index, r.err
	default: // queued after it
		return 0, errClosed
	}
}

func (g *gate) run() {
	defer close(g.done)
	for {
		var group []waiting
		select {
		case w := <-g.queue:
			group = append(group, w)
		case <-g.stopped:
			return
		}
		for more := true; more && len(group) < batchSize; {
			select {
			case w := <-g.queue:
				group = append(group, w)
			default:
				more = false
			}
		}
		g.write(group)
	}
}

func (g *gate) write(group []waiting) {
	err := g.ready()
	if err != nil {
		g.failed(err)
		for _, w := range group {
			w.result <- stored{0, err}
		}
		return
	}
	futures := make([]tessera.IndexFuture, len(group))
	for i, w := range group {
		futures[i] = g.append(g.life, w.entry)
	}
	for i, w := range group {
		index, e := futures[i]()
		if e != nil && err == nil {
			err = e
			g.failed(err)
		}
		w.result <- stored{index.Index, e}
	}
}

// close takes nothing more and waits until what was taken is answered, no longer than ctx.
func (g *gate) close(ctx context.Context) error {
	g.once.Do(func() { close(g.stopped) })
	select {
	case <-g.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
