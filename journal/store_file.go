package journal

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
)

// Disk has the operations on the file of an open journal, so that tests can make them fail.
type Disk interface {
	io.Writer
	// Sync returns when all written data survives a power failure.
	Sync() error
}

// osDisk is a file of the operating system.
type osDisk struct{ *os.File }

// Sync waits for the data and the size of the file, but not for its times.
func (d osDisk) Sync() error { return syncData(d.File) }

// fileStore makes groups durable in a file. It is used by one goroutine at a time.
type fileStore struct {
	path    string
	maxSize int64
	wrap    func(*os.File) Disk
	now     func() time.Time

	lock *durable.FileLock
	file *os.File
	disk Disk
	head *os.File
	size int64 // size of the file up to the last acknowledged record
	last chain // chain at the last acknowledged record
	base chain // chain before the first record of the file

	// The state of the files after the last write of this process.
	stamp, headStamp stamp
	unverified       bool             // another process changed the file, and it has not been verified since
	closed           map[string]stamp // stamps of closed segments, by path
	lockChecked      time.Time
	closedChecked    time.Time
	notice           func(string) // called for a change that does not stop the journal; not nil
}

// openFile opens the journal at s.path for this process: it acquires the lock, finds the end of the records and writes
// a head. cut describes what was set aside; empty if nothing was. start is a chain without records that has the
// journal's hash.
func openFile(s *fileStore, start chain) (cut string, err error) {
	if err := checkPlace(s.path); err != nil {
		return "", err
	}
	if s.lock, err = takeLock(s.path); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := s.findEnd(start); err != nil {
		return "", err
	}
	if err := s.checkHead(); err != nil {
		return "", err
	}
	if err := s.reopen(); err != nil {
		return "", err
	}
	if cut, err = s.setAside(); err != nil {
		return "", err
	}
	if err := s.restamp(); err != nil {
		return "", err
	}
	s.watchClosed()
	return cut, s.openHead()
}

// checkPlace refuses a path at which no journal can be written. A symbolic link would have another lock than its
// target, so that two processes could write the same file. Opening a pipe would block until another process opens it.
func checkPlace(path string) error {
	if st, err := os.Stat(filepath.Dir(path)); err != nil || !st.IsDir() {
		return fmt.Errorf("%s is not a readable directory; create it, for this user only", filepath.Dir(path))
	}
	switch st, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file; write the path of a regular file, or of one "+
			"that does not exist yet",
			path)
	}
	return nil
}

// checkHead refuses a journal to which nothing may be appended, because that would hide that records are missing.
func (s *fileStore) checkHead() error {
	h, err := readHead(s.path)
	return s.compareHead(h, err)
}

// compareHead compares the end that was found with the head that was read. err is the error of reading the head.
func (s *fileStore) compareHead(h head, err error) error {
	const advice = "appending would hide this; find the cause (\"mayfly audit verify\"), keep the files elsewhere as " +
		"evidence and begin a new journal"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// A head is written before the first record. A head that was lost is written again if the journal is intact.
		if st, err := os.Stat(s.path); err == nil && st.Size() != s.size {
			if s.last.seq == 0 {
				return fmt.Errorf("%s is not a journal, or its first record is damaged, and %s is missing; name a "+
					"file that does not exist yet (if it was a journal: %s)",
					s.path, s.path+headSuffix, advice)
			}
			return fmt.Errorf("%s is missing and %s is damaged after record %d; %s", s.path+headSuffix, s.path,
				s.last.seq, advice)
		}
		return nil
	case errors.Is(err, fs.ErrPermission):
		return err
	case err != nil:
		return fault.Cure(err, advice)
	case s.last.seq < h.seq:
		return fmt.Errorf("%s is intact up to record %d, but record %d was written: records are missing or damaged, or "+
			"audit.key has changed; %s",
			s.path, s.last.seq, h.seq, advice)
	case s.last.seq == h.seq && s.last.sum != h.sum:
		return fmt.Errorf("record %d in %s differs from the one that was written; %s", h.seq, s.path, advice)
	}
	return nil
}

// findEnd verifies the newest segment and finds the end of its intact records. Of the segment before it, only the last
// record is read.
func (s *fileStore) findEnd(start chain) error {
	closed, err := closedSegments(s.path)
	if err != nil {
		return err
	}
	s.last, s.size = start, 0
	if n := len(closed); n > 0 {
		l, err := lastOf(closed[n-1].Path)
		if err != nil {
			return err
		}
		s.last.seq, s.last.sum = l.seq, l.sum
	}
	s.base = s.last
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	for r := bufio.NewReaderSize(f, 1<<20); ; {
		line, err := readLine(r)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errTorn), errors.Is(err, errLong):
			return nil
		case err != nil:
			return err
		}
		if err := s.last.follow(line); errors.Is(err, errNewer) {
			// The record may have been acknowledged, and nothing may be appended to the segment.
			return fmt.Errorf("%s: %w", s.path, err)
		} else if err != nil {
			return nil //nolint:nilerr // the rest was never acknowledged, or the head shows that it was
		}
		s.size += int64(len(line))
	}
}

// lastOf returns the last record of a closed segment.
func lastOf(path string) (link, error) {
	f, err := os.Open(path)
	if err != nil {
		return link{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return link{}, err
	}
	l, err := lineBefore(f, st.Size())
	if err == nil {
		err = l.check()
	}
	if err != nil {
		return link{}, fault.Cure(fmt.Errorf("the end of %s: %w", path, err), "see \"mayfly audit verify\"")
	}
	return l, nil
}

// lineBefore reads the line that ends at offset end of f.
func lineBefore(f *os.File, end int64) (link, error) {
	for size := int64(8 << 10); ; size *= 8 {
		from := max(0, end-size)
		data := make([]byte, end-from)
		if _, err := f.ReadAt(data, from); err != nil {
			return link{}, err
		}
		at := -1
		for i := len(data) - 2; i >= 0 && at < 0; i-- {
			if data[i] == '\n' {
				at = i + 1
			}
		}
		if at < 0 && from == 0 {
			at = 0
		}
		if at >= 0 {
			return linkOf(data[at:])
		}
		if size > maxLine {
			return link{}, errLong
		}
	}
}

// reopen opens the file for appending, and creates it if it does not exist and no records are expected in it.
func (s *fileStore) reopen() (err error) {
	s.closeFile()
	created := false
	s.file, err = os.OpenFile(s.path, os.O_RDWR|os.O_APPEND|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if s.size > 0 {
			return changed("%s was moved or removed while it was in use", s.path)
		}
		created = true
		s.file, err = os.OpenFile(s.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if errors.Is(err, syscall.ELOOP) {
		return changed("%s is a symbolic link", s.path)
	}
	if err != nil {
		return err
	}
	if st, err := s.file.Stat(); err != nil || !st.Mode().IsRegular() {
		return errors.Join(err, changed("%s is not a regular file", s.path))
	}
	s.disk = s.wrap(s.file)
	if created {
		return syncDir(s.path)
	}
	return nil
}

// setAside moves everything after the last acknowledged record into a separate file, and describes it.
func (s *fileStore) setAside() (string, error) {
	st, err := s.file.Stat()
	if err != nil {
		return "", err
	}
	extra := st.Size() - s.size
	switch {
	case extra < 0:
		return "", changed("%s has %d bytes, but %d were written: it was truncated", s.path, st.Size(), s.size)
	case extra == 0:
		return "", nil
	}
	name := s.path + tornInfix + s.now().UTC().Format("20060102T150405.000000Z")
	if err := s.copyTail(name, extra); err != nil {
		_ = os.Remove(name) // the copy is incomplete
		return "", fmt.Errorf("set aside the remains of a failed write: %w", err)
	}
	if err := s.file.Truncate(s.size); err != nil {
		return "", err
	}
	if err := s.disk.Sync(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes that were not acknowledged are in %s", extra, filepath.Base(name)), nil
}

func (s *fileStore) copyTail(name string, n int64) error {
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.NewSectionReader(s.file, s.size, n))
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return syncDir(name)
}

// openHead writes the head and syncs it once, so that a journal always has one.
func (s *fileStore) openHead() (err error) {
	if s.head == nil {
		flags := os.O_RDWR | os.O_CREATE | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
		if s.head, err = os.OpenFile(s.path+headSuffix, flags, 0o600); err != nil {
			return err
		}
	}
	if err := s.writeHead(); err != nil {
		return err
	}
	if s.headStamp.size > headSize { // the file may have had longer content before
		if err := errors.Join(s.head.Truncate(headSize), s.writeHead()); err != nil {
			return err
		}
	}
	if err := s.head.Sync(); err != nil {
		return err
	}
	return syncDir(s.path)
}

func (s *fileStore) writeHead() error {
	if _, err := s.head.WriteAt(head{s.last.seq, s.last.sum}.bytes(), 0); err != nil {
		return err
	}
	st, err := s.head.Stat()
	if err == nil {
		s.headStamp = stampOf(st)
	}
	return err
}

// commit makes a group durable. After an error no record of the group counts, and repair MUST succeed before the next
// commit.
func (s *fileStore) commit(g group) error {
	if s.file == nil {
		return errors.New("the file is not open")
	}
	if err := s.check(); err != nil {
		s.unverified = true
		return err
	}
	if s.size > 0 && s.size+int64(len(g.lines)) > s.maxSize {
		if err := s.rotate(); err != nil {
			return err
		}
	}
	n, err := s.disk.Write(g.lines)
	if err == nil && n < len(g.lines) {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = s.disk.Sync()
	}
	if err != nil {
		return errors.Join(err, s.restamp())
	}
	before := s.last
	s.last = g.end
	if err := s.writeHead(); err != nil {
		s.last = before
		return err
	}
	s.size += int64(n)
	// The group counts, whatever Stat returns now. If another process wrote in the meantime, the size differs, and the
	// next check stops the journal.
	if st, err := s.file.Stat(); err == nil {
		s.stamp = stampOf(st)
		s.stamp.size = s.size
	}
	return nil
}

// rotate closes the segment: it renames the file to a name with the number of its first record, and begins the next
// segment.
func (s *fileStore) rotate() error {
	first, err := firstOf(s.path)
	if err != nil {
		return err
	}
	name := segmentName(s.path, first)
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists, so the full segment cannot be renamed to it", name)
	}
	if err := os.Rename(s.path, name); err != nil {
		return err
	}
	if st, err := os.Lstat(name); err == nil {
		s.closed[name] = stampOf(st)
	}
	s.size, s.base = 0, s.last
	if err := s.reopen(); err != nil {
		return err
	}
	return s.restamp()
}

// repair prepares the file so that records can be appended after the last acknowledged one, as after a crash: after a
// failed sync, the page cache may have data that is not on disk. A file that another process changed or replaced is
// verified from its first record before anything is appended.
func (s *fileStore) repair() (cut string, err error) {
	if err := s.checkLock(); err != nil {
		return "", err
	}
	if err := s.reopen(); err != nil {
		return "", err
	}
	st, err := s.file.Stat()
	if err != nil {
		return "", err
	}
	if s.unverified || stampOf(st) != s.stamp {
		s.unverified = true // until it is verified
		if err := s.verifyContent(); err != nil {
			return "", err
		}
	} else if s.size > 0 {
		l, err := lineBefore(s.file, s.size)
		if err != nil || l.seq != s.last.seq || l.sum != s.last.sum {
			return "", changed("record %d is no longer at its place in %s", s.last.seq, s.path)
		}
	}
	s.unverified = false
	if cut, err = s.setAside(); err != nil {
		return "", err
	}
	if err := s.restamp(); err != nil {
		return "", err
	}
	if err := s.checkHeadFile(); err != nil {
		return "", err
	}
	return cut, s.writeHead() // a failed group may have written the head
}

// restamp stores the current state of the file.
func (s *fileStore) restamp() error {
	st, err := s.file.Stat()
	if err == nil {
		s.stamp = stampOf(st)
	}
	return err
}

func (s *fileStore) closeFile() {
	if s.file != nil {
		_ = s.file.Close() // the acknowledged records were synced
		s.file = nil
	}
}

func (s *fileStore) close() {
	s.closeFile()
	if s.head != nil {
		_ = s.head.Close() // the acknowledged records were synced
		s.head = nil
	}
	if s.lock != nil {
		_ = s.lock.Unlock() // the lock file has no content
		s.lock = nil
	}
}

// syncDir returns when the name of the file at path is on disk.
func syncDir(path string) error { return durable.SyncDir(filepath.Dir(path)) }
