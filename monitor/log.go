package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"sync"

	"github.com/mayfly-ca/mayfly/loglist"
)

// Options specify which log is read, and how.
type Options struct {
	// Log describes the log. Key is the pinned key: a head counts only if this key verifies it. A log with a
	// MonitoringURL is read there as a static-ct log, which needs Origin. A log with only a URL is read as an RFC 6962
	// log if it answers get-sth, else, with Origin, as a static-ct log.
	Log loglist.Log
	// Format is what a tiled log contains. An opaque log is read in Dir or at MonitoringURL.
	Format Format
	// Dir is the directory of a tiled log on this machine. If it is set, the URLs are ignored.
	Dir       string
	Transport Transport
}

// source reads one kind of log.
type source interface {
	// head reads and verifies the newest head.
	head(ctx context.Context) (Head, error)
	// unit returns the end of the unit that contains the entry at from. Units are read as a whole.
	unit(from uint64) uint64
	// entries reads exactly the range [from, to), which lies in one unit, of a tree of size entries.
	entries(ctx context.Context, from, to, size uint64) ([]Entry, error)
	// consistency returns the proof that the tree of size to continues the tree of size from (RFC 6962 §2.1.2). The
	// caller verifies it.
	consistency(ctx context.Context, from, to uint64) ([][]byte, error)
	// mismatch returns a description of the entry of [from, to) that is not in the tree; empty if unknown.
	mismatch(ctx context.Context, from, to, size uint64) string
}

// Log reads one log. Its methods may be called by several goroutines.
type Log struct {
	name     string
	verifier headVerifier

	mu      sync.Mutex
	source  source
	sources []source // the possible kinds, until one of them has answered
}

// Open prepares to read a log. It opens no connection.
func Open(o Options) (*Log, error) {
	v, err := newHeadVerifier(o.Log, o.Format)
	if err != nil {
		return nil, err
	}
	l := &Log{name: o.Log.Name, verifier: v}
	if o.Dir != "" {
		l.source = &static{v, folder(o.Dir)}
		return l, needOrigin(o.Log)
	}
	prefix := o.Log.MonitoringURL
	if prefix == "" {
		prefix = o.Log.URL
	}
	w, err := newWeb(prefix, o.Transport)
	if err != nil {
		return nil, err
	}
	if o.Log.MonitoringURL != "" || o.Format == Opaque {
		l.source = &static{v, w}
		return l, needOrigin(o.Log)
	}
	l.sources = []source{&rfc6962Log{v, w}}
	if o.Log.Origin != "" {
		l.sources = append(l.sources, &static{v, w})
	}
	return l, nil
}

func needOrigin(l loglist.Log) error {
	if l.Origin == "" {
		return fmt.Errorf("log %s: its checkpoints cannot be verified without its origin; set origin", l.Name)
	}
	return nil
}

// Name returns the log's name.
func (l *Log) Name() string { return l.name }

// Format returns what the log contains.
func (l *Log) Format() Format { return l.verifier.format }

// Local reports whether the log is a directory on this machine.
func (l *Log) Local() bool {
	s, err := l.tiles()
	return err == nil && s.local()
}

// ID returns the log ID.
func (l *Log) ID() [32]byte { return l.verifier.id }

// Head reads the newest head and verifies it with the pinned key.
func (l *Log) Head(ctx context.Context) (Head, error) {
	_, h, err := l.open(ctx)
	return h, err
}

// OriginOf returns the origin in the checkpoint of the tiled log at MonitoringURL, which is not verified. A caller
// that has the log's key may pass the origin to [Open]: the log's heads are then verified with that key.
func OriginOf(ctx context.Context, o Options) (string, error) {
	w, err := newWeb(o.Log.MonitoringURL, o.Transport)
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

// Entries yields the entries [from, to) that h covers, as a tiled log serves them. They are not verified: only
// [Log.Check] and a [Follower] prove that entries are in the tree. The sequence ends with the first error.
func (l *Log) Entries(ctx context.Context, h Head, from, to uint64) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		s, err := l.tiles()
		if err != nil {
			yield(nil, err)
			return
		}
		read := func(ctx context.Context, from, to uint64) (u unit) {
			u.entries, u.err = s.entries(ctx, from, to, h.Size)
			return u
		}
		for p := range units(ctx, stretch{source: s, from: from, to: min(to, h.Size)}, read) {
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

// Consistency returns the proof that the tree of size to of a tiled log continues the tree of size from (RFC 6962
// §2.1.2). The proof is computed from the log's tiles, and not verified.
func (l *Log) Consistency(ctx context.Context, from, to uint64) ([][]byte, error) {
	s, err := l.tiles()
	if err != nil {
		return nil, err
	}
	return s.consistency(ctx, from, to)
}

// tiles returns the source of a log that is known to be a tiled log.
func (l *Log) tiles() (*static, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s, ok := l.source.(*static); ok {
		return s, nil
	}
	return nil, fmt.Errorf("log %s is not a tiled log", l.name)
}

// open determines the kind of the log, once, and returns the log's newest head.
func (l *Log) open(ctx context.Context) (source, Head, error) {
	l.mu.Lock()
	known := l.source
	l.mu.Unlock()
	if known != nil {
		h, err := known.head(ctx)
		return known, h, err
	}
	var errs []error
	for _, s := range l.sources {
		h, err := s.head(ctx)
		if err == nil || Misbehaved(err) {
			l.mu.Lock()
			l.source = s
			l.mu.Unlock()
			return s, h, err
		}
		errs = append(errs, err)
		if !errors.Is(err, fs.ErrNotExist) { // the log may be of this kind, but does not answer now
			return nil, Head{}, errors.Join(errs...)
		}
	}
	return nil, Head{}, fmt.Errorf("%w; for a static-ct log that is read at another URL, set monitoring_url and origin",
		errors.Join(errs...))
}

// Close closes idle connections. The log may still be used.
func (l *Log) Close() {
	l.mu.Lock()
	all := append([]source{l.source}, l.sources...)
	l.mu.Unlock()
	for _, s := range all {
		switch s := s.(type) {
		case *rfc6962Log:
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
