package embedded_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tlog"
)

// copyTo copies the log in dir into another directory.
func copyTo(t *testing.T, c embedded.Config, to string) []tlog.Copied {
	t.Helper()
	seen := map[string]bool{}
	copied, err := c.Log().Copy(t.Context(), func(f tlog.File) error {
		if seen[f.Name] || !filepath.IsLocal(f.Name) {
			t.Errorf("%s is copied twice, or not below the directory", f.Name)
		}
		seen[f.Name] = true
		at := filepath.Join(to, filepath.FromSlash(f.Name))
		return errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, f.Data, f.Mode))
	})
	if err != nil {
		t.Fatal(err)
	}
	return copied
}

// A copy that is made while entries are added is one state of the log: its tiles give the root of its tree, it has
// every entry that was acknowledged before the copy began, and a log that continues from it accepts entries.
func TestCopyUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir)
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for w := range 16 {
		writers.Go(func() {
			for n := w; ctx.Err() == nil; n += 16 {
				if _, err := l.Submit(context.WithoutCancel(ctx), precert(n)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	c := embedded.Config{Dir: dir, Origin: origin}
	var last uint64
	for range 4 {
		if _, err := l.Submit(t.Context(), precert(1<<20)); err != nil {
			t.Fatal(err)
		}
		to := t.TempDir()
		copied := copyTo(t, c, to)
		one := copied[0]
		if len(copied) != 1 || one.Size <= last || one.Checkpoint > one.Size {
			t.Fatalf("%+v after %d entries", copied, last)
		}
		last = one.Size
		second := open(t, to)
		if _, err := second.Submit(t.Context(), precert(1)); err != nil {
			t.Error(err)
		}
		size, root := head(t, second, one.Size+1)
		if size != one.Size+1 {
			t.Errorf("%d entries, want %d", size, one.Size+1)
		}
		if leaves, computed := tree(t, second, size); !bytes.Equal(computed, root) || uint64(len(leaves)) != size {
			t.Errorf("%d leaves, which do not give the root of the checkpoint", len(leaves))
		}
		shut(t, second)
	}
	stop()
	writers.Wait()
	shut(t, l)
	if last < 300 {
		t.Skipf("only %d entries: no tile was full", last)
	}
}

// A restored log is not opened, and config check says so, until its shards are replaced: the old shard has a checkpoint
// over its entries and takes no more, the new one has another key.
func TestRestoredLog(t *testing.T) {
	t.Parallel()
	dir, to := t.TempDir(), t.TempDir()
	c := embedded.Config{Dir: dir, Origin: origin}
	s := openStore(t, c, tlog.Options{})
	for n := range 3 {
		if _, err := s.Open()[0].Log.Submit(t.Context(), precert(n)); err != nil {
			t.Fatal(err)
		}
	}
	copied := copyTo(t, c, to)
	shutStore(t, s)
	if err := tlog.Fence(to, tlog.Mark{Copied: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}); err != nil {
		t.Fatal(err)
	}
	restored := embedded.Config{Dir: to, Origin: c.Origin}
	if _, err := embedded.OpenStore(t.Context(), restored, tlog.Options{}); err == nil ||
		!strings.Contains(err.Error(), "restored from a backup of 2026-01-02T03:04:05Z") {
		t.Errorf("opened: %v", err)
	}
	if err := tlog.Inspect(restored.Log()); err == nil || !strings.Contains(err.Error(), "log rotate --restored") {
		t.Errorf("inspected: %v", err)
	}
	if _, err := c.Log().Replace(t.Context(), tlog.Options{}); err == nil {
		t.Error("a log that was not restored was replaced")
	}
	made, err := restored.Log().Replace(t.Context(), tlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	shards, err := restored.Log().Shards()
	if err != nil || len(shards) != 2 || shards[0].Closed.IsZero() || shards[1].Name != made.Name ||
		shards[0].LogID == shards[1].LogID {
		t.Fatalf("%+v, %v", shards, err)
	}
	description, err := restored.Log().Describe(shards[0])
	if err != nil {
		t.Fatal(err)
	}
	old, err := monitor.Open(monitor.Options{Log: loglist.Log{Key: description.Key, Origin: c.Origin}, Dir: to})
	if err != nil {
		t.Fatal(err)
	}
	if h, err := old.Head(t.Context()); err != nil || h.Size != copied[0].Size || h.Size < 3 {
		t.Errorf("%+v, %v; %+v was copied", h, err, copied)
	}
	again := openStore(t, restored, tlog.Options{})
	defer shutStore(t, again)
	if open := again.Open(); len(open) != 1 || open[0].Name != made.Name {
		t.Errorf("open: %s", names(open))
	} else if _, err := open[0].Log.Submit(t.Context(), precert(9)); err != nil {
		t.Error(err)
	}
}

// A shard for the future continues after the one that replaces the restored ones.
func TestRestoredWithFuture(t *testing.T) {
	t.Parallel()
	dir, to := t.TempDir(), t.TempDir()
	c := embedded.Config{Dir: dir, Origin: origin}
	future, err := c.Log().MakeShard(tlog.Rotation{At: time.Now().Add(60 * 24 * time.Hour)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	shutStore(t, openStore(t, c, tlog.Options{}))
	copyTo(t, c, to)
	if err := tlog.Fence(to, tlog.Mark{Copied: time.Now()}); err != nil {
		t.Fatal(err)
	}
	restored := embedded.Config{Dir: to, Origin: c.Origin}
	made, err := restored.Log().Replace(t.Context(), tlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, restored, tlog.Options{})
	defer shutStore(t, s)
	if got := names(s.Open()); !strings.Contains(got, made.Name) || !strings.Contains(got, future.Name) ||
		len(s.Open()) != 2 {
		t.Errorf("%s", got)
	}
}
