// Package durable writes files that survive a crash.
//
// A file is written beside its final name, synced, renamed or linked, and its directory is synced. Readers therefore see
// either the old content or the new one, in full, also after a power failure.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// WriteFile replaces the file name, or makes it, with the given permissions. When WriteFile returns without an error,
// content and name are on disk; after an error the former file is still there, unless only syncing the directory
// failed.
func WriteFile(name string, data []byte, mode fs.FileMode) (err error) {
	beside, err := writeBeside(name, data, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(beside, name); err != nil {
		return errors.Join(err, os.Remove(beside))
	}
	return SyncDir(filepath.Dir(name))
}

// CreateFile creates the file name, which must not exist: it replaces nothing, and of two callers one fails. The error
// is then an [fs.ErrExist]. When CreateFile returns without an error, content and name are on disk.
func CreateFile(name string, data []byte, mode fs.FileMode) error {
	beside, err := writeBeside(name, data, mode)
	if err != nil {
		return err
	}
	// link(2) does not replace; a file system without hard links, such as that of a memory stick, has no such call.
	err = os.Link(beside, name)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, errors.ErrUnsupported) {
		err = createInPlace(name, data, mode)
	}
	if err = errors.Join(err, os.Remove(beside)); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(name))
}

// createInPlace creates a file that is complete only when the function returns. A file that it could not complete is
// removed.
func createInPlace(name string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// writeBeside writes a new file in the directory of name and returns its name. Content and permissions are on disk.
func writeBeside(name string, data []byte, mode fs.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".new-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// SyncDir returns when the entries of the directory are on disk: created, renamed and removed files stay so after a
// power failure.
func SyncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
