package ceremony

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

// Output is a file that a ceremony makes.
type Output struct {
	Path   string
	What   string // for people
	Mode   fs.FileMode
	Secret bool // the file has a private key
	data   []byte
}

// Size returns the length of the file in bytes.
func (o Output) Size() int { return len(o.data) }

// create makes a file. It is a variable for tests.
type create func(name string, data []byte, mode fs.FileMode) error

// absent returns an error if one of the files exists.
func absent(paths []string) error {
	for _, path := range paths {
		switch _, err := os.Lstat(path); {
		case err == nil:
			return fmt.Errorf("%s exists, and existing files are never overwritten; write another "+
				"path, or move the file", path)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return nil
}

// writeAll writes the files in order. After an error, it removes the files that it wrote, because they are of no use
// without the others.
func writeAll(outputs []Output, put create) error {
	paths := pathsOf(outputs)
	if err := absent(paths); err != nil {
		return err
	}
	for _, o := range outputs {
		mode := fs.FileMode(0o755)
		if o.Secret {
			mode = 0o700
		}
		if err := os.MkdirAll(filepath.Dir(o.Path), mode); err != nil {
			return err
		}
	}
	for i, o := range outputs {
		err := put(o.Path, o.data, o.Mode)
		if err == nil {
			continue
		}
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%s was created by another process in the meantime; existing files are never overwritten",
				o.Path)
		}
		return errors.Join(err, removeAll(paths[:i]))
	}
	return nil
}

func pathsOf(outputs []Output) []string {
	paths := make([]string, 0, len(outputs))
	for _, o := range outputs {
		paths = append(paths, o.Path)
	}
	return paths
}

// removeAll removes files that this process has just written, the last one first.
func removeAll(paths []string) error {
	var errs []error
	for _, path := range slices.Backward(paths) {
		errs = append(errs, os.Remove(path), durable.SyncDir(filepath.Dir(path)))
	}
	return errors.Join(errs...)
}
