package input_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mayfly-ca/mayfly/internal/input"
)

const most = 4 << 20 // bytes, as the documentation of Read says

func TestReadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for name, c := range map[string]struct {
		file string
		size int
		err  string // a part of it
	}{
		"a file":           {path("one", "text"), 4, ""},
		"the largest file": {path("most", strings.Repeat("x", most)), most, ""},
		"too large":        {path("more", strings.Repeat("x", most+1)), 0, "more is larger than 4194304 bytes"},
		"empty":            {path("empty", ""), 0, "empty is empty"},
		"missing":          {filepath.Join(dir, "none"), 0, "none: no such file"},
		"a directory":      {dir, 0, "is a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := input.Read(strings.NewReader("not this"), c.file)
			if len(data) != c.size || (err == nil) != (c.err == "") ||
				err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%d bytes, %v; want %d bytes, %q", len(data), err, c.size, c.err)
			}
		})
	}
	if _, err := input.Read(nil, filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v is not fs.ErrNotExist, so that no advice is given", err)
	}
}

func TestReadStandardInput(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		size int
		err  string
	}{
		"text":      {"text", 4, ""},
		"largest":   {strings.Repeat("x", most), most, ""},
		"too large": {strings.Repeat("x", most+1), 0, "- is larger than 4194304 bytes"},
		"empty":     {"", 0, "- is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := input.Read(strings.NewReader(c.text), "-")
			if len(data) != c.size || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
				t.Errorf("%d bytes, %v; want %d bytes, %q", len(data), err, c.size, c.err)
			}
		})
	}
	broken := errors.New("broken pipe")
	if data, err := input.Read(iotest.ErrReader(broken), "-"); data != nil || !errors.Is(err, broken) {
		t.Errorf("a stream that fails: %q, %v", data, err)
	}
}

// Without a stream, "-" is a file like any other.
func TestReadFileNamedMinus(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("-", []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := input.Read(nil, "-"); err != nil || string(data) != "text" {
		t.Errorf("%q, %v", data, err)
	}
}
