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

// Watch calls changed when the content of one of files() differs from what it was, until ctx ends. It is told of changes by the
// operating system, and looks by itself every now and then, for file systems that tell nothing. It watches folders, not files:
// an editor's atomic rename and the symbolic links of a Kubernetes volume change what a name means, not the file behind it.
// What it cannot watch it only looks at. A file that was not among files() before is taken as it is.
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
		o.Logger.Warn("configuration files cannot be watched; they are looked at now and then", "cause", err.Error(), "every", o.Every)
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
	known := o.Known
	for {
		if w != nil {
			follow(w, o.Files())
		}
		select {
		case <-ctx.Done():
			return
		case <-events:
			quiet.Reset(settle)
			continue
		case err := <-failures: // events were lost
			o.Logger.Warn("configuration files: look instead of listen", "cause", err.Error())
		case <-quiet.C:
		case <-tick.C:
		}
		now := Contents(o.Files())
		differs := false
		for name, sum := range now {
			before, ok := known[name]
			differs = differs || ok && before != sum
		}
		if known = now; differs {
			changed()
		}
	}
}

// WatchOptions for [Watch].
type WatchOptions struct {
	Files  func() []string     // absolute paths; asked each time
	Known  map[string][32]byte // [Contents] of the files as the caller knows them
	Every  time.Duration       // 0: 10 s
	Logger *slog.Logger        // nil: none
}

// settle is how long files must be left alone: a writer that truncates and writes is not read in between.
const settle = 50 * time.Millisecond

// follow watches the folders of the names and of what they point to.
func follow(w *fsnotify.Watcher, files []string) {
	watched := map[string]bool{}
	for _, dir := range w.WatchList() {
		watched[dir] = true
	}
	for _, f := range files {
		dirs := []string{filepath.Dir(f)}
		if behind, err := filepath.EvalSymlinks(f); err == nil {
			dirs = append(dirs, filepath.Dir(behind))
		}
		for _, dir := range dirs {
			if !watched[dir] {
				watched[dir] = true
				_ = w.Add(dir) // a folder that cannot be watched is looked at
			}
		}
	}
}

// Contents are digests of the contents, by name. A file that cannot be read has the digest of zeroes.
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
