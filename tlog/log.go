package tlog

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"

	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
)

// Batches, and the publication of checkpoints.
const (
	batchSize      = 1024
	batchAge       = time.Millisecond
	republishEvery = 10 * time.Minute
	cleanEvery     = time.Minute // removes partial tiles that full ones have replaced
)

// Options for [Open] and [OpenStore].
type Options struct {
	Now    func() time.Time // default: time.Now
	Logger *slog.Logger     // optional
	// Event is called for events that belong in a journal: a rotation, a shard that was closed, a storage that fails or
	// works again. It must not block. Optional.
	Event func(reason, text string)
	// Every is how often a store checks its shards, and how often a degraded storage is probed. Default: a second.
	Every time.Duration
	// UserAgent identifies this program to witnesses.
	UserAgent string
	// Answers are further addresses of the read path of each shard, by path, such as /ct/v1/get-roots. Optional.
	Answers map[string]http.Handler
	// Metrics are those of all logs of the process. Default: new ones.
	Metrics *Metrics

	label string // of the log, for metrics and messages
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Event == nil {
		o.Event = func(string, string) {}
	}
	if o.Every <= 0 {
		o.Every = time.Second
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics()
	}
	return o
}

// Log is an open log. Its methods may be called by several goroutines.
type Log struct {
	kind       Kind
	dir, label string
	origin     string
	key        crypto.Signer
	id         [32]byte
	answers    map[string]http.Handler
	now        func() time.Time
	log        *slog.Logger
	event      func(reason, text string)
	lock       *durable.FileLock
	batcher    *batcher
	publisher  *publisher
	reader     tessera.LogReader
	tiles      *monitor.Log // reads the files as a monitor does
	shutdown   func(context.Context) error
	stop       context.CancelFunc
	background sync.WaitGroup
	metrics    *Metrics
	cosigner   *cosigner // nil without witnesses
	health     health
	degraded   chan struct{} // the storage has failed
	snapshot   atomic.Pointer[fileSnapshot]
	every      time.Duration
	closing    sync.Once
	closed     error // the result of Close
}

// Open opens the log in c.Dir, or makes one. It returns an error if another process uses the
// directory, or if the directory has a log with another origin. It opens this one log: [OpenStore] opens all shards.
func Open(ctx context.Context, c Config, o Options) (_ *Log, err error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	if o.label == "" {
		o.label = c.Kind.label()
	}
	l := &Log{
		kind: c.Kind, dir: c.Dir, label: o.label, origin: c.Origin, answers: o.Answers, now: o.Now, log: o.Logger,
		event: o.Event, metrics: o.Metrics, every: o.Every, degraded: make(chan struct{}, 1),
	}
	if err := mkdirSynced(c.Dir); err != nil {
		return nil, err
	}
	if l.lock, err = lockDir(c.Dir); err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx)) // the log ends with Close, not with ctx
	l.stop = stop
	defer func() {
		if err != nil {
			stop()
			err = errors.Join(err, l.lock.Unlock())
		}
	}()
	if err := claimOrigin(c); err != nil {
		return nil, err
	}
	if l.key, l.id, err = c.openKey(c.Dir, nil); err != nil {
		return nil, err
	}
	description := loglist.Log{Name: l.label, Key: l.key.Public(), Origin: c.Origin}
	if l.tiles, err = monitor.Open(monitor.Options{Log: description, Format: l.kind.Format(), Dir: l.dir}); err != nil {
		return nil, err
	}
	if err := checkSignedBy(ctx, l.tiles, c.Dir); err != nil {
		return nil, err
	}
	l.publisher = newPublisher(l, c.interval())
	if l.publisher.signer, err = l.noteSigner(); err != nil {
		return nil, err
	}
	appender, err := l.openStorage(life)
	if err == nil {
		err = l.publisher.publish(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Dir, err)
	}
	if len(c.Witnesses) > 0 {
		if l.cosigner, err = newCosigner(l, c, o); err != nil {
			return nil, err
		}
		l.background.Go(func() { l.cosigner.run(life) })
	}
	l.batcher = newBatcher(life, storage{
		appender: appender, ready: l.storageReady, failed: l.storageFailed, written: l.publisher.wake,
	})
	l.background.Go(func() { l.publisher.run(life) })
	if err := l.rightEdge(ctx); err != nil {
		l.storageFailed(err) // the file may be restored while the process runs
	}
	l.readFiles(ctx)
	l.background.Go(func() { l.repair(life) })
	l.background.Go(func() { l.watchFiles(life) })
	l.metrics.add(l)
	return l, nil
}

// openStorage starts Tessera, which panics if it cannot lock its files.
func (l *Log) openStorage(life context.Context) (a *tessera.Appender, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the storage cannot be opened: %v", r)
		}
	}()
	driver, err := posix.New(life, posix.Config{Path: l.dir})
	if err != nil {
		return nil, err
	}
	first := &firstSigner{Signer: l.publisher.signer}
	a, l.shutdown, l.reader, err = tessera.NewAppender(life, driver, l.kind.options(tessera.NewAppendOptions()).
		WithCheckpointSigner(first).WithBatching(batchSize, batchAge).
		WithCheckpointInterval(never).WithCheckpointRepublishInterval(never).
		WithGarbageCollectionInterval(cleanEvery).WithShutdownTimeout(5*time.Second))
	first.opened.Store(true)
	return a, err
}

// Entry adds an entry to the storage. It is called by one goroutine at a time.
type Entry func(context.Context, *tessera.Appender) tessera.IndexFuture

// Append adds an entry, which entry makes, and returns its index once the entry is on disk and in the tree. Its errors
// are [fault.Error] values with the reason LOG_UNAVAILABLE, or the cause of the end of ctx: the entry may then be added
// nevertheless. While the storage is degraded, Append fails at once.
func (l *Log) Append(ctx context.Context, entry func() (Entry, error)) (index uint64, err error) {
	start := time.Now()
	e, err := l.prepare(entry)
	if err == nil {
		index, err = l.batcher.add(ctx, e)
	}
	if err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		l.metrics.entries.WithLabelValues(l.label, "failure").Inc()
		return 0, l.unavailable(err)
	}
	l.metrics.entries.WithLabelValues(l.label, "success").Inc()
	l.metrics.seconds.WithLabelValues(l.label).Observe(time.Since(start).Seconds())
	return index, nil
}

// prepare calls entry, which may write files: [Log.Close] waits until it has returned.
func (l *Log) prepare(entry func() (Entry, error)) (Entry, error) {
	if err := l.health.enter(); err != nil {
		return nil, err
	}
	defer l.health.leave()
	return entry()
}

// Fail records that a file of the log could not be written: no entry is accepted until a probe has shown that the
// storage works.
func (l *Log) Fail(err error) { l.storageFailed(err) }

// Dir returns the log's directory.
func (l *Log) Dir() string { return l.dir }

// Signer returns the log's key.
func (l *Log) Signer() crypto.Signer { return l.key }

// Key returns the log's public key.
func (l *Log) Key() crypto.PublicKey { return l.key.Public() }

// ID returns the log ID.
func (l *Log) ID() [32]byte { return l.id }

// Close publishes a checkpoint over all entries and releases the directory. It waits no longer than ctx. Further calls
// return the same result.
func (l *Log) Close(ctx context.Context) error {
	l.closing.Do(func() {
		l.closed = l.health.close(ctx)
		l.metrics.remove(l)
		l.closed = errors.Join(l.closed, l.batcher.close(ctx), l.publisher.close(ctx), l.shutdown(ctx))
		if l.cosigner != nil {
			l.cosigner.collect(ctx) // over the last checkpoint
		}
		l.stop()
		l.background.Wait()
		l.closed = errors.Join(l.closed, l.lock.Unlock())
	})
	return l.closed
}
