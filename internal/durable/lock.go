package durable

import (
	"errors"
	"fmt"
	"os"
)

// ErrLocked is the error of [TryLock] for a file that is locked already, by this process or another.
var ErrLocked = errors.New("locked by another process")

// FileLock is an exclusive lock on a file: flock(2), which is advisory, and LockFileEx on Windows. The system releases
// it when the process ends.
type FileLock struct{ f *os.File }

// TryLock locks the file name, which it makes if necessary, with permissions for its owner alone. It does not wait, and
// does not follow a symbolic link. The error wraps [ErrLocked] if the file is locked.
func TryLock(name string) (*FileLock, error) { return lock(name, false) }

// WaitLock is [TryLock], but waits until the file is unlocked. It is for locks that are held for milliseconds.
func WaitLock(name string) (*FileLock, error) { return lock(name, true) }

func lock(name string, wait bool) (*FileLock, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|noFollow, 0o600) //nolint:gosec // the caller's own file
	if err != nil {
		return nil, err
	}
	err = lockFile(f, wait)
	if err == nil {
		return &FileLock{f: f}, nil
	}
	if errors.Is(err, errHeld) {
		err = fmt.Errorf("%s: %w", name, ErrLocked)
	}
	return nil, errors.Join(err, f.Close())
}

// Holds reports whether name is still the file that is locked. It is not if the file was removed or replaced; another
// process can then lock the new file.
func (l *FileLock) Holds(name string) (bool, error) {
	locked, err := l.f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(name)
	return err == nil && os.SameFile(locked, named), nil
}

// Unlock releases the lock at once. Closing the file alone would not, as long as a child process that is being started
// has a copy of the descriptor. A nil lock has nothing to release.
func (l *FileLock) Unlock() error {
	if l == nil {
		return nil
	}
	return errors.Join(unlockFile(l.f), l.f.Close())
}
