package journal_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/journal"
)

// copyTo copies the journal at path into a directory, and returns the path of the copy.
func copyTo(t *testing.T, path, dir string) (string, journal.Copied) {
	t.Helper()
	copied, err := journal.Copy(path, func(f journal.CopiedFile) error {
		data, err := io.ReadAll(f.Content)
		if int64(len(data)) != f.Size {
			t.Errorf("%s: %d bytes, not %d", f.Name, len(data), f.Size)
		}
		return errors.Join(err, os.WriteFile(filepath.Join(dir, f.Name), data, f.Mode))
	})
	must(t, err)
	return filepath.Join(dir, filepath.Base(path)), copied
}

// A copy that is made while records are appended, over several segments, verifies, has every record that was
// acknowledged before, and is a journal that can be continued.
func TestCopy(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	c := journal.Config{File: path, MaxSize: "64KiB"}
	j := open(t, c, journal.Options{})
	stop := make(chan struct{})
	var writer sync.WaitGroup
	var written atomic.Uint64
	writer.Go(func() {
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := errors.Join(j.Append(t.Context(), intent(n)), j.Append(t.Context(), outcome(n))); err != nil {
				t.Error(err)
				return
			}
			written.Add(2)
		}
	})
	segments := 0
	for range 20 {
		acknowledged := written.Load()
		to, copied := copyTo(t, path, t.TempDir())
		summary, damage, err := journal.Verify(to, journal.VerifyOptions{})
		must(t, err)
		if len(damage) > 0 || summary.Last < copied.Seq || copied.Seq < acknowledged {
			t.Fatalf("%+v, %+v after %d: %+v", copied, summary, acknowledged, damage)
		}
		all, err := journal.Segments(to)
		must(t, err)
		segments = max(segments, len(all))
		continued := open(t, journal.Config{File: to, MaxSize: c.MaxSize}, journal.Options{})
		must(t, continued.Append(t.Context(), intent(1<<20)))
		must(t, continued.Close(t.Context(), 0))
	}
	close(stop)
	writer.Wait()
	must(t, j.Close(t.Context(), 0))
	if segments < 2 {
		t.Errorf("at most %d segments", segments)
	}
}

// A journal that lacks an acknowledged record, or has another one in its place, is not copied.
func TestCopyDamaged(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(data string) string{
		"is missing": func(data string) string { return data[:strings.LastIndex(data[:len(data)-1], "\n")+1] },
		"not a line": func(data string) string { return data + "x\n" },
		"differs":    func(data string) string { return data[:len(data)-67] + strings.Repeat("0", 64) + data[len(data)-3:] },
	} {
		path := filepath.Join(t.TempDir(), "journal.jsonl")
		j := open(t, journal.Config{File: path}, journal.Options{})
		must(t, j.Append(t.Context(), intent(1)))
		must(t, j.Append(t.Context(), outcome(1)))
		must(t, j.Close(t.Context(), 0))
		data, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, []byte(change(string(data))), 0o600))
		if _, err := journal.Copy(path, func(journal.CopiedFile) error { return nil }); err == nil ||
			!strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if copied, err := journal.Copy(filepath.Join(t.TempDir(), "none"), nil); err != nil || copied.Seq != 0 {
		t.Errorf("no journal: %+v, %v", copied, err)
	}
}
