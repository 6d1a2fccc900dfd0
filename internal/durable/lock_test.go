//go:build unix

package durable_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

func TestTryLock(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "lock")
	first, err := durable.TryLock(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := durable.TryLock(name); !errors.Is(err, durable.ErrLocked) {
		t.Fatalf("locked twice: %v", err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if err := first.Unlock(); err != nil {
		t.Fatal(err)
	}
	second, err := durable.TryLock(name)
	if err != nil {
		t.Fatalf("after Unlock: %v", err)
	}
	if ok, err := second.Holds(name); err != nil || !ok {
		t.Errorf("%v, %v", ok, err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if ok, err := second.Holds(name); err != nil || ok {
		t.Errorf("after the file was removed: %v, %v", ok, err)
	}
	third, err := durable.WaitLock(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []*durable.FileLock{second, third, nil} {
		if err := l.Unlock(); err != nil {
			t.Error(err)
		}
	}
}

// Unlock releases the lock although another descriptor of the same open file exists, as it does in a child process
// between fork and exec.
func TestUnlockWithCopy(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "lock")
	l, err := durable.TryLock(name)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("this system does not list the descriptors of a process: ", err)
	}
	copied := -1
	for _, e := range entries {
		var fd int
		for _, c := range e.Name() {
			fd = 10*fd + int(c-'0')
		}
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil && to == name {
			if copied, err = syscall.Dup(fd); err != nil {
				t.Fatal(err)
			}
		}
	}
	if copied < 0 {
		t.Fatal("the descriptor of the lock was not found")
	}
	defer syscall.Close(copied) //nolint:errcheck // nothing was written
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	again, err := durable.TryLock(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Unlock(); err != nil {
		t.Error(err)
	}
}

func TestLockSymbolicLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(dir, "lock")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	if _, err := durable.TryLock(link); err == nil {
		t.Error("a symbolic link was followed")
	}
}
