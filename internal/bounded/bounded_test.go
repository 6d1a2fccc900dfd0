package bounded_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/bounded"
)

func TestRead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text  string
		limit int64
		ok    bool
	}{{"", 0, true}, {"a", 0, false}, {"abc", 3, true}, {"abcd", 3, false}, {strings.Repeat("a", 1<<20), 3, false}} {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := strings.NewReader(c.text)
		fromReader, err := bounded.ReadAll(r, c.limit)
		fromFile, fileErr := bounded.ReadFile(name, c.limit)
		if c.ok {
			if string(fromReader) != c.text || string(fromFile) != c.text || err != nil || fileErr != nil {
				t.Errorf("%d bytes of at most %d: %v, %v", len(c.text), c.limit, err, fileErr)
			}
			continue
		}
		for _, err := range []error{err, fileErr} {
			if e, ok := errors.AsType[*bounded.TooLargeError](err); !ok || e.Limit != c.limit {
				t.Errorf("%d bytes of at most %d: %v", len(c.text), c.limit, err)
			}
		}
		if fromReader != nil || fromFile != nil {
			t.Error("data together with an error")
		}
		if read := int64(len(c.text) - r.Len()); read > c.limit+1 {
			t.Errorf("%d bytes were read; the limit is %d", read, c.limit)
		}
	}
	if _, err := bounded.ReadFile(filepath.Join(t.TempDir(), "none"), 1); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
