package durable

import (
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

// noFollow is 0: the system has no flag that refuses a symbolic link, and only administrators can create one.
const noFollow = 0

// errHeld is the error of lockFile for a file that is locked.
const errHeld = windows.ERROR_LOCK_VIOLATION

func lockFile(f *os.File, wait bool) error {
	flags := uint32(windows.LOCKFILE_EXCLUSIVE_LOCK)
	if !wait {
		flags |= windows.LOCKFILE_FAIL_IMMEDIATELY
	}
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{})
	if err != nil {
		return &fs.PathError{Op: "LockFileEx", Path: f.Name(), Err: err}
	}
	return nil
}

func unlockFile(f *os.File) error {
	return windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, &windows.Overlapped{})
}

// SyncDir does nothing: the system has no such operation, and NTFS writes renames to its own journal.
func SyncDir(string) error { return nil }
