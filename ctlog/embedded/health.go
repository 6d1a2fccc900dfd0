package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
)

const (
	// late is how long a checkpoint may lag behind the tree before readiness says so.
	late = 15 * time.Second
	// probeSize is more than most groups of entries take, so that a disk that is almost full does not seem to work in between.
	probeSize = 1 << 20
)

// health is whether entries can be stored. After a failed write nothing is taken until the storage has proved that it works: a
// failed sync may have lost what an earlier write put into the page cache, so that going on as if nothing had happened would build
// on it.
type health struct {
	mu     sync.Mutex
	broken error
	since  time.Time
	closed bool
}

func (h *health) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errClosed
	}
	if h.broken != nil {
		return fmt.Errorf("the storage failed at %s and is tried again and again: %w", h.since.UTC().Format(time.RFC3339), h.broken)
	}
	return nil
}

// sound is nil unless the storage has failed, whether or not the log is closed.
func (h *health) sound() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.broken
}

// set notes a failure or, with nil, the end of one. It reports whether that is news.
func (h *health) set(err error, now time.Time) (news bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	news = (h.broken == nil) != (err == nil)
	if news {
		h.since = now
	}
	h.broken = err
	return news
}

func (h *health) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}

// storageFailed stops the taking of entries until [Log.mend] has found the storage to work.
func (l *Log) storageFailed(err error) {
	if errors.Is(err, errClosed) || !l.health.set(err, l.signer.now()) {
		return
	}
	l.log.Error("the embedded log cannot store entries", "log", l.label, "cause", err.Error())
	l.event("log-storage-failed", fmt.Sprintf("%s: %v", l.label, err))
	select {
	case l.hurt <- struct{}{}:
	default:
	}
}

// mend waits for failures, of writes and of the right edge, and then tries the storage until it works, until ctx ends.
func (l *Log) mend(ctx context.Context) {
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := l.rightEdge(ctx); err != nil && ctx.Err() == nil {
				l.storageFailed(err)
			}
			continue
		case <-l.hurt:
		}
		for broken := true; broken; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := l.probe(ctx); err != nil {
				l.health.set(err, l.signer.now())
				continue
			}
			broken = false
		}
		l.health.set(nil, l.signer.now())
		l.log.Info("the embedded log can store entries again", "log", l.label)
		l.event("log-storage-works", l.label)
	}
}

// probe proves that the storage works: every directory of the log syncs, so that all names that files were given are on disk; a file
// can be written and synced; and what the next entry builds on can be read.
func (l *Log) probe(ctx context.Context) error {
	err := filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // a partial tile that was swept away
			return nil
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case path == filepath.Join(l.dir, shardsDir):
			return filepath.SkipDir // they are logs of their own
		}
		if err := durable.SyncDir(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := l.storageReady(); err != nil {
		return err
	}
	if err := l.rightEdge(ctx); err != nil {
		return err
	}
	size, err := l.reader.IntegratedSize(ctx)
	if err != nil {
		return err
	}
	tiles := filepath.Join(l.dir, "tile") // where entries go
	if size == 0 {
		if err := os.MkdirAll(tiles, 0o755); err != nil { //nolint:gosec // a public log
			return err
		}
	}
	name := filepath.Join(tiles, ".probe")
	if err := durable.WriteFile(name, make([]byte, probeSize), 0o644); err != nil {
		return err
	}
	return os.Remove(name)
}

// storageReady errs where the storage library would end the process: when no file can be opened. It stays off the lock file itself,
// because closing any descriptor of that would release the library's lock (fcntl(2), F_SETLK).
func (l *Log) storageReady() error {
	f, err := os.Open(filepath.Join(l.dir, ".state", "treeState"))
	if err != nil {
		return err
	}
	return f.Close()
}

// unavailable is the error of a Submit.
func unavailable(err error) error {
	return fault.New(fault.LogUnavailable, fmt.Errorf("embedded log: %w", err))
}

// look is what the files of a log said when they were read last.
type look struct {
	at      time.Time // when they were read
	size    uint64    // entries in the tree
	covered uint64    // entries that the checkpoint covers
	written time.Time // when the checkpoint was written
	err     error
}

// blind is how old a look may be. Files are read in the background: a disk that hangs must not hold up readiness or
// metrics.
const blind = 5 * time.Second

// watchFiles looks at the files again and again until ctx ends. A look that hangs is waited for by nobody, and there is
// one at most.
func (l *Log) watchFiles(ctx context.Context) {
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	var busy atomic.Bool
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if busy.CompareAndSwap(false, true) {
			go func() {
				defer busy.Store(false)
				l.lookAtFiles(ctx)
			}()
		}
	}
}

func (l *Log) lookAtFiles(ctx context.Context) {
	seen := look{}
	if seen.size, seen.err = l.reader.IntegratedSize(ctx); seen.err != nil {
		seen.err = fmt.Errorf("the tree cannot be read: %w", seen.err)
	} else if seen.covered, seen.written, seen.err = l.published(); seen.err != nil {
		seen.err = fmt.Errorf("the checkpoint cannot be read: %w", seen.err)
	}
	if ctx.Err() == nil {
		seen.at = time.Now()
		l.seen.Store(&seen)
	}
}

// hangs is an error while the files of an open log have not been read for too long.
func (l *Log) hangs() error {
	if seen := l.seen.Load(); seen != nil {
		if age := time.Since(seen.at); age > blind+l.every {
			return fmt.Errorf("the storage has not answered for %s", age.Truncate(time.Second))
		}
	}
	return nil
}

// Health is nil while entries can be stored. It reads nothing.
func (l *Log) Health() error {
	if err := l.health.err(); err != nil {
		return err
	}
	return l.hangs()
}

// Warning says what readers of the log miss: a checkpoint over the newest entries, or cosignatures. "" is nothing. It
// reads nothing.
func (l *Log) Warning(context.Context) string {
	seen := l.seen.Load()
	switch {
	case seen == nil:
		return "the storage has not been read yet"
	case seen.err != nil:
		return seen.err.Error()
	}
	if age := time.Since(seen.written); seen.covered < seen.size && age > late || age > republishEvery+time.Minute {
		return fmt.Sprintf("the checkpoint is %s old and covers %d of %d entries", age.Round(time.Second),
			seen.covered, seen.size)
	}
	if l.cosigner != nil {
		return l.cosigner.warning()
	}
	return ""
}

// published reads what the checkpoint on disk covers, and when it was written.
func (l *Log) published() (size uint64, at time.Time, err error) {
	path := filepath.Join(l.dir, checkpointFile)
	st, err := os.Stat(path)
	if err != nil {
		return 0, at, err
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, at, err
	}
	head, err := parseHead(raw, l.signer.origin)
	return head.Size, st.ModTime(), err
}
