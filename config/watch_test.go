package config_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/config"
)

// G3: Watch reports a change of content however the file is replaced. A rewrite with the same content is not a change.
func TestWatch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	// A Kubernetes volume: files are links into ..data, which is a link to a directory that is replaced as a whole.
	do(os.MkdirAll(at("..1"), 0o700))
	do(os.MkdirAll(at("..2"), 0o700))
	write("..1/volume.yaml", "one")
	write("..2/volume.yaml", "two")
	do(os.Symlink("..1", at("..data")))
	do(os.Symlink("..data/volume.yaml", at("volume.yaml")))
	write("plain.yaml", "one")

	files := func() []string { return []string{at("plain.yaml"), at("volume.yaml")} }
	known := config.Contents(files())
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan struct{}, 16)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		config.Watch(ctx, config.WatchOptions{Files: files, Known: always(known), Every: 200 * time.Millisecond},
			func() { changes <- struct{}{} })
	}()
	seen := func(what string) {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(10 * time.Second):
			t.Fatalf("not seen: %s", what)
		}
	}
	write("warm-up", "") // not a watched file
	write("plain.yaml", "two")
	seen("a file written in place")
	write("plain.yaml.new", "three")
	do(os.Rename(at("plain.yaml.new"), at("plain.yaml")))
	seen("an atomic rename")
	do(os.Symlink("..2", at("..tmp")))
	do(os.Rename(at("..tmp"), at("..data")))
	seen("a swap of a symbolic link")
	do(os.Remove(at("plain.yaml")))
	seen("a file that is gone")
	write("plain.yaml.new", "three") // in one step: a reader between creation and content would see two changes
	do(os.Rename(at("plain.yaml.new"), at("plain.yaml")))
	seen("a file that is back")
	write("plain.yaml.new", "three")
	do(os.Rename(at("plain.yaml.new"), at("plain.yaml")))
	select {
	case <-changes:
		t.Error("the same content is a change")
	case <-time.After(500 * time.Millisecond):
	}
	cancel()
	<-ended
}

// Writes to a log in the directory of the configuration do not cause reads of the configuration, and do not hide a
// change.
func TestWatchBesideALog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := filepath.Join(dir, "plain.yaml")
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := os.WriteFile(at, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	files := func() []string {
		asked.Add(1)
		return []string{at}
	}
	known := config.Contents(files())
	ctx, cancel := context.WithCancel(t.Context())
	changes, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(ended)
		config.Watch(ctx, config.WatchOptions{Files: files, Known: always(known), Every: time.Hour},
			func() { changes <- struct{}{} })
	}()
	writing, stopped := context.WithCancel(t.Context())
	var lines sync.WaitGroup
	lines.Go(func() {
		for writing.Err() == nil {
			_, _ = log.WriteString("a line\n")
			time.Sleep(time.Millisecond) // at shorter intervals than a change needs to settle
		}
	})
	time.Sleep(200 * time.Millisecond) // 200 lines
	if n := asked.Load(); n > 2 {
		t.Errorf("200 lines of a log made the configuration be read %d times", n)
	}
	if err := os.WriteFile(at, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changes:
	case <-time.After(10 * time.Second):
		t.Error("the change was not seen while the log was written")
	}
	stopped()
	lines.Wait()
	cancel()
	<-ended
}

// G3: Watch reports a change between the caller's reading of the files and the start of the notifications, without
// waiting for the interval.
func TestWatchChangedBefore(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "mayfly.yaml")
	if err := os.WriteFile(name, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := func() []string { return []string{name} }
	known := config.Contents(files())
	if err := os.WriteFile(name, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	changes, ended := make(chan struct{}, 16), make(chan struct{})
	go func() {
		defer close(ended)
		config.Watch(ctx, config.WatchOptions{Files: files, Known: always(known), Every: time.Hour},
			func() { changes <- struct{}{} })
	}()
	select {
	case <-changes:
	case <-time.After(30 * time.Second):
		t.Error("a change before the start was not reported")
	}
	cancel()
	<-ended
}

// G3: a file that the caller names after a reload, and that changed between the reload and the next comparison, is a
// change; so is a file that did not exist at the reload. The directory of such a file is watched at once.
func TestWatchNewFiles(t *testing.T) {
	t.Parallel()
	main, late := filepath.Join(t.TempDir(), "mayfly.yaml"), filepath.Join(t.TempDir(), "state.json")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(main, "one")
	var files atomic.Pointer[[]string]
	var known atomic.Pointer[map[string][32]byte]
	files.Store(&[]string{main})
	known.Store(new(config.Contents([]string{main})))
	again := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	changes, ended := make(chan struct{}, 16), make(chan struct{})
	go func() {
		defer close(ended)
		config.Watch(ctx, config.WatchOptions{
			Files: func() []string { return *files.Load() }, Known: func() map[string][32]byte { return *known.Load() },
			Again: again, Every: time.Hour,
		}, func() { changes <- struct{}{} })
	}()
	seen := func(what string) {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(30 * time.Second):
			t.Fatalf("not reported: %s", what)
		}
	}
	known.Store(new(config.Contents([]string{main, late}))) // a reload: the file does not exist
	files.Store(&[]string{main, late})
	write(late, "one")
	again <- struct{}{}
	seen("a file that appeared after the reload")
	write(late, "two")
	seen("a change in the directory of the new file")
	cancel()
	<-ended
}

// always returns a function for the digests of files that are read once.
func always(known map[string][32]byte) func() map[string][32]byte {
	return func() map[string][32]byte { return known }
}
