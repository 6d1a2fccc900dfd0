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
	append func(context.Context, *ctonly.Entry) tessera.IndexFuture
	queue  chan waiting
	life   context.Context //nolint:containedctx // of the writer, not of a request
	done   sync.WaitGroup
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

func newGate(life context.Context, add func(context.Context, *ctonly.Entry) tessera.IndexFuture) *gate {
	g := &gate{append: add, queue: make(chan waiting, batchSize), life: life}
	g.done.Go(g.run)
	return g
}

// add returns the entry's index when it is on disk. A caller who leaves early leaves the entry behind: it may still be logged.
func (g *gate) add(ctx context.Context, e *ctonly.Entry) (uint64, error) {
	result := make(chan stored, 1)
	select {
	case g.queue <- waiting{e, result}:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-g.life.Done():
		return 0, errClosed
	}
	select {
	case r := <-result:
		return r.index, r.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-g.life.Done():
		return 0, errClosed
	}
}

func (g *gate) run() {
	for {
		var group []waiting
		select {
		case w := <-g.queue:
			group = append(group, w)
		case <-g.life.Done():
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
		futures := make([]tessera.IndexFuture, len(group))
		for i, w := range group {
			futures[i] = g.append(g.life, w.entry)
		}
		for i, w := range group {
			index, err := futures[i]()
			w.result <- stored{index.Index, err}
		}
	}
}

func (g *gate) wait() { g.done.Wait() }
