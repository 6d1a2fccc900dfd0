package tlog

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
	"github.com/mayfly-ca/mayfly/monitor"
)

const (
	// maxLag is how long a checkpoint may lag behind the tree before readiness warns.
	maxLag = 15 * time.Second
	// probeSize exceeds the size of most batches, so that a disk that is almost full does not appear to work.
	probeSize = 1 << 20
)

// health records whether entries can be stored. After a failed write no entry is accepted until a probe has shown that
// the storage works: a failed sync may have lost data of an earlier write from the page cache, on which further entries
// would depend.
type health struct {
	mu     sync.Mutex
	cause  error // why the storage is degraded; nil if it is healthy
	since  time.Time
	closed bool
	users  sync.WaitGroup // calls of [Log.Append] that may write files
}

func (h *health) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.refusal()
}

// refusal returns why no entry is accepted. The caller holds mu.
func (h *health) refusal() error {
	if h.closed {
		return errClosed
	}
	if h.cause != nil {
		return fmt.Errorf("the storage failed at %s and is probed until it works: %w",
			h.since.UTC().Format(time.RFC3339), h.cause)
	}
	return nil
}

// degraded returns why the storage is degraded, whether or not the log is closed, or nil.
func (h *health) degraded() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause
}

// set records a failure or, with nil, the end of one. It reports whether the state changed.
func (h *health) set(err error, now time.Time) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = (h.cause == nil) != (err == nil)
	if changed {
		h.since = now
	}
	h.cause = err
	return changed
}

// enter counts a call that may write files, until leave. It returns an error if no entry is accepted.
func (h *health) enter() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.refusal()
	if err == nil {
		h.users.Add(1)
	}
	return err
}

func (h *health) leave() { h.users.Done() }

// close accepts no more entries, and waits for the calls that may write files, no longer than ctx.
func (h *health) close(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.users.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// storageFailed stops accepting entries until [Log.repair] has found that the storage works.
func (l *Log) storageFailed(err error) {
	if errors.Is(err, errClosed) || !l.health.set(err, l.now()) {
		return
	}
	l.log.Error("the log cannot store entries", "log", l.label, "cause", err.Error())
	l.event("log-storage-failed", fmt.Sprintf("%s: %v", l.label, err))
	select {
	case l.degraded <- struct{}{}:
	default:
	}
}

// repair waits for failures of writes and checks the right edge. After a failure it probes the storage until it works.
// It returns when ctx ends.
func (l *Log) repair(ctx context.Context) {
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
		case <-l.degraded:
		}
		for failing := true; failing; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := l.probe(ctx); err != nil {
				l.health.set(err, l.now())
				continue
			}
			failing = false
		}
		l.health.set(nil, l.now())
		l.log.Info("the log can store entries again", "log", l.label)
		l.event("log-storage-works", l.label)
	}
}

// probe shows that the storage works: every directory of the log can be synced, which puts all file names on disk; a
// file can be written and synced; and the files on which the next entry depends can be read.
func (l *Log) probe(ctx context.Context) error {
	err := filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // a partial tile that was removed meanwhile
			return nil
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case path == filepath.Join(l.dir, shardsDir):
			return filepath.SkipDir // other shards are probed by their own logs
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

// storageReady returns an error where Tessera would end the process: if no file can be opened. It does not open the
// lock file itself, because closing any descriptor of that file would release Tessera's lock (fcntl(2), F_SETLK).
func (l *Log) storageReady() error {
	f, err := os.Open(filepath.Join(l.dir, stateDir, treeFile))
	if err != nil {
		return err
	}
	return f.Close()
}

// unavailable returns the error of a log that does not accept an entry.
func (l *Log) unavailable(err error) error {
	return fault.New(fault.LogUnavailable, fmt.Errorf("%s: %w", l.name(), err))
}

// name is the log's name in messages.
func (l *Log) name() string {
	if l.kind == Rekor {
		return "Rekor log"
	}
	return "embedded log"
}

// fileSnapshot is the state of a log's files when they were last read.
type fileSnapshot struct {
	at      time.Time // when the files were read
	size    uint64    // entries in the tree
	covered uint64    // entries that the checkpoint covers
	written time.Time // when the checkpoint was written
	err     error
}

// maxSnapshotAge is how old a snapshot may be. Files are read in the background: a disk that hangs must not delay
// readiness or metrics.
const maxSnapshotAge = 5 * time.Second

// watchFiles reads the files periodically until ctx ends. At most one read is under way, and nothing waits for it: it
// may hang with the disk.
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
				l.readFiles(ctx)
			}()
		}
	}
}

func (l *Log) readFiles(ctx context.Context) {
	seen := fileSnapshot{}
	if seen.size, seen.err = l.reader.IntegratedSize(ctx); seen.err != nil {
		seen.err = fmt.Errorf("the tree cannot be read: %w", seen.err)
	} else {
		var head monitor.Head
		if head, seen.written, seen.err = l.published(); seen.err != nil {
			seen.err = fmt.Errorf("the checkpoint cannot be read: %w", seen.err)
		}
		seen.covered = head.Size
	}
	if ctx.Err() == nil {
		seen.at = time.Now()
		l.snapshot.Store(&seen)
	}
}

// checkSnapshotAge returns an error if the files of an open log have not been read for too long.
func (l *Log) checkSnapshotAge() error {
	if seen := l.snapshot.Load(); seen != nil {
		if age := time.Since(seen.at); age > maxSnapshotAge+l.every {
			return fmt.Errorf("the storage has not answered for %s", age.Truncate(time.Second))
		}
	}
	return nil
}

// Health returns why entries cannot be stored, or nil. It reads no file.
func (l *Log) Health() error {
	if err := l.health.err(); err != nil {
		return err
	}
	return l.checkSnapshotAge()
}

// Warning describes what readers of the log lack: a checkpoint over the newest entries, or cosignatures. It is empty if
// nothing is wrong. It reads no file.
func (l *Log) Warning(context.Context) string {
	seen := l.snapshot.Load()
	switch {
	case seen == nil:
		return "the storage has not been read yet"
	case seen.err != nil:
		return seen.err.Error()
	}
	if age := time.Since(seen.written); seen.covered < seen.size && age > maxLag || age > republishEvery+time.Minute {
		return fmt.Sprintf("the checkpoint is %s old and covers %d of %d entries", age.Round(time.Second),
			seen.covered, seen.size)
	}
	if l.cosigner != nil {
		return l.cosigner.warning()
	}
	return ""
}

// published reads what the checkpoint on disk covers, and when it was written.
func (l *Log) published() (head monitor.Head, at time.Time, err error) {
	path := filepath.Join(l.dir, checkpointFile)
	st, err := os.Stat(path)
	if err != nil {
		return head, at, err
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return head, at, err
	}
	head, err = parseHead(raw, l.origin)
	return head, st.ModTime(), err
}
