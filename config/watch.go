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
	meant := follow(w, o.Files())
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if e.Op&^(fsnotify.Write|fsnotify.Chmod) != 0 || meant[e.Name] {
				quiet.Reset(settle)
			}
			continue
		case err := <-failures: // events were lost
			o.Logger.Warn("configuration files: look instead of listen", "cause", err.Error())
		case <-quiet.C:
		case <-tick.C:
		}
		files := o.Files()
		meant = follow(w, files)
		now := Contents(files)
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

// follow watches the folders of the names and of what they point to. w may be nil. It returns the paths whose content counts:
// a file beside them that is only written, such as a log, is of no interest however often it is. Were it looked at each time, a
// busy server would read its configuration all day, and never while the writing goes on. A new name is of interest whatever it
// is: it may be a link that a name goes through.
func follow(w *fsnotify.Watcher, files []string) (meant map[string]bool) {
	watched := map[string]bool{}
	if w != nil {
		for _, dir := range w.WatchList() {
			watched[dir] = true
		}
	}
	meant = make(map[string]bool, 2*len(files))
	for _, f := range files {
		paths := []string{f}
		if behind, err := filepath.EvalSymlinks(f); err == nil {
			paths = append(paths, behind)
		}
		for _, p := range paths {
			meant[p] = true
			if dir := filepath.Dir(p); w != nil && !watched[dir] {
				watched[dir] = true
				_ = w.Add(dir) // a folder that cannot be watched is looked at
			}
		}
	}
	return meant
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
