package embedded

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"
	"github.com/transparency-dev/tessera/storage/posix"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
)

// Batches, and the publication of checkpoints.
const (
	batchSize       = 1024
	batchAge        = time.Millisecond
	checkpointEvery = time.Second
	republishEvery  = 10 * time.Minute
	cleanEvery      = time.Minute // removes partial tiles that full ones have replaced
)

// Options for [Open] and [OpenStore].
type Options struct {
	Roots  []*x509.Certificate // the answer to get-roots
	Now    func() time.Time    // default: time.Now
	Logger *slog.Logger        // optional
	// Event is called for events that belong in a journal: a rotation, a shard that was closed, a storage that fails or
	// works again. It must not block. Optional.
	Event func(reason, text string)
	// Every is how often a store checks its shards, and how often a degraded storage is probed. Default: a second.
	Every time.Duration
	// UserAgent identifies this program to witnesses.
	UserAgent string

	label   string   // of the log, for metrics and messages
	metrics *metrics // shared by the logs of a store
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
	if o.label == "" {
		o.label = Shard{}.Label()
	}
	if o.metrics == nil {
		o.metrics = newMetrics()
	}
	return o
}

// Log is an open log. Its methods may be called by several goroutines.
type Log struct {
	dir, label string
	signer     *signer
	roots      atomic.Pointer[[]*x509.Certificate]
	log        *slog.Logger
	event      func(reason, text string)
	lock       *durable.FileLock
	batcher    *batcher
	reader     tessera.LogReader
	tiles      *monitor.Log // reads the files as a monitor does
	shutdown   func(context.Context) error
	stop       context.CancelFunc
	background sync.WaitGroup
	metrics    *metrics
	cosigner   *cosigner // nil without witnesses
	health     health
	degraded   chan struct{} // the storage has failed
	snapshot   atomic.Pointer[fileSnapshot]
	every      time.Duration
	closing    sync.Once
	closed     error // the result of Close

	mu      sync.Mutex
	issuers map[[32]byte]bool // stored
}

// Open opens the log in c.Dir, or makes one with a new P-256 key. It returns an error if another process uses the
// directory, or if the directory has a log with another origin. It opens this one log: [OpenStore] opens all shards.
func Open(ctx context.Context, c Config, o Options) (_ *Log, err error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	l := &Log{
		dir: c.Dir, label: o.label, log: o.Logger, event: o.Event, metrics: o.metrics, every: o.Every,
		issuers: map[[32]byte]bool{}, degraded: make(chan struct{}, 1),
	}
	l.SetRoots(o.Roots)
	if err := mkdirSynced(filepath.Join(c.Dir, "issuer")); err != nil {
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
	key, id, err := openKey(c.Dir)
	if err != nil {
		return nil, err
	}
	description := loglist.Log{Name: l.label, Key: key.Public(), Origin: c.Origin}
	if l.tiles, err = monitor.Open(monitor.Options{Log: description, Dir: l.dir}); err != nil {
		return nil, err
	}
	if err := checkSignedBy(ctx, l.tiles, c.Dir); err != nil {
		return nil, err
	}
	l.signer = &signer{origin: c.Origin, key: key, id: id, now: o.Now, rand: rand.Reader, degraded: l.health.degraded}
	appender, err := l.openStorage(life)
	if err == nil {
		err = l.awaitCheckpoint(ctx)
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
		append: tessera.NewCertificateTransparencyAppender(appender), ready: l.storageReady, failed: l.storageFailed,
	})
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
	a, l.shutdown, l.reader, err = tessera.NewAppender(life, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(l.signer).WithCTLayout().WithBatching(batchSize, batchAge).
		WithCheckpointInterval(checkpointEvery).WithCheckpointRepublishInterval(republishEvery).
		WithGarbageCollectionInterval(cleanEvery).WithShutdownTimeout(5*time.Second))
	return a, err
}

// awaitCheckpoint waits until the checkpoint covers the tree. After a crash the tree on disk is ahead of the
// checkpoint, and a monitor that reads the log as soon as the CA is up again must find the entry of every SCT.
func (l *Log) awaitCheckpoint(ctx context.Context) error {
	r := l.reader
	size, err := r.IntegratedSize(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*checkpointEvery)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if raw, err := r.ReadCheckpoint(ctx); err == nil {
			published, err := parseHead(raw, l.signer.origin)
			if err != nil {
				return fault.Cure(fmt.Errorf("checkpoint: %w", err),
					"restore it, or remove it: a new one is then signed over the existing tree")
			}
			if published.Size >= size {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("no checkpoint covers the %d entries of the tree: %w", size, ctx.Err())
		}
	}
}

// Submit adds p and returns its SCT in TLS encoding (RFC 6962 §3.2) once the entry is on disk. It does not check p,
// which the CA in the same process made. Its error is a [fault.Error] with the reason LOG_UNAVAILABLE, or the cause of
// the end of ctx. While the storage is degraded, Submit fails at once.
func (l *Log) Submit(ctx context.Context, p tbs.Precertificate) ([]byte, error) {
	start := time.Now()
	if err := l.health.err(); err != nil {
		l.metrics.entries.WithLabelValues(l.label, "failure").Inc()
		return nil, unavailable(err)
	}
	sct, err := l.submit(ctx, p)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		l.metrics.entries.WithLabelValues(l.label, "failure").Inc()
		return nil, unavailable(err)
	}
	l.metrics.entries.WithLabelValues(l.label, "success").Inc()
	l.metrics.seconds.WithLabelValues(l.label).Observe(time.Since(start).Seconds())
	return sct, nil
}

func (l *Log) submit(ctx context.Context, p tbs.Precertificate) ([]byte, error) {
	e := &ctonly.Entry{
		Timestamp: uint64(l.signer.now().UnixMilli()), IsPrecert: true, //nolint:gosec // after 1970
		Certificate: p.Entry.TBS, Precertificate: p.DER, IssuerKeyHash: p.Entry.IssuerKeyHash[:],
	}
	for _, der := range p.Chain {
		sum := sha256.Sum256(der)
		if err := l.storeIssuer(sum, der); err != nil {
			return nil, err
		}
		e.FingerprintsChain = append(e.FingerprintsChain, sum)
	}
	index, err := l.batcher.add(ctx, e)
	if err != nil {
		return nil, err
	}
	extensions := monitor.LeafIndex(index)
	input, err := tbs.SignatureInput(e.Timestamp, extensions, p.Entry)
	if err != nil {
		return nil, err
	}
	signature, err := l.signer.sign(input)
	if err != nil {
		return nil, err
	}
	return tbs.SCT{
		LogID: l.signer.id, Timestamp: e.Timestamp, Extensions: extensions, Hash: tlsSHA256, Sig: tlsECDSA,
		Signature: signature,
	}.Marshal()
}

// storeIssuer writes a certificate of the chain, which entries refer to by its SHA-256.
func (l *Log) storeIssuer(sum [32]byte, der []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.issuers[sum] {
		return nil
	}
	if err := durable.WriteFile(filepath.Join(l.dir, "issuer", hex.EncodeToString(sum[:])), der, 0o644); err != nil {
		l.storageFailed(err)
		return err
	}
	l.issuers[sum] = true
	return nil
}

// SetRoots replaces the answer to get-roots.
func (l *Log) SetRoots(roots []*x509.Certificate) { l.roots.Store(&roots) }

// Key returns the log's public key.
func (l *Log) Key() crypto.PublicKey { return l.signer.key.Public() }

// ID returns the log ID.
func (l *Log) ID() [32]byte { return l.signer.id }

// Close publishes a checkpoint over all entries and releases the directory. It waits no longer than ctx. Further calls
// return the same result.
func (l *Log) Close(ctx context.Context) error {
	l.closing.Do(func() {
		l.health.close()
		l.metrics.remove(l)
		l.closed = errors.Join(l.batcher.close(ctx), l.shutdown(ctx))
		if l.cosigner != nil {
			l.cosigner.collect(ctx) // over the last checkpoint
		}
		l.stop()
		l.background.Wait()
		l.closed = errors.Join(l.closed, l.lock.Unlock())
	})
	return l.closed
}
