package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

const (
	minCopyRetry = 200 * time.Millisecond
	maxCopyRetry = 30 * time.Second
	cursorEvery  = time.Second      // how often a cursor is kept
	copyLateness = 30 * time.Second // then readiness mentions that a copy is behind
)

type copierOptions struct {
	name    string // of the sink
	path    string // of the journal
	sink    sink
	log     *slog.Logger
	metrics *metrics
	fresh   uint64 // the record after which a copy begins that has no cursor; 0: with the first that there is
}

// copier brings the records of a file to a sink, in order, each at least once. It reads the file, so that an outage of the sink
// costs nothing, and keeps how far it is, so that a restart loses nothing.
type copier struct {
	copierOptions
	wake   chan struct{}
	stopIt chan struct{}
	root   context.Context //nolint:containedctx // the life of the copy, not of a request
	cancel context.CancelFunc
	ended  chan struct{}

	mu       sync.Mutex
	target   uint64 // the last record that is durable
	done     uint64 // the last record that the sink has
	saved    uint64
	savedAt  time.Time
	cause    string // of the last failure; "": none since
	failedAt time.Time
}

func newCopier(o copierOptions) *copier {
	c := &copier{copierOptions: o, wake: make(chan struct{}, 1), stopIt: make(chan struct{}), ended: make(chan struct{})}
	c.root, c.cancel = context.WithCancel(context.Background())
	return c
}

func (c *copier) cursorFile() string { return c.path + cursorInfix + c.name }

// start begins at the cursor; without one where a fresh copy begins.
func (c *copier) start() {
	data, err := os.ReadFile(c.cursorFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("journal: the cursor of a copy cannot be read; it starts from the beginning", "sink", c.name, "cause", err.Error())
	}
	c.done, c.saved = c.fresh, c.fresh
	if n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64); err == nil {
		c.done, c.saved = n, n
	}
	go c.run()
}

// follow tells the copy that records up to seq are durable.
func (c *copier) follow(seq uint64) {
	c.mu.Lock()
	c.target = seq
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// lag is how many records the sink does not have yet.
func (c *copier) lag() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done > c.target { // the cursor of another journal
		return 0
	}
	return c.target - c.done
}

// warning is what readiness says of the copy; "" when it keeps up.
func (c *copier) warning() string {
	lag := c.lag()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == "" || lag == 0 || time.Since(c.failedAt) < copyLateness {
		return ""
	}
	return fmt.Sprintf("the copy to %s is %d records behind: %s", c.name, lag, c.cause)
}

// stop lets the copy catch up until ctx ends, and keeps its cursor.
func (c *copier) stop(ctx context.Context) {
	close(c.stopIt)
	select {
	case <-c.ended:
	case <-ctx.Done():
		c.cancel()
		<-c.ended
	}
	c.cancel()
	c.sink.close()
}

func (c *copier) stopping() bool {
	select {
	case <-c.stopIt:
		return true
	default:
		return false
	}
}

func (c *copier) run() {
	defer close(c.ended)
	r := NewReader(c.path, c.done+1).Acknowledged()
	defer func() { _ = r.Close() }() // it was only read
	defer c.save(true)
	for failures := 0; ; {
		batch := c.gather(r)
		if len(batch) == 0 {
			c.save(false)
			if c.stopping() || c.root.Err() != nil {
				return
			}
			select {
			case <-c.wake:
			case <-c.stopIt:
			}
			continue
		}
		for !c.deliver(batch) {
			failures++
			if !c.pause(min(maxCopyRetry, minCopyRetry<<min(failures-1, 10))) {
				return
			}
		}
		failures = 0
		c.save(false)
	}
}

// gather reads the next durable records.
func (c *copier) gather(r *Reader) (batch []message) {
	c.mu.Lock()
	target := c.target
	c.mu.Unlock()
	if c.done > target { // the journal is a new one: nothing of it has been sent
		c.log.Warn("journal: the cursor of a copy is beyond the journal; it starts from the beginning", "sink", c.name)
		c.mu.Lock()
		c.done = 0
		c.mu.Unlock()
		_ = r.Close() // it was only read
		*r = *NewReader(c.path, 1).Acknowledged()
	}
	for size := 0; len(batch) < maxBatch && size < maxBatchLen && r.next <= target; {
		e, err := r.Next()
		var d *Damage
		switch {
		case errors.Is(err, io.EOF):
			return batch
		case errors.As(err, &d):
			c.log.Error("journal: a copy leaves out a line that is not a record", "sink", c.name, "cause", err.Error())
			continue
		case err != nil:
			c.log.Error("journal: a copy cannot read the journal", "sink", c.name, "cause", err.Error())
			c.pause(minCopyRetry)
			return batch
		}
		size += len(e.Raw)
		batch = append(batch, message{e.Raw[:len(e.Raw)-1], e.Record})
	}
	return batch
}

// deliver sends a batch once.
func (c *copier) deliver(batch []message) bool {
	ctx, cancel := context.WithTimeout(c.root, sendTimeout)
	defer cancel()
	err := c.sink.send(ctx, batch)
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(err, errRejected) { // the file has them
		c.metrics.copyFailures.WithLabelValues(c.name).Inc()
		c.log.Error("journal: a copy is not complete", "sink", c.name, "cause", err.Error())
		err = nil
	}
	if err != nil {
		c.metrics.copyFailures.WithLabelValues(c.name).Inc()
		if c.cause == "" {
			c.failedAt = time.Now()
			c.log.Warn("journal: a copy falls behind", "sink", c.name, "cause", err.Error())
		}
		c.cause = err.Error()
		return false
	}
	if c.cause != "" {
		c.log.Info("journal: a copy goes on", "sink", c.name)
	}
	c.cause, c.done = "", batch[len(batch)-1].record.Seq
	return true
}

// pause waits, with jitter, before the next try. It is false when there is to be none.
func (c *copier) pause(d time.Duration) bool {
	timer := time.NewTimer(d/2 + rand.N(d/2)) //nolint:gosec // jitter is no secret
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.root.Done():
		return false
	}
}

// save keeps the cursor, now and then or at once. A cursor that is too old costs some records sent twice.
func (c *copier) save(now bool) {
	c.mu.Lock()
	done := c.done
	c.mu.Unlock()
	if done == c.saved || !now && time.Since(c.savedAt) < cursorEvery {
		return
	}
	if err := durable.WriteFile(c.cursorFile(), strconv.AppendUint(nil, done, 10), 0o600); err != nil {
		c.log.Warn("journal: the cursor of a copy cannot be kept", "sink", c.name, "cause", err.Error())
		return
	}
	c.saved, c.savedAt = done, time.Now()
}
