package ship

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

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

const (
	minRetry    = 200 * time.Millisecond
	maxRetry    = 30 * time.Second
	cursorEvery = time.Second      // how often a cursor is written
	lateAfter   = 30 * time.Second // how long a copy may fail before readiness warns
	cursorInfix = ".cursor."       // between the path of the journal and the name of the receiver
)

// Source returns the acknowledged records of a journal in order.
type Source interface {
	// Next returns the next record. The error is io.EOF at the current end; later calls may return more records.
	Next() (Message, error)
	Close() error
}

// FollowOptions say which journal is copied.
type FollowOptions struct {
	Path string // path of the journal; the cursors are files beside it
	Last uint64 // number of the journal's last record; 0: none
	// Read opens the journal for the copy to the named receiver, beginning with record number from.
	Read func(name string, from uint64) Source
	Log  *slog.Logger
}

// Copies are the copies of one journal, one for each receiver.
type Copies struct {
	all      []*copier
	failures *prometheus.CounterVec
	lag      []prometheus.Collector
}

// Follow prepares copies of a journal to all receivers. [Copies.Start] starts them. The copies close the receivers.
func (r *Receivers) Follow(o FollowOptions) *Copies {
	out := &Copies{failures: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_journal_copy_failures_total", Help: "Batches that a receiver did not accept.",
	}, []string{"sink"})}
	for _, one := range r.all {
		c := &copier{
			FollowOptions: o, to: one, wake: make(chan struct{}, 1), stopping: make(chan struct{}),
			ended: make(chan struct{}), failures: out.failures.WithLabelValues(one.name),
		}
		c.root, c.cancel = context.WithCancel(context.Background())
		out.all = append(out.all, c)
		out.lag = append(out.lag, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_journal_copy_lag_records", Help: "Records that a receiver does not have yet.",
			ConstLabels: prometheus.Labels{"sink": one.name},
		}, func() float64 { return float64(c.lag()) }))
	}
	return out
}

// Start starts the copies, each at its cursor.
func (c *Copies) Start() {
	for _, one := range c.all {
		one.start()
	}
}

// Advance informs the copies that the records up to number seq are durable. It returns at once.
func (c *Copies) Advance(seq uint64) {
	for _, one := range c.all {
		one.advance(seq)
	}
}

// Warning describes a copy that has been behind for some time; empty if none is.
func (c *Copies) Warning() string {
	for _, one := range c.all {
		if w := one.warning(); w != "" {
			return w
		}
	}
	return ""
}

// Stop waits for the copies to catch up until ctx ends, saves their cursors and closes the receivers.
func (c *Copies) Stop(ctx context.Context) {
	for _, one := range c.all {
		one.stop(ctx)
	}
}

// Collectors returns the metrics of the copies. The label sink is the name of a receiver.
func (c *Copies) Collectors() []prometheus.Collector {
	return append([]prometheus.Collector{c.failures}, c.lag...)
}

// copier sends the records of a journal's file to one receiver, in order, each at least once.
type copier struct {
	FollowOptions
	to       namedReceiver
	failures prometheus.Counter
	wake     chan struct{}   // there are new records
	stopping chan struct{}   // closed by stop: the copy ends when it has caught up
	root     context.Context //nolint:containedctx // the life of the copy, not of a request
	cancel   context.CancelFunc
	ended    chan struct{} // closed when run has returned

	mu       sync.Mutex
	target   uint64 // the last record that is durable
	done     uint64 // the last record that the receiver has
	cause    string // of the last failure; empty: none since the last success
	failedAt time.Time

	saved   uint64 // what the cursor's file has; the fields from here on are used only by run
	savedAt time.Time
}

func (c *copier) cursorFile() string { return c.Path + cursorInfix + c.to.name }

func (c *copier) start() {
	data, err := os.ReadFile(c.cursorFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.Log.Warn("journal: the cursor of a copy cannot be read; the copy starts from the beginning",
			"sink", c.to.name,
			"cause", err.Error())
	}
	if n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64); err == nil {
		c.done = n
	} else if c.to.fromNow {
		c.done = c.Last
	}
	c.saved = c.done
	go c.run()
}

func (c *copier) advance(seq uint64) {
	c.mu.Lock()
	c.target = seq
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// lag returns how many records the receiver does not have yet.
func (c *copier) lag() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done > c.target { // the cursor belongs to another journal
		return 0
	}
	return c.target - c.done
}

func (c *copier) warning() string {
	lag := c.lag()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == "" || lag == 0 || time.Since(c.failedAt) < lateAfter {
		return ""
	}
	return fmt.Sprintf("the copy to %s is %d records behind: %s", c.to.name, lag, c.cause)
}

func (c *copier) stop(ctx context.Context) {
	close(c.stopping)
	select {
	case <-c.ended:
	case <-ctx.Done():
		c.cancel()
		<-c.ended
	}
	c.cancel()
	c.to.close()
}

func (c *copier) isStopping() bool {
	select {
	case <-c.stopping:
		return true
	default:
		return false
	}
}

func (c *copier) run() {
	defer close(c.ended)
	source := c.Read(c.to.name, c.done+1)
	defer func() { _ = source.Close() }() // an error of Close loses nothing: the journal was only read
	defer c.save(true)
	for failures := 0; ; {
		c.mu.Lock()
		target, foreign := c.target, c.done > c.target
		if foreign { // the journal is new, and no record of it was sent
			c.done = 0
		}
		c.mu.Unlock()
		if foreign {
			c.Log.Warn("journal: the cursor of a copy is beyond the journal; the copy starts from the beginning",
				"sink", c.to.name)
			_ = source.Close() // an error of Close loses nothing: the journal was only read
			source = c.Read(c.to.name, 1)
		}
		batch := c.batch(source, target)
		if len(batch) == 0 {
			c.save(false)
			if c.isStopping() || c.root.Err() != nil {
				return
			}
			select {
			case <-c.wake:
			case <-c.stopping:
			}
			continue
		}
		for !c.deliver(batch) {
			failures++
			if !c.pause(min(maxRetry, minRetry<<min(failures-1, 10))) {
				return
			}
		}
		failures = 0
		c.save(false)
	}
}

// batch reads the next records up to number target.
func (c *copier) batch(source Source, target uint64) (batch []Message) {
	last := c.done
	for size := 0; len(batch) < maxBatch && size < maxBatchLen && last < target; {
		m, err := source.Next()
		switch {
		case errors.Is(err, io.EOF):
			return batch
		case err != nil:
			c.Log.Error("journal: a copy cannot read the journal", "sink", c.to.name, "cause", err.Error())
			c.pause(minRetry)
			return batch
		}
		size += len(m.Line)
		last = m.Seq
		batch = append(batch, m)
	}
	return batch
}

// deliver tries once to send a batch.
func (c *copier) deliver(batch []Message) bool {
	ctx, cancel := context.WithTimeout(c.root, sendTimeout)
	defer cancel()
	err := c.to.send(ctx, batch)
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(err, errRejected) { // only the journal's file has the rejected records
		c.failures.Inc()
		c.Log.Error("journal: the receiver rejected records; its copy is not complete",
			"sink", c.to.name, "cause", err.Error())
		err = nil
	}
	if err != nil {
		c.failures.Inc()
		if c.cause == "" {
			c.failedAt = time.Now()
			c.Log.Warn("journal: a copy falls behind", "sink", c.to.name, "cause", err.Error())
		}
		c.cause = err.Error()
		return false
	}
	if c.cause != "" {
		c.Log.Info("journal: a copy works again", "sink", c.to.name)
	}
	c.cause, c.done = "", batch[len(batch)-1].Seq
	return true
}

// pause waits, with jitter, before the next attempt. It returns false if the copy ends instead.
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

// save writes the cursor, at most once in cursorEvery unless now is set. With a cursor that is too low, some records
// are sent again.
func (c *copier) save(now bool) {
	c.mu.Lock()
	done := c.done
	c.mu.Unlock()
	if done == c.saved || !now && time.Since(c.savedAt) < cursorEvery {
		return
	}
	if err := durable.WriteFile(c.cursorFile(), strconv.AppendUint(nil, done, 10), 0o600); err != nil {
		c.Log.Warn("journal: the cursor of a copy cannot be written", "sink", c.to.name, "cause", err.Error())
		return
	}
	c.saved, c.savedAt = done, time.Now()
}
