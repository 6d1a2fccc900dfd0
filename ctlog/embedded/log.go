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
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"
	"github.com/transparency-dev/tessera/storage/posix"
)

// How entries are gathered and checkpoints published.
const (
	batchSize       = 1024
	batchAge        = time.Millisecond
	checkpointEvery = time.Second
	republishEvery  = 10 * time.Minute
	cleanEvery      = time.Minute // of partial tiles that full ones replaced
)

// Options for [Open] and [OpenStore].
type Options struct {
	Roots  []*x509.Certificate // answered to get-roots
	Now    func() time.Time    // nil: time.Now
	Logger *slog.Logger        // nil: none
	// Event hears of what belongs into a journal: a rotation, a shard that was closed, a storage that fails or works again. It must
	// not wait. nil: nobody.
	Event func(reason, text string)
	// Every is how often a store looks at its shards, and how often a storage that has failed is tried; 0 is a second.
	Every time.Duration
	// UserAgent names this program to witnesses.
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

// Log is an open log. It is safe for concurrent use.
type Log struct {
	dir, label string
	signer     *signer
	roots      atomic.Pointer[[]*x509.Certificate]
	log        *slog.Logger
	event      func(reason, text string)
	lock       *os.File
	gate       *gate
	reader     tessera.LogReader
	tiles      *monitor.Log // the files, as everybody reads them
	shutdown   func(context.Context) error
	stop       context.CancelFunc
	background sync.WaitGroup
	metrics    *metrics
	cosigner   *cosigner // nil without witnesses
	health     health
	hurt       chan struct{} // the storage has failed
	seen       atomic.Pointer[look]
	every      time.Duration
	closing    sync.Once
	closed     error // what Close returned

	mu      sync.Mutex
	issuers map[[32]byte]bool // stored
}

// Open opens the log in c.Dir, or makes one with a new P-256 key. It errs when another process has the directory, or when
// the directory holds a log of another origin. It knows nothing of shards.
func Open(ctx context.Context, c Config, o Options) (_ *Log, err error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	l := &Log{
		dir: c.Dir, label: o.label, log: o.Logger, event: o.Event, metrics: o.metrics, every: o.Every, issuers: map[[32]byte]bool{}, hurt: make(chan struct{}, 1),
	}
	l.SetRoots(o.Roots)
	if err := mkdirSynced(filepath.Join(c.Dir, "issuer")); err != nil {
		return nil, err
	}
	if l.lock, err = lockDir(c.Dir); err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx)) // the log ends at Close, after those who use it
	l.stop = stop
	defer func() {
		if err != nil {
			stop()
			err = errors.Join(err, l.lock.Close())
		}
	}()
	if err := claimOrigin(c); err != nil {
		return nil, err
	}
	key, id, err := openKey(c.Dir)
	if err != nil {
		return nil, err
	}
	if l.tiles, err = monitor.Open(monitor.Options{Log: loglist.Log{Name: l.label, Key: key.Public(), Origin: c.Origin}, Dir: l.dir}); err != nil {
		return nil, err
	}
	if err := signedBy(ctx, l.tiles, c.Dir); err != nil {
		return nil, err
	}
	l.signer = &signer{origin: c.Origin, key: key, id: id, now: o.Now, rand: rand.Reader, sound: l.health.sound}
	appender, err := l.openStorage(life)
	if err == nil {
		err = l.caughtUp(ctx)
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
	l.gate = newGate(life, storage{append: tessera.NewCertificateTransparencyAppender(appender), ready: l.storageReady, failed: l.storageFailed})
	if err := l.rightEdge(ctx); err != nil {
		l.storageFailed(err) // it may be restored while the process runs
	}
	l.lookAtFiles(ctx)
	l.background.Go(func() { l.mend(life) })
	l.background.Go(func() { l.watchFiles(life) })
	l.metrics.watch(l)
	return l, nil
}

// openStorage starts the library that keeps the tree. It panics when it cannot lock its files.
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

// caughtUp waits until the checkpoint covers the tree. After a crash the tree on disk is ahead of it, and whoever looks at the
// log as soon as the CA is back must find every SCT's entry.
func (l *Log) caughtUp(ctx context.Context) error {
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
				return fmt.Errorf("checkpoint: %w; restore it, or remove it: then another one is signed over the tree that is there", err)
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

// Submit adds p and returns its SCT in TLS encoding (RFC 6962 §3.2) once the entry is on disk. It checks nothing of p: the
// CA in the same process made it. An error is a [fault.Error] with the reason LOG_UNAVAILABLE, or the end of ctx. Once the storage has
// failed, Submit errs at once until the storage has proved that it works again.
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
	index, err := l.gate.add(ctx, e)
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
		LogID: l.signer.id, Timestamp: e.Timestamp, Extensions: extensions, Hash: tlsSHA256, Sig: tlsECDSA, Signature: signature,
	}.Marshal()
}

// storeIssuer keeps a certificate of the chain, which entries name by its SHA-256 only.
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

// SetRoots replaces what get-roots answers.
func (l *Log) SetRoots(roots []*x509.Certificate) { l.roots.Store(&roots) }

// Key returns the log's public key.
func (l *Log) Key() crypto.PublicKey { return l.signer.key.Public() }

// ID returns the log ID: SHA-256 of the SPKI.
func (l *Log) ID() [32]byte { return l.signer.id }

// Close publishes a checkpoint over everything that was added and releases the directory. It waits no longer than ctx. Called again
// it returns what it returned before.
func (l *Log) Close(ctx context.Context) error {
	l.closing.Do(func() {
		l.health.close()
		l.metrics.forget(l)
		l.closed = errors.Join(l.gate.close(ctx), l.shutdown(ctx))
		if l.cosigner != nil {
			l.cosigner.round(ctx) // over the last checkpoint
		}
		l.stop()
		l.background.Wait()
		l.closed = errors.Join(l.closed, l.lock.Close())
	})
	return l.closed
}
