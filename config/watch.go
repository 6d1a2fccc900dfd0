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
// What it cannot watch it only looks at.
func Watch(ctx context.Context, o WatchOptions, changed func()) {
	if o.Every == 0 {
		o.Every = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var events chan fsnotify.Event
	w, err := fsnotify.NewWatcher()
	if err != nil {
		o.Logger.Warn("configuration files cannot be watched; they are looked at now and then", "cause", err.Error(), "every", o.Every)
	} else {
		defer w.Close() //nolint:errcheck // nothing was written
		events = w.Events
	}
	tick := time.NewTicker(o.Every)
	defer tick.Stop()
	quiet := time.NewTimer(0) // fires when a burst of events has ended
	if !quiet.Stop() {
		<-quiet.C
	}
	last := o.Known
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
		case <-quiet.C:
		case <-tick.C:
		}
		if now := Contents(o.Files()); now != last {
			last = now
			changed()
		}
	}
}

// WatchOptions for [Watch].
type WatchOptions struct {
	Files  func() []string // absolute paths; asked again after every change
	Known  [32]byte        // [Contents] of the files as the caller knows them
	Every  time.Duration   // 0: 10 s
	Logger *slog.Logger    // nil: none
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

// Contents is a digest over names and contents. A file that cannot be read counts as another content.
func Contents(files []string) [32]byte {
	all := sha256.New()
	for _, name := range files {
		all.Write([]byte(name))
		sum := sha256.New()
		f, err := os.Open(name)
		if err == nil {
			_, err = io.Copy(sum, io.LimitReader(f, 16<<20))
			_ = f.Close() // only read
		}
		if err != nil {
			all.Write([]byte("?"))
		}
		all.Write(sum.Sum(nil))
	}
	return [32]byte(all.Sum(nil))
}
