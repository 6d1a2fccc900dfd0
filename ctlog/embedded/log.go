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

	"github.com/prometheus/client_golang/prometheus"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/crypto/cryptobyte"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tbs"
)

// How entries are gathered and checkpoints published.
const (
	batchSize       = 1024
	batchAge        = time.Millisecond
	checkpointEvery = time.Second
	republishEvery  = 10 * time.Minute
	cleanEvery      = time.Minute // of partial tiles that full ones replaced
)

// Options for [Open].
type Options struct {
	Roots  []*x509.Certificate // answered to get-roots
	Now    func() time.Time    // nil: time.Now
	Logger *slog.Logger        // nil: none
}

// Log is an open log. It is safe for concurrent use.
type Log struct {
	dir      string
	signer   *signer
	roots    atomic.Pointer[[]*x509.Certificate]
	log      *slog.Logger
	lock     *os.File
	gate     *gate
	shutdown func(context.Context) error
	stop     context.CancelFunc
	metrics  *metrics

	mu      sync.Mutex
	issuers map[[32]byte]bool // stored
	broken  error             // the last entry could not be stored
	closed  bool
}

// Open opens the log in c.Dir, or makes one with a new P-256 key. It errs when another process has the directory, or when
// the directory holds a log of another origin.
func Open(ctx context.Context, c Config, o Options) (_ *Log, err error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{dir: c.Dir, log: o.Logger, metrics: newMetrics(), issuers: map[[32]byte]bool{}}
	l.SetRoots(o.Roots)
	if err := os.MkdirAll(filepath.Join(c.Dir, "issuer"), 0o755); err != nil { //nolint:gosec // a public log
		return nil, err
	}
	if l.lock, err = lockDir(c.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = l.lock.Close()
		}
	}()
	if err := claimOrigin(c); err != nil {
		return nil, err
	}
	key, id, err := openKey(c.Dir)
	if err != nil {
		return nil, err
	}
	l.signer = &signer{origin: c.Origin, key: key, id: id, now: o.Now, rand: rand.Reader}
	life, stop := context.WithCancel(context.WithoutCancel(ctx)) // the log ends at Close, after those who use it
	l.stop = stop
	driver, err := posix.New(life, posix.Config{Path: c.Dir})
	if err != nil {
		stop()
		return nil, fmt.Errorf("%s: %w", c.Dir, err)
	}
	appender, shutdown, reader, err := tessera.NewAppender(life, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(l.signer).WithCTLayout().WithBatching(batchSize, batchAge).
		WithCheckpointInterval(checkpointEvery).WithCheckpointRepublishInterval(republishEvery).
		WithGarbageCollectionInterval(cleanEvery).WithShutdownTimeout(5*time.Second))
	if err != nil {
		stop()
		return nil, fmt.Errorf("%s: %w", c.Dir, err)
	}
	l.shutdown = shutdown
	if err := l.caughtUp(ctx, reader); err != nil {
		stop()
		return nil, fmt.Errorf("%s: %w", c.Dir, err)
	}
	l.gate = newGate(life, tessera.NewCertificateTransparencyAppender(appender))
	return l, nil
}

// caughtUp waits until the checkpoint covers the tree. After a crash the tree on disk is ahead of it, and whoever looks at the
// log as soon as the CA is back must find every SCT's entry.
func (l *Log) caughtUp(ctx context.Context, r tessera.LogReader) error {
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
			published, _, err := parseHead(raw, l.signer.origin)
			if err != nil {
				return fmt.Errorf("checkpoint: %w", err)
			}
			if published >= size {
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
// CA in the same process made it. An error is a [fault.Error] with the reason LOG_UNAVAILABLE, or the end of ctx.
func (l *Log) Submit(ctx context.Context, p tbs.Precertificate) ([]byte, error) {
	start := time.Now()
	sct, err := l.submit(ctx, p)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		l.metrics.entries.WithLabelValues("failure").Inc()
		l.setBroken(err)
		return nil, fault.New(fault.LogUnavailable, fmt.Errorf("embedded log: %w", err))
	}
	l.metrics.entries.WithLabelValues("success").Inc()
	l.metrics.seconds.Observe(time.Since(start).Seconds())
	l.setBroken(nil)
	return sct, nil
}

func (l *Log) setBroken(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = err
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
	extensions := leafIndex(index)
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

// leafIndex is the SCT extension that says where the entry is (c2sp.org/static-ct-api, "SCT Extension").
func leafIndex(index uint64) []byte {
	b := cryptobyte.NewBuilder(nil)
	b.AddUint8(0) // leaf_index
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(uint8(index >> 32)) //nolint:gosec // 40 bits
		b.AddUint32(uint32(index))     //nolint:gosec // as above
	})
	return b.BytesOrPanic()
}

// storeIssuer keeps a certificate of the chain, which entries name by its SHA-256 only.
func (l *Log) storeIssuer(sum [32]byte, der []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.issuers[sum] {
		return nil
	}
	if err := writeSynced(filepath.Join(l.dir, "issuer", hex.EncodeToString(sum[:])), der, 0o644); err != nil {
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

// Health is nil while entries can be stored, as far as the last one showed.
func (l *Log) Health() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("the log is closed")
	}
	return l.broken
}

// Close publishes a checkpoint over everything that was added and releases the directory. It waits no longer than ctx.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	err := l.shutdown(ctx)
	l.stop()
	l.gate.wait()
	return errors.Join(err, l.lock.Close())
}

// metrics of one log.
type metrics struct {
	entries *prometheus.CounterVec
	seconds prometheus.Histogram
}

func newMetrics() *metrics {
	return &metrics{
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_embedded_log_entries_total", Help: "Entries for the embedded log, by result.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mayfly_embedded_log_submit_seconds", Help: "Time until an entry is on disk.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}),
	}
}

// Collectors returns the metrics of the log.
func (l *Log) Collectors() []prometheus.Collector {
	return []prometheus.Collector{l.metrics.entries, l.metrics.seconds}
}
