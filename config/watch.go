package config

import (
	"context"
	"crypto/sha256"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch calls changed when the content of one of files() changes, until ctx ends. It uses notifications of the
// operating system, and also reads the files at intervals, for file systems without notifications and files that cannot
// be watched. It watches directories, not files: an atomic rename by an editor and the symbolic links of a Kubernetes
// volume replace the file of a name. The first content of a file that neither the
// former files nor Known have is not a change.
func Watch(ctx context.Context, o WatchOptions, changed func()) {
	if o.Every == 0 {
		o.Every = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var events chan fsnotify.Event
	var failures chan error
	w, err := fsnotify.NewWatcher()
	if err != nil {
		o.Logger.Warn("configuration files cannot be watched; they are read at intervals", "cause",
			err.Error(), "every", o.Every)
	} else {
		defer w.Close() //nolint:errcheck // nothing was written
		events, failures = w.Events, w.Errors
	}
	tick := time.NewTicker(o.Every)
	defer tick.Stop()
	quiet := time.NewTimer(0) // fires when a burst of events has ended
	if !quiet.Stop() {
		<-quiet.C
	}
	known := map[string][32]byte{}
	var relevant map[string]bool
	compare := func() {
		files := o.Files()
		relevant = follow(w, files)
		now, read := Contents(files), o.Known()
		differs := false
		for name, sum := range now {
			before, ok := known[name]
			if !ok {
				before, ok = read[name]
			}
			differs = differs || ok && before != sum
		}
		if known = now; differs {
			changed()
		}
	}
	compare() // a file may have changed after the caller read it and before its directory was watched
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if e.Op&^(fsnotify.Write|fsnotify.Chmod) != 0 || relevant[e.Name] {
				quiet.Reset(settle)
			}
			continue
		case err := <-failures: // events were lost
			o.Logger.Warn("notifications of changes were lost; reading the configuration files", "cause", err.Error())
		case <-quiet.C:
		case <-o.Again:
		case <-tick.C:
		}
		compare()
	}
}

// WatchOptions for [Watch].
type WatchOptions struct {
	Files func() []string // absolute paths; called each time
	// Known returns the [Contents] of the files when the caller last read them. A file that is new in Files is compared
	// with it, so that a change between the reading and the start of the watch is not lost.
	Known func() map[string][32]byte
	// Again has a value when the caller has read the files again: they are compared at once, and directories of new
	// files are watched. Optional.
	Again  <-chan struct{}
	Every  time.Duration // 0: 10 s
	Logger *slog.Logger  // nil: none
}

// settle is how long no event may occur before files are read, so that a file that is truncated and rewritten is not
// read in between.
const settle = 50 * time.Millisecond

// follow watches the directories of the names and of the targets of their links. w may be nil. It returns the paths
// whose content is relevant. Writes to other files of the same directory, such as a log, are ignored; otherwise a busy
// server would constantly read its configuration. Every new name is relevant, because it may be a link in the path of a
// file.
func follow(w *fsnotify.Watcher, files []string) (relevant map[string]bool) {
	watched := map[string]bool{}
	if w != nil {
		for _, dir := range w.WatchList() {
			watched[dir] = true
		}
	}
	relevant = make(map[string]bool, 2*len(files))
	for _, f := range files {
		paths := []string{f}
		if behind, err := filepath.EvalSymlinks(f); err == nil {
			paths = append(paths, behind)
		}
		for _, p := range paths {
			relevant[p] = true
			if dir := filepath.Dir(p); w != nil && !watched[dir] {
				watched[dir] = true
				_ = w.Add(dir) // the files of a directory that cannot be watched are read at intervals
			}
		}
	}
	return relevant
}

// Contents returns digests of the contents by name. A file that cannot be read has a digest of zeros.
func Contents(files []string) map[string][32]byte {
	out := make(map[string][32]byte, len(files))
	for _, name := range files {
		out[name] = [32]byte{}
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, io.LimitReader(f, 16<<20)); err == nil {
			out[name] = [32]byte(sum.Sum(nil))
		}
		_ = f.Close() // only read
	}
	return out
}
