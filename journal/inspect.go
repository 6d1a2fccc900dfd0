package journal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/journal/ship"
)

// Inspect finds, without changing anything, what would make [Open] fail: a path at which no journal can be written, a
// file that is not a journal or is damaged, secrets and certificates that cannot be read. Its errors are
// [fault.Setting] values. Another process may have the journal open and write to it.
func (c Config) Inspect() error {
	var errs []error
	key, err := c.Key.Read()
	if err != nil {
		errs = append(errs, fault.Under(err, "key"))
	} else if c.File != "" {
		if err := inspectFile(c.File, newChain(key)); err != nil {
			errs = append(errs, badJournal(err))
		}
	}
	if c.Subjects == SubjectsDigest {
		if _, err := c.ReadSalt(); err != nil && (c.Salt != nil || !errors.Is(err, fs.ErrNotExist)) {
			errs = append(errs, c.badSalt(err))
		}
	}
	receivers, err := ship.Open(c.Config, os.Stdout)
	if err == nil {
		receivers.Close()
	}
	return errors.Join(append(errs, err)...)
}

// badJournal returns an error about the journal's file as a setting. Most of them name the file and the remedy.
func badJournal(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return fault.BadFile(at.Path, err, "file")
	}
	return fault.BadSetting(err.Error(), "", "file")
}

func (c Config) badSalt(err error) error {
	var at *fs.PathError
	switch {
	case c.Salt != nil:
		return fault.Under(err, "salt")
	case errors.As(err, &at):
		return fault.BadFile(c.File+saltSuffix, err, "subjects")
	}
	return fault.BadSetting(err.Error(), "", "subjects")
}

// inspectFile finds what would make [openFile] fail, without changing anything or taking the lock. start is a chain
// without records.
func inspectFile(path string, start chain) (err error) {
	if err := checkPlace(path); err != nil {
		return err
	}
	for _, suffix := range []string{"", headSuffix, lockSuffix} {
		if err := mayWrite(path + suffix); err != nil {
			return err
		}
	}
	// The process that writes the journal may close a segment between two reads, so the check is repeated. A damaged
	// journal fails every time.
	for range 3 {
		if err = inspectEnd(path, start); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// inspectEnd reads the head first, because the records that it acknowledges are in the file by then.
func inspectEnd(path string, start chain) error {
	h, headErr := readHead(path)
	s := &fileStore{path: path}
	if err := s.findEnd(start); err != nil {
		return err
	}
	return s.compareHead(h, headErr)
}

// mayWrite returns an error if the file exists and this process may not write to it.
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
