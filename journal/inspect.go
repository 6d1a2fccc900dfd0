package journal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// inspectFile finds what would stop [openFile], for a process that changes nothing and takes no lock. start is a chain without records.
func inspectFile(path string, start chain) (err error) {
	if err := checkPlace(path); err != nil {
		return err
	}
	for _, suffix := range []string{"", headSuffix, lockSuffix} {
		if err := mayWrite(path + suffix); err != nil {
			return err
		}
	}
	// Whoever writes the journal may close a segment between two of our looks. A journal that is damaged stays so.
	for range 3 {
		if err = inspectEnd(path, start); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// inspectEnd reads the head first: what it says was acknowledged is in the file by then.
func inspectEnd(path string, start chain) error {
	h, headErr := readHead(path)
	s := &fileStore{path: path}
	if err := s.findEnd(start); err != nil {
		return err
	}
	return s.compareHead(h, headErr)
}

// mayWrite errs when this process may not write to a file that is there.
func mayWrite(path string) error {
	const read, write = 4, 2 // access(2)
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir():
		err = syscall.EISDIR
	case err == nil:
		err = syscall.Access(path, read|write)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "open", Path: filepath.Clean(path), Err: err}
	}
	return nil
}
