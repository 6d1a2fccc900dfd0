package durable_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

func TestWriteFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	for _, content := range []string{"first", "", "a longer second content"} {
		if err := durable.WriteFile(name, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(got, []byte(content)) {
			t.Errorf("read %q, %v; want %q", got, err, content)
		}
	}
	st, err := os.Stat(name)
	if err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v; want 0640", st.Mode(), err)
	}
	// A target that cannot be replaced stays as it is, and nothing is left beside it.
	if err := os.MkdirAll(filepath.Join(dir, "folder", "child"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "folder"), []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if err := durable.WriteFile(filepath.Join(dir, "absent", "file"), nil, 0o600); err == nil {
		t.Error("no error for a directory that does not exist")
	}
	all, err := os.ReadDir(dir)
	if err != nil || len(all) != 2 {
		t.Errorf("left in the directory: %v, %v", all, err)
	}
}
