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

// changedError means that another process changed a file of the journal while this process had it open. Nothing is
// appended until the file has the acknowledged records again.
type changedError struct{ what string }

func (e *changedError) Error() string {
	return e.what + "; keep a copy of all files of the journal, restore the file, or begin a new journal elsewhere"
}

func changed(format string, args ...any) error { return &changedError{fmt.Sprintf(format, args...)} }

// closedEvery is how often closed segments are checked.
const closedEvery = 10 * time.Second

// check returns a [changedError] if a file of the journal is not in the state in which this process left it. If only
// the times or the mode changed, the records are verified. It costs a few system calls and runs before each group.
func (s *fileStore) check() error {
	named, err := os.Lstat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return changed("%s was moved or removed while it was in use", s.path)
	case err != nil:
		return err
	}
	mine, err := s.file.Stat()
	if err != nil {
		return err
	}
	switch now := stampOf(named); {
	case now == s.stamp:
	case !os.SameFile(named, mine):
		return changed("%s was replaced by another file while it was in use", s.path)
	case now.size != s.stamp.size:
		return changed("%s has %d bytes instead of the %d that this process has written: another process writes to it",
			s.path,
			now.size, s.stamp.size)
	default:
		if err := s.verifyContent(); err != nil {
			return err
		}
		s.stamp = now
	}
	if err := s.checkHeadFile(); err != nil {
		return err
	}
	if now := s.now(); now.Sub(s.lockChecked) >= time.Second || now.Before(s.lockChecked) {
		s.lockChecked = now
		if err := s.checkLock(); err != nil {
			return err
		}
	}
	if now := s.now(); now.Sub(s.closedChecked) >= closedEvery || now.Before(s.closedChecked) {
		s.closedChecked = now
		s.checkClosed()
	}
	return nil
}

// checkHeadFile writes the head again if another process changed it. Its content is in memory.
func (s *fileStore) checkHeadFile() error {
	if s.head == nil {
		return s.openHead()
	}
	named, err := os.Lstat(s.path + headSuffix)
	if err == nil && stampOf(named) == s.headStamp {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if h, err := readHead(s.path); err != nil || h.seq != s.last.seq || h.sum != s.last.sum || !s.isHeadFile(named) {
		s.notice(fmt.Sprintf("%s was changed, moved or removed while the journal was in use; it was written again",
			s.path+headSuffix))
	}
	_ = s.head.Close() // another file has its name
	s.head = nil
	return s.openHead()
}

// isHeadFile reports whether named is the head file that this process has open.
func (s *fileStore) isHeadFile(named fs.FileInfo) bool {
	st, err := s.head.Stat()
	return err == nil && named != nil && os.SameFile(st, named)
}

// checkLock acquires the lock again if its file was removed. Otherwise a second process could open the journal.
func (s *fileStore) checkLock() error {
	if held, err := s.lock.Holds(s.path + lockSuffix); held || err != nil {
		return err
	}
	s.notice(fmt.Sprintf("%s was moved or removed while the journal was in use: another process could "+
		"have opened the journal", s.path+lockSuffix))
	fresh, err := takeLock(s.path)
	if err != nil {
		return err
	}
	_ = s.lock.Unlock() // the lock file has no content
	s.lock = fresh
	return nil
}

// takeLock acquires the lock of the journal at path.
func takeLock(path string) (*durable.FileLock, error) {
	l, err := durable.TryLock(path + lockSuffix)
	switch {
	case errors.Is(err, durable.ErrLocked):
		return nil, fmt.Errorf("%s is in use by another process; stop it, or use another file", path)
	case err != nil:
		return nil, fault.Cure(err, "the directory must allow this user to create and rename files")
	}
	return l, nil
}

// verifyContent reads the file from its first record to the acknowledged end, and returns a [changedError] unless these
// are the acknowledged records: the chain begins after the previous segment and ends with the sum that is in memory, so
// that no byte between them can differ.
func (s *fileStore) verifyContent() error {
	f, err := os.OpenFile(s.path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	at, size := s.base, int64(0)
	for r := bufio.NewReaderSize(io.LimitReader(f, s.size), 1<<20); ; {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = at.follow(line)
		}
		if err != nil {
			return changed("%s was changed while it was in use, after record %d (byte %d): %v", s.path,
				at.seq, size, err)
		}
		size += int64(len(line))
	}
	if size != s.size || at.seq != s.last.seq || at.sum != s.last.sum {
		return changed("%s was changed while it was in use: it ends with record %d, but record %d was written; see "+
			"\"mayfly audit verify\"",
			s.path, at.seq, s.last.seq)
	}
	return nil
}

// watchClosed stores the current state of the closed segments.
func (s *fileStore) watchClosed() {
	s.closed = map[string]stamp{}
	all, err := closedSegments(s.path)
	if err != nil {
		return // the error is reported when the segment is read
	}
	for _, one := range all {
		if st, err := os.Lstat(one.Path); err == nil {
			s.closed[one.Path] = stampOf(st)
		}
	}
	s.closedChecked = s.now()
}

// checkClosed checks the closed segments. A segment that is gone was archived. A segment that was changed is verified.
// The CA continues in any case, because new records do not depend on closed segments.
func (s *fileStore) checkClosed() {
	for path, was := range s.closed {
		st, err := os.Lstat(path)
		if err != nil {
			delete(s.closed, path)
			continue
		}
		if stampOf(st) == was {
			continue
		}
		s.closed[path] = stampOf(st)
		if err := s.verifyClosed(path); err != nil {
			s.notice(fmt.Sprintf("%s was changed: %v; the CA continues in %s", path, err, filepath.Base(s.path)))
		}
	}
}

// verifyClosed verifies a closed segment from its first record to its last, whose sum is in the next segment.
func (s *fileStore) verifyClosed(path string) error {
	all, err := Segments(s.path)
	if err != nil {
		return err
	}
	next, first := s.path, uint64(0)
	for i, one := range all {
		if one.Path == path {
			first = one.First
			if i+1 < len(all) {
				next = all[i+1].Path
			}
		}
	}
	end, err := before(next)
	if next == s.path && errors.Is(err, io.EOF) { // the next segment has no record yet
		end, err = link{seq: s.last.seq, sum: s.last.sum}, nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", next, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	at := s.base
	for r, begun := bufio.NewReaderSize(f, 1<<20), false; ; begun = true {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if !begun { // the sum of the first record covers what it says about the previous segment
			l, err := linkOf(line)
			if err != nil {
				return err
			}
			at.seq, at.sum = first-1, l.prev
		}
		if err := at.follow(line); err != nil {
			return err
		}
	}
	if at.seq != end.seq || at.sum != end.sum {
		return fmt.Errorf("it ends with record %d, but the next file continues after record %d or with another sum",
			at.seq,
			end.seq)
	}
	return nil
}

// before returns what the first record of a file says about the record before it.
func before(path string) (link, error) {
	f, err := os.Open(path)
	if err != nil {
		return link{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	line, err := readLine(bufio.NewReader(f))
	if err != nil {
		return link{}, err
	}
	l, err := linkOf(line)
	return link{seq: l.seq - 1, sum: l.prev}, err
}
