//go:build unix

package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// noFollow is the flag of [os.OpenFile] that refuses a symbolic link.
const noFollow = syscall.O_NOFOLLOW

// errHeld is the error of lockFile for a file that is locked.
const errHeld = syscall.EWOULDBLOCK

func lockFile(f *os.File, wait bool) error {
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil { //nolint:gosec // a file descriptor fits into an int
		return &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	return nil
}

func unlockFile(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_UN) //nolint:gosec // as above
}

// SyncDir syncs a directory. Files that were created, renamed or removed in it before are still so after a crash.
func SyncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
