package owner_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/mayfly-ca/mayfly/internal/owner"
)

func TestOf(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	of := func(want int) {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if uid, known := owner.Of(info); uid != want || !known {
			t.Errorf("%d, %t; want %d", uid, known, want)
		}
	}
	of(os.Geteuid())
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 4242, -1); err != nil {
			t.Fatal(err)
		}
		of(4242)
	}
	info, err := fstest.MapFS{"file": {}}.Stat("file") // has no owner
	if err != nil {
		t.Fatal(err)
	}
	if _, known := owner.Of(info); known {
		t.Error("a file in memory has an owner")
	}
	if _, known := owner.Of(nil); known {
		t.Error("no file has an owner")
	}
}
