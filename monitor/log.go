package monitor

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"sync"
)

// Options say which log is read, and how. Exactly one of Dir, Monitoring and Submission is needed; Monitoring goes before
// Submission where both are known.
type Options struct {
	// Name is what findings call the log.
	Name string
	// Key is the pinned key: no head counts that it did not sign.
	Key crypto.PublicKey
	// Origin is the name in the checkpoints of a static-ct log.
	Origin string
	// Dir is the directory of a static-ct log on this machine.
	Dir string
	// Monitoring is the prefix of the read path of a static-ct log.
	Monitoring string
	// Submission is the prefix that precertificates are submitted to. A log that answers get-sth there is read as one of
	// RFC 6962, another one as a static-ct log.
	Submission string
	Transport  Transport
}

// source is a kind of log.
type source interface {
	// head reads and verifies the newest head.
	head(ctx context.Context) (Head, error)
	// unit is the end of the piece that from lies in; pieces are read as wholes.
	unit(from uint64) uint64
	// entries reads exactly [from, to), which lies in one unit, of a tree of size entries.
	entries(ctx context.Context, from, to, size uint64) ([]Entry, error)
	// consistency returns the proof that the tree of the size to continues that of the size from (RFC 6962 §2.1.2). The caller verifies it.
	consistency(ctx context.Context, from, to uint64) ([][]byte, error)
	// stray says in words which entry of [from, to) is not the tree's; "" is unknown.
	stray(ctx context.Context, from, to, size uint64) string
}

// Log is a log to read. Its methods may be called by several goroutines.
type Log struct {
	name string
	pin  pin

	mu     sync.Mutex
	source source
	probe  []source // kinds to try, until one has answered
}

// Open prepares to read a log. It asks nobody.
func Open(o Options) (*Log, error) {
	p, err := newPin(o.Key, o.Origin)
	if err != nil {
		return nil, err
	}
	l := &Log{name: o.Name, pin: p}
	if o.Dir != "" {
		l.source = &static{p, folder(o.Dir)}
		return l, needOrigin(o)
	}
	prefix := o.Monitoring
	if prefix == "" {
		prefix = o.Submission
	}
	w, err := newWeb(prefix, o.Transport)
	if err != nil {
		return nil, err
	}
	if o.Monitoring != "" {
		l.source = &static{p, w}
		return l, needOrigin(o)
	}
	l.probe = []source{&rfc{p, w}}
	if o.Origin != "" {
		l.probe = append(l.probe, &static{p, w})
	}
	return l, nil
}

func needOrigin(o Options) error {
	if o.Origin == "" {
		return fmt.Errorf("log %s: its checkpoints cannot be verified without its origin; write origin", o.Name)
	}
	return nil
}

// Name returns the log's name.
func (l *Log) Name() string { return l.name }

// Local reports whether the log is a directory on this machine.
func (l *Log) Local() bool {
	s, err := l.tiles()
	return err == nil && s.local()
}

// ID returns the log ID: SHA-256 of the key's SubjectPublicKeyInfo (RFC 6962 §3.2).
func (l *Log) ID() [32]byte { return l.pin.id }

// Head reads the newest head and verifies it under the pinned key.
func (l *Log) Head(ctx context.Context) (Head, error) {
	_, h, err := l.open(ctx)
	return h, err
}

// OriginOf returns the origin that the static-ct log at o.Monitoring gives itself. Who has the log's key may take it: the head that the
// log shows then is signed under that origin, or not believed.
func OriginOf(ctx context.Context, o Options) (string, error) {
	w, err := newWeb(o.Monitoring, o.Transport)
	if err != nil {
		return "", err
	}
	defer w.client.CloseIdleConnections()
	note, err := w.get(ctx, checkpointPath, maxHead)
	if err != nil {
		return "", err
	}
	_, origin, err := ParseCheckpoint(note)
	return origin, err
}

// Entries yields the entries [from, to) that h covers, as a static-ct log serves them: only [Log.Check] and a [Follower] prove that they
// are the tree's. An error ends them.
func (l *Log) Entries(ctx context.Context, h Head, from, to uint64) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		s, err := l.tiles()
		if err != nil {
			yield(nil, err)
			return
		}
		for p := range pieces(ctx, stretch{source: s, from: from, to: min(to, h.Size)}, func(ctx context.Context, from, to uint64) (p piece) {
			p.entries, p.err = s.entries(ctx, from, to, h.Size)
			return p
		}) {
			for i := range p.entries {
				if !yield(&p.entries[i], nil) {
					return
				}
			}
			if p.err != nil {
				yield(nil, p.err)
				return
			}
		}
		if ctx.Err() != nil {
			yield(nil, context.Cause(ctx))
		}
	}
}

// Consistency returns the proof that the tree over to entries of a static-ct log continues the one over from (RFC 6962 §2.1.2). It is
// put together from what the log serves, and not verified.
func (l *Log) Consistency(ctx context.Context, from, to uint64) ([][]byte, error) {
	s, err := l.tiles()
	if err != nil {
		return nil, err
	}
	return s.consistency(ctx, from, to)
}

// tiles is the source of a log that is known to be one of tiles.
func (l *Log) tiles() (*static, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s, ok := l.source.(*static); ok {
		return s, nil
	}
	return nil, fmt.Errorf("log %s is not a static-ct log", l.name)
}

// open finds out once of which kind the log is, and returns its newest head.
func (l *Log) open(ctx context.Context) (source, Head, error) {
	l.mu.Lock()
	known := l.source
	l.mu.Unlock()
	if known != nil {
		h, err := known.head(ctx)
		return known, h, err
	}
	var errs []error
	for _, s := range l.probe {
		h, err := s.head(ctx)
		if err == nil || Convicts(err) {
			l.mu.Lock()
			l.source = s
			l.mu.Unlock()
			return s, h, err
		}
		errs = append(errs, err)
		if !errors.Is(err, fs.ErrNotExist) { // it is there, and does not answer now
			return nil, Head{}, errors.Join(errs...)
		}
	}
	return nil, Head{}, fmt.Errorf("%w; if it is a static-ct log that is read elsewhere, write monitoring_url and origin", errors.Join(errs...))
}

// Close closes the connections to the log that wait for another call.
func (l *Log) Close() {
	l.mu.Lock()
	all := append([]source{l.source}, l.probe...)
	l.mu.Unlock()
	for _, s := range all {
		switch s := s.(type) {
		case *rfc:
			closeIdle(s.from)
		case *static:
			closeIdle(s.from)
		}
	}
}

func closeIdle(from getter) {
	if w, ok := from.(*web); ok {
		w.client.CloseIdleConnections()
	}
}
