package find

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/monitor"
)

// File is the name of the index in its directory. schema is its version: a file with another one is made again.
const (
	File   = "find.db"
	schema = "1"
)

// The buckets of the file. "logs" has a [savedLog] by log ID. The others have a value of 32 bytes, the leaf hash of the
// entry, by key and position: see [place].
var (
	bucketMeta     = []byte("meta")
	bucketLogs     = []byte("logs")
	bucketDigest   = []byte("digest")   // by digest
	bucketIdentity = []byte("identity") // by the SHA-256 of the identity, cut to 16 bytes
	bucketSerial   = []byte("serial")   // by serial number, 20 bytes
)

// Kind is what the entries of a log are.
type Kind string

// The kinds of logs.
const (
	Certificates Kind = "certificates" // a Certificate Transparency log
	Signatures   Kind = "signatures"   // a log of signatures (Rekor v2)
)

// Source is a log to index.
type Source struct {
	*monitor.Log
	Kind Kind
}

// Config is the configuration of the index.
type Config struct {
	// Dir is the directory of the index, which the first start makes. The index is made again from the logs if it is
	// removed.
	Dir string `yaml:"dir" path:"dir"`
}

// Check validates c without reading the directory. Its errors are [fault.Setting] values.
func (c Config) Check() error {
	if c.Dir == "" {
		return fault.BadSetting("dir is missing", "write the path of the directory of the index", "dir")
	}
	return nil
}

// Options for [Open].
type Options struct {
	// Sources returns the logs to index. It is called before each round.
	Sources func() ([]Source, error)
	Logger  *slog.Logger  // optional
	Every   time.Duration // between two rounds; 0: a second
	Step    uint64        // entries of a log that one transaction adds; 0: 4096
	// Progress is called from time to time while the entries of a log are read. Optional.
	Progress func(log string, read, size uint64)
}

// Index is an open index. Its methods may be called by several goroutines.
type Index struct {
	o       Options
	db      *bbolt.DB
	metrics *metrics

	turn    chan struct{} // has a value unless a round is running
	updated time.Time     // when the last round ended; for the holder of the turn

	mu      sync.RWMutex
	logs    map[uint16]*indexed // by number
	byID    map[[32]byte]*indexed
	warning string
}

// indexed is a log with what the index has of it.
type indexed struct {
	source   Source
	saved    savedLog
	follower *monitor.Follower
}

// savedLog is a value of the bucket "logs".
type savedLog struct {
	Number uint16        `json:"number"` // in positions
	Name   string        `json:"name"`
	Kind   Kind          `json:"kind"`
	State  monitor.State `json:"state"`
}

// ErrInUse says that another process has the index open.
var ErrInUse = errors.New("the index is in use by another process")

// Open opens the index in c.Dir, or makes an empty one. Its error is [ErrInUse] if another process uses it.
func Open(c Config, o Options) (*Index, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Every <= 0 {
		o.Every = time.Second
	}
	if o.Step == 0 {
		o.Step = 4096
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	name := filepath.Join(c.Dir, File)
	db, err := openFile(name)
	if err != nil && !errors.Is(err, ErrInUse) {
		o.Logger.Warn("the index is made again from the logs, because its file is damaged", "file", name, "cause",
			err.Error())
		if err = os.Remove(name); err == nil {
			db, err = openFile(name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	x := &Index{
		o: o, db: db, metrics: newMetrics(), logs: map[uint16]*indexed{}, byID: map[[32]byte]*indexed{},
		turn: make(chan struct{}, 1),
	}
	x.turn <- struct{}{}
	return x, nil
}

// openFile opens the file and makes its buckets. A file of another version is emptied.
func openFile(name string) (db *bbolt.DB, err error) {
	defer func() {
		if r := recover(); r != nil { // the library panics on some kinds of damage
			err = fmt.Errorf("damaged: %v", r)
		}
		if err != nil && db != nil {
			_ = db.Close() // the error of the opening says more
			db = nil
		}
	}()
	db, err = bbolt.Open(name, 0o600, &bbolt.Options{Timeout: time.Second})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, ErrInUse
	}
	if err != nil {
		return nil, err
	}
	return db, db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		all := [][]byte{bucketLogs, bucketDigest, bucketIdentity, bucketSerial}
		if string(meta.Get([]byte("schema"))) != schema {
			for _, name := range all {
				if err := tx.DeleteBucket(name); err != nil && !errors.Is(err, berrors.ErrBucketNotFound) {
					return err
				}
			}
		}
		for _, name := range all {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return meta.Put([]byte("schema"), []byte(schema))
	})
}

// Close closes the file. [Index.Run] MUST have ended.
func (x *Index) Close() error {
	if x == nil {
		return nil
	}
	return x.db.Close()
}

// Warning returns why the index is not up to date; empty if it is.
func (x *Index) Warning() string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.warning
}

// Collectors returns the metrics of the index.
func (x *Index) Collectors() []prometheus.Collector { return x.metrics.collectors() }

// Run keeps the index up to date until ctx ends.
func (x *Index) Run(ctx context.Context) {
	tick := time.NewTicker(x.o.Every)
	defer tick.Stop()
	for {
		text := ""
		if err := x.Update(ctx); err != nil && ctx.Err() == nil {
			text = err.Error()
		}
		x.mu.Lock()
		changed := text != x.warning && text != ""
		x.warning = text
		x.mu.Unlock()
		if changed {
			x.o.Logger.Warn("the index of the logs is not up to date", "cause", text)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// An answer waits refreshWait for a round, so that an entry is found as soon as its log has published it, unless one
// has ended in the last fresh.
const (
	refreshWait = time.Second
	fresh       = 50 * time.Millisecond
)

// refresh makes a round. Its errors are those of the next round of [Index.Run].
func (x *Index) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, refreshWait)
	defer cancel()
	select {
	case <-x.turn:
	case <-ctx.Done():
		return
	}
	defer func() { x.turn <- struct{}{} }()
	if time.Since(x.updated) >= fresh {
		_ = x.round(ctx)
	}
}

// Update adds all entries that the logs have now. A log that fails does not keep the others from being read.
func (x *Index) Update(ctx context.Context) error {
	select {
	case <-x.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { x.turn <- struct{}{} }()
	return x.round(ctx)
}

// round is one round of [Index.Update]. The caller has the turn.
func (x *Index) round(ctx context.Context) error {
	defer func() { x.updated = time.Now() }()
	sources, err := x.o.Sources()
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range sources {
		if err := x.update(ctx, s); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (x *Index) update(ctx context.Context, s Source) error {
	l, err := x.log(s)
	if err != nil {
		return err
	}
	for more := true; more; {
		b := batch{kind: s.Kind, number: l.saved.Number}
		// The slices of an entry are valid until take returns; the batch has its own.
		if more, err = l.follower.Next(ctx, b.take); err != nil {
			if errors.Is(err, monitor.ErrStale) {
				return nil
			}
			if monitor.Misbehaved(err) {
				err = fault.Cure(err, "if the log was restored on purpose, remove the directory of the index")
			}
			return err
		}
		state := l.follower.State()
		if state.Size == l.saved.State.Size && state.Head == l.saved.State.Head {
			continue
		}
		if err := x.save(l, b, state); err != nil {
			l.follower.Restore(l.saved.State)
			return fmt.Errorf("log %s: the index cannot be written: %w", l.saved.Name, err)
		}
		x.metrics.add(l.saved.Name, b)
		if b.unreadable != nil {
			x.o.Logger.Warn("entries are not in the index", "log", l.saved.Name, "count", b.skipped, "cause",
				b.unreadable.Error())
		}
	}
	return nil
}

// log returns a log with its state in the index.
func (x *Index) log(s Source) (*indexed, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if have := x.byID[s.ID()]; have != nil {
		have.source = s
		return have, nil
	}
	id := s.ID()
	one := &indexed{source: s, saved: savedLog{Name: s.Name(), Kind: s.Kind}}
	err := x.db.Update(func(tx *bbolt.Tx) error {
		logs := tx.Bucket(bucketLogs)
		if data := logs.Get(id[:]); data != nil {
			return json.Unmarshal(data, &one.saved)
		}
		n, err := logs.NextSequence()
		if err != nil || n > 1<<16-1 {
			return errors.Join(err, errors.New("the index has too many logs; remove the directory of the index"))
		}
		one.saved.Number = uint16(n)
		return putLog(logs, id, one.saved)
	})
	if err != nil {
		return nil, fmt.Errorf("log %s: %w", s.Name(), err)
	}
	if one.saved.Kind != s.Kind {
		return nil, fmt.Errorf("log %s: in the index, this is a log of %s; remove the directory of the index",
			s.Name(), one.saved.Kind)
	}
	one.saved.Name = s.Name()
	o := monitor.FollowerOptions{State: one.saved.State, Step: x.o.Step}
	if x.o.Progress != nil {
		o.Progress = func(read, size uint64) { x.o.Progress(s.Name(), read, size) }
	}
	if one.follower, err = monitor.Follow(s.Log, o); err != nil {
		return nil, err
	}
	x.byID[id], x.logs[one.saved.Number] = one, one
	return one, nil
}

func putLog(bucket *bbolt.Bucket, id [32]byte, one savedLog) error {
	data, err := json.Marshal(one)
	if err != nil {
		return err
	}
	return bucket.Put(id[:], data)
}

// save adds a batch and the state that proves its entries, in one transaction.
func (x *Index) save(l *indexed, b batch, state monitor.State) error {
	next := l.saved
	next.State = state
	err := x.db.Update(func(tx *bbolt.Tx) error {
		for _, one := range b.keys {
			if err := tx.Bucket(one.bucket).Put(one.place, one.leaf[:]); err != nil {
				return err
			}
		}
		return putLog(tx.Bucket(bucketLogs), l.source.ID(), next)
	})
	if err != nil {
		return err
	}
	x.mu.Lock()
	l.saved = next
	x.mu.Unlock()
	return nil
}

// place is the key of an entry in a bucket: what is searched for, the number of the log (16 bits) and the index of the
// entry (64 bits), so that the entries of one key are in the order of their logs and indexes.
func place(key []byte, log uint16, index uint64) []byte {
	out := make([]byte, 0, len(key)+placeSize)
	out = append(out, key...)
	out = binary.BigEndian.AppendUint16(out, log)
	return binary.BigEndian.AppendUint64(out, index)
}

const placeSize = 2 + 8

// identityKey is the key of an identity in its bucket. Half of a SHA-256 is enough: an entry is compared with the
// identity when it is read again.
func identityKey(name string) []byte {
	sum := sha256.Sum256([]byte(name))
	return sum[:16]
}

// found is an entry of which the index knows.
type found struct {
	log   uint16
	index uint64
	leaf  [32]byte
}

// look returns at most limit entries of a query, in order, from a cursor on.
func (x *Index) look(q Query, from cursor, limit int) (out []found, err error) {
	bucket, key := q.key()
	err = x.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucket).Cursor()
		for k, v := c.Seek(place(key, from.log, from.index)); len(out) < limit; k, v = c.Next() {
			if len(k) != len(key)+placeSize || !bytes.HasPrefix(k, key) {
				return nil
			}
			if len(v) != sha256.Size {
				return errors.New("the index is damaged; remove the directory of the index")
			}
			out = append(out, found{
				binary.BigEndian.Uint16(k[len(key):]), binary.BigEndian.Uint64(k[len(key)+2:]), [32]byte(v),
			})
		}
		return nil
	})
	return out, err
}
