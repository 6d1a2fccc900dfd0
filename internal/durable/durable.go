// Package durable writes files that survive a crash.
//
// The content is written to a temporary file in the same directory and synced, the file is renamed or linked, and the
// directory is synced. A reader, and the file system after a power failure, see either the whole old content or the
// whole new one.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// WriteFile replaces or creates the file name with the given permissions. When WriteFile returns nil, content and name
// are on disk. After an error the old file is unchanged, unless only syncing the directory failed.
func WriteFile(name string, data []byte, mode fs.FileMode) (err error) {
	temp, err := writeTemp(name, data, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, name); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return SyncDir(filepath.Dir(name))
}

// CreateFile creates the file name, which must not exist; otherwise the error is [fs.ErrExist]. If two callers create
// the same file, one fails. When CreateFile returns nil, content and name are on disk.
func CreateFile(name string, data []byte, mode fs.FileMode) error {
	temp, err := writeTemp(name, data, mode)
	if err != nil {
		return err
	}
	// link(2) does not replace; a file system without hard links, such as that of a memory stick, has no such call.
	err = os.Link(temp, name)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, errors.ErrUnsupported) {
		err = createInPlace(name, data, mode)
	}
	if err = errors.Join(err, os.Remove(temp)); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(name))
}

// createInPlace creates a file that is complete only when it returns nil. After an error it removes the file.
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

// writeTemp writes a new file in the directory of name and returns its name. Content and permissions are on disk.
func writeTemp(name string, data []byte, mode fs.FileMode) (string, error) {
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
