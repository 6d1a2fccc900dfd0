package embedded_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/testkit/ondisk"
	"github.com/mayfly-ca/mayfly/tlog"
)

// F9: a damaged file at the right edge of the tree ends readiness, with the name of the file, before a request depends
// on it, while the log runs and at a start. When the file is restored, the log continues.
func TestRightEdge(t *testing.T) {
	t.Parallel()
	for _, size := range []int{3, 256, 300} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			o := tlog.Options{Every: 10 * time.Millisecond}
			l, err := embedded.Open(t.Context(), embedded.Config{Dir: dir, Origin: origin}, o)
			if err != nil {
				t.Fatal(err)
			}
			var callers sync.WaitGroup
			for n := range size {
				callers.Go(func() {
					if _, err := l.Submit(t.Context(), precert(n)); err != nil {
						t.Error(err)
					}
				})
			}
			callers.Wait()
			edge := []string{
				fmt.Sprintf("tile/0/%03d.p/%d", size/256, size%256),
				fmt.Sprintf("tile/data/%03d.p/%d", size/256, size%256),
			}
			switch {
			case size%256 == 0:
				edge = []string{"tile/1/000.p/1"}
			case size > 256:
				edge = append(edge, "tile/1/000.p/1")
			}
			damages := map[string]func(string) error{
				"gone":      os.Remove,
				"a byte":    func(path string) error { return cutEnd(path, 1) },
				"a hash":    func(path string) error { return cutEnd(path, 32) },
				"all of it": func(path string) error { return os.Truncate(path, 0) },
			}
			for _, name := range edge {
				for what, damage := range damages {
					path := filepath.Join(dir, filepath.FromSlash(name))
					good, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					if err := damage(path); err != nil {
						t.Fatal(err)
					}
					until(t, "noticed: "+name+" without "+what, func() bool { return l.Health() != nil })
					if err := l.Health(); err != nil &&
						!strings.Contains(err.Error(), strings.TrimPrefix(name, "tile/")) ||
						!strings.Contains(fmt.Sprint(err), "restore") {
						t.Errorf("%s without %s: %v", name, what, err)
					}
					if err := os.WriteFile(path, good, 0o644); err != nil {
						t.Fatal(err)
					}
					until(t, "recovered: "+name, func() bool { return l.Health() == nil })
				}
			}
			submit(t, l, size)
			shut(t, l)
			last := filepath.Join(dir, filepath.FromSlash(fmt.Sprintf("tile/0/%03d.p/%d", (size+1)/256, (size+1)%256)))
			if err := os.Remove(last); err != nil {
				t.Fatal(err)
			}
			again, err := embedded.Open(t.Context(), embedded.Config{Dir: dir, Origin: origin}, o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { shut(t, again) })
			if again.Health() == nil {
				t.Error("a start does not notice it")
			}
		})
	}
}

func cutEnd(path string, n int64) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, st.Size()-n)
}

// G2: a directory that Inspect accepts can be opened. Inspect names the file that it refuses, and changes nothing.
func TestInspect(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	l := open(t, whole)
	submit(t, l, 0)
	if err := tlog.Inspect(embedded.Config{Dir: whole, Origin: origin}.Log()); err != nil {
		t.Errorf("beside a process that has it: %v", err)
	}
	shut(t, l)
	write := func(name, text string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600) }
	}
	inPlace := func(name string, put func(string) error) func(string) error {
		return func(dir string) error {
			path := filepath.Join(dir, name)
			return errors.Join(os.RemoveAll(path), put(path))
		}
	}
	folder := func(path string) error { return os.Mkdir(path, 0o700) }
	file := func(path string) error { return os.WriteFile(path, nil, 0o600) }
	gone := func(string) error { return nil }
	for name, row := range map[string]struct {
		change func(dir string) error
		want   string // "": it opens
	}{
		"whole":               {func(string) error { return nil }, ""},
		"not there":           {os.RemoveAll, ""},
		"no tree":             {inPlace(".state/treeState", folder), "treeState"},
		"junk for a tree":     {write(".state/treeState", "junk"), "treeState"},
		"another layout":      {write(".state/version", "2"), "version"},
		"junk for a version":  {write(".state/version", "junk"), "version"},
		"junk for checkpoint": {write("checkpoint", "junk"), "checkpoint"},
		"no checkpoint":       {inPlace("checkpoint", gone), ""},
		"another origin":      {write("origin", "other.test/ct\n"), "origin"},
		"no origin":           {inPlace("origin", gone), ""},
		"a folder as origin":  {inPlace("origin", folder), "origin"},
		"a folder as lock":    {inPlace("lock", folder), "lock"},
		"a file as issuer":    {inPlace("issuer", file), "issuer"},
		"no key":              {inPlace("log.key.pem", gone), "log.key.pem"},
		"junk for a key":      {write("log.key.pem", "junk"), "log.key.pem"},
		"no public key":       {inPlace("log.pub.pem", gone), ""},
		"junk for shards":     {write("shards.json", "junk"), "shards.json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := embedded.Config{Dir: filepath.Join(t.TempDir(), "log"), Origin: origin}
			if err := errors.Join(os.CopyFS(c.Dir, os.DirFS(whole)), row.change(c.Dir)); err != nil {
				t.Fatal(err)
			}
			before := ondisk.Listing(t, c.Dir)
			err := tlog.Inspect(c.Log())
			if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("Inspect: %v", err)
			}
			if after := ondisk.Listing(t, c.Dir); after != before {
				t.Errorf("Inspect changed\n%s\nto\n%s", before, after)
			}
			s, openErr := embedded.OpenStore(t.Context(), c, tlog.Options{})
			if openErr == nil {
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if openErr != nil && err == nil {
				t.Errorf("Inspect accepts what does not open: %v", openErr)
			}
		})
	}
}

// F9: a log whose key was replaced does not start: monitors would reject its signatures.
func TestAnotherKey(t *testing.T) {
	t.Parallel()
	dirs := []string{t.TempDir(), t.TempDir()}
	for _, dir := range dirs {
		l, err := embedded.Open(t.Context(), embedded.Config{Dir: dir, Origin: origin}, tlog.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Submit(t.Context(), precert(1)); err != nil {
			t.Error(err)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c := embedded.Config{Dir: dirs[0], Origin: origin}
	if err := tlog.Inspect(c.Log()); err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(filepath.Join(dirs[1], "log.key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dirs[0], "log.key.pem"), other, 0o600); err != nil {
		t.Fatal(err)
	}
	_, opened := embedded.Open(t.Context(), c, tlog.Options{})
	for _, err := range []error{opened, tlog.Inspect(c.Log())} {
		if err == nil || !strings.Contains(err.Error(), "log.key.pem: this key did not sign") {
			t.Errorf("error is %v", err)
		}
	}
}
