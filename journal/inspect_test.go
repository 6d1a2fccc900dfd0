package journal_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/journal"
)

// G2: Inspect refuses what Open refuses, says what to do, and changes nothing, also while another process has the
// journal.
func TestInspect(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	j := open(t, journal.Config{File: filepath.Join(whole, "j")}, journal.Options{})
	for n := range 5 {
		must(t, j.Append(t.Context(), intent(n)))
	}
	must(t, (journal.Config{File: filepath.Join(whole, "j")}).Inspect())
	shut(t, j, 0)
	must(t, os.Remove(filepath.Join(whole, "j.lock")))
	key := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(key, []byte("a key that the journal was not made with"), 0o600))
	change := func(name string, to func([]byte) []byte) func(string) error {
		return func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, name), to(data), 0o600)
		}
	}
	for name, row := range map[string]struct {
		damage func(dir string) error
		key    *secret.Source
		want   string // "": it opens
	}{
		"whole":       {func(string) error { return nil }, nil, ""},
		"torn":        {change("j", func(b []byte) []byte { return append(b, '{') }), nil, ""},
		"no head":     {func(dir string) error { return os.Remove(filepath.Join(dir, "j.head")) }, nil, ""},
		"not there":   {os.RemoveAll, nil, "create it"},
		"cut":         {change("j", func(b []byte) []byte { return b[:len(b)/2] }), nil, "records are missing"},
		"edited":      {change("j", func(b []byte) []byte { b[20]++; return b }), nil, "records are missing"},
		"junk":        {func(dir string) error { return os.WriteFile(filepath.Join(dir, "j"), []byte("junk\n"), 0o600) }, nil, "records are missing"},
		"junk head":   {change("j.head", func([]byte) []byte { return []byte("junk") }), nil, "sequence number"},
		"another key": {func(string) error { return nil }, &secret.Source{File: key}, "audit.key has changed"},
		"no journal": {func(dir string) error {
			must(t, os.Remove(filepath.Join(dir, "j.head")))
			return os.WriteFile(filepath.Join(dir, "j"), []byte("junk\n"), 0o600)
		}, nil, "is not a journal"},
		"folder as lock": {
			func(dir string) error { return os.Mkdir(filepath.Join(dir, "j.lock"), 0o700) }, nil,
			"is a directory",
		},
	} {
		dir := filepath.Join(t.TempDir(), "copy")
		must(t, os.CopyFS(dir, os.DirFS(whole)))
		must(t, row.damage(dir))
		c := journal.Config{File: filepath.Join(dir, "j"), Key: row.key}
		before := contents(t, dir)
		err := c.Inspect()
		if after := contents(t, dir); after != before {
			t.Errorf("%s: %s became %s", name, before, after)
		}
		if (err == nil) != (row.want == "") ||
			err != nil && (!strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "; ")) {
			t.Errorf("%s: %v", name, err)
		}
		again, openErr := journal.Open(c, journal.Options{})
		if (openErr == nil) != (err == nil) {
			t.Errorf("%s: Inspect says %v, Open says %v", name, err, openErr)
		}
		if openErr == nil {
			shut(t, again, 0)
		}
	}
}

// contents has the names and the content of the files in dir.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	entries, _ := os.ReadDir(dir) // it may be gone
	for _, e := range entries {
		data, _ := os.ReadFile(filepath.Join(dir, e.Name())) // it may be a folder
		fmt.Fprintf(&out, "%s %q\n", e.Name(), data)
	}
	return out.String()
}
