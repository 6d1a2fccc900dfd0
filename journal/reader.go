package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
)

// Position is the place of a line.
type Position struct {
	File   string
	Line   int   // from 1
	Offset int64 // of the line's first byte in the file
}

// String returns the position as FILE:LINE (byte OFFSET).
func (p Position) String() string { return fmt.Sprintf("%s:%d (byte %d)", p.File, p.Line, p.Offset) }

// Entry is a record of a journal and its place.
type Entry struct {
	Record
	Raw []byte // the line with its line feed
	At  Position
}

// Damage is a part of a journal that is invalid, missing or unreadable.
type Damage struct {
	At   Position
	What string
}

// Error returns position and problem.
func (d *Damage) Error() string { return d.At.String() + ": " + d.What }

// Reader reads the records of a journal in order, across its segments, also while the journal grows. It needs no lock
// and writes nothing. It does not verify the chain, see [Verify].
type Reader struct {
	path string
	next uint64 // number of the next record; 0: the oldest one that exists
	file *os.File
	buf  *bufio.Reader
	at   Position // position of the next line
	torn int64    // offset at which a closed segment ends inside a line; -1: it does not
	gap  uint64   // the record for which the search was repeated, because a later one was found

	bounded bool   // set by Acknowledged
	bound   uint64 // the last record that is known to be acknowledged
}

// NewReader returns a reader of the journal at path that begins with record number from; 0 is the first one that
// exists.
func NewReader(path string, from uint64) *Reader { return &Reader{path: path, next: from} }

// Acknowledged makes r stop after the last record that FILE.head names, if that file exists. Later records are not
// acknowledged yet, and may be replaced after a failed write.
func (r *Reader) Acknowledged() *Reader {
	r.bounded = true
	return r
}

// held reports whether the next record must be withheld because it is not acknowledged yet.
func (r *Reader) held() (bool, error) {
	if !r.bounded || r.next <= r.bound {
		return false, nil
	}
	h, err := readHead(r.path)
	for tries := 0; err != nil && !errors.Is(err, fs.ErrNotExist) && tries < 3; tries++ { // a write may be in progress
		h, err = readHead(r.path)
	}
	if err != nil {
		return false, nil //nolint:nilerr // the end is unknown: all records are read
	}
	r.bound = h.seq
	if r.file != nil {
		err = r.rewind() // the buffer may have bytes that were replaced
	}
	return r.next > r.bound, err
}

// Close closes the file that is open.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	f := r.file
	r.file = nil
	return f.Close()
}

// Next returns the next record. The error is io.EOF at the current end; later calls may return more records. A line
// that is not a record, or is one of a newer format, is a [Damage]; the next call continues after it. An incomplete
// last line counts as not written yet.
func (r *Reader) Next() (Entry, error) {
	for {
		if held, err := r.held(); err != nil {
			return Entry{}, err
		} else if held {
			return Entry{}, io.EOF
		}
		if r.file == nil {
			if err := r.open(); err != nil {
				return Entry{}, err
			}
		}
		e, err := r.line()
		switch {
		case errors.Is(err, io.EOF):
			moved, err := r.advance()
			if err != nil {
				return Entry{}, err
			}
			if !moved {
				return Entry{}, io.EOF
			}
		case err != nil:
			return Entry{}, err
		case e.Seq < r.next:
		case r.next > 0 && e.Seq > r.next && r.gap != r.next:
			// The segment in between may have been closed while its successor was being opened.
			r.gap = r.next
			if err := r.Close(); err != nil {
				return Entry{}, err
			}
		default:
			r.next = e.Seq + 1
			return e, nil
		}
	}
}

// line reads the line at r.at.
func (r *Reader) line() (Entry, error) {
	raw, err := readLine(r.buf)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, errTorn):
		return Entry{}, errors.Join(io.EOF, r.rewind()) // the buffer must not return bytes that were replaced
	case errors.Is(err, errLong): // the next call continues after the damage
		d := &Damage{At: r.at, What: err.Error()}
		r.at.Offset += int64(len(raw))
		return Entry{}, d
	case err != nil: // a read error: another attempt may succeed
		return Entry{}, errors.Join(err, r.rewind())
	}
	at := r.at
	r.at.Line++
	r.at.Offset += int64(len(raw))
	if l, err := linkOf(raw); err == nil && l.seq < r.next {
		return Entry{Record: Record{Seq: l.seq}}, nil // Next skips the rest of the line
	}
	e := Entry{Raw: bytes.Clone(raw), At: at}
	if e.Record, err = ParseRecord(e.Raw); err != nil {
		return Entry{}, &Damage{At: e.At, What: err.Error()}
	}
	return e, nil
}

func (r *Reader) rewind() error {
	_, err := r.file.Seek(r.at.Offset, io.SeekStart)
	r.buf.Reset(r.file)
	return err
}

// open opens the segment that has the next record, or the first segment after it.
func (r *Reader) open() error {
	all, err := Segments(r.path)
	if errors.Is(err, fs.ErrNotExist) && r.next > 0 {
		return io.EOF // the file was renamed during a rotation
	}
	if err != nil {
		return err
	}
	best := all[0]
	for _, s := range all[1:] {
		if s.First != 0 && s.First <= r.next {
			best = s
		}
	}
	return r.use(best.Path)
}

func (r *Reader) use(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return io.EOF // the file was renamed during a rotation
	}
	if err != nil {
		return err
	}
	r.file, r.buf, r.at, r.torn = f, bufio.NewReaderSize(f, 64<<10), Position{File: path, Line: 1}, -1
	return nil
}

// advance moves on to the next segment if the open one was closed and was read to its end.
func (r *Reader) advance() (moved bool, err error) {
	mine, err := r.file.Stat()
	if err != nil {
		return false, err
	}
	if now, err := os.Stat(r.path); err == nil && os.SameFile(mine, now) ||
		err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, nil //nolint:nilerr // the newest segment: more may come
	}
	// Read once more, because the size is final only after the segment was closed.
	if mine, err = r.file.Stat(); err != nil {
		return false, err
	}
	if mine.Size() > r.at.Offset { // written between the last read and the rotation
		if r.torn != r.at.Offset {
			r.torn = r.at.Offset
			return true, nil
		}
		d := &Damage{At: r.at, What: errTorn.Error()}
		r.at.Offset = mine.Size()
		return false, errors.Join(d, r.rewind())
	}
	all, err := Segments(r.path)
	if err != nil {
		return false, nil //nolint:nilerr // between two steps of a rotation
	}
	for _, s := range all {
		if s.First >= r.next && s.First != 0 || !s.Closed {
			if s.Path == r.at.File && s.Closed {
				continue
			}
			return true, errors.Join(r.Close(), r.use(s.Path))
		}
	}
	return false, nil
}

// Last returns the number of the last record of the journal at path; 0 if it has none.
func Last(path string) (uint64, error) {
	all, err := Segments(path)
	if err != nil {
		return 0, err
	}
	for _, s := range slices.Backward(all) {
		f, err := os.Open(s.Path)
		if err != nil {
			return 0, err
		}
		seq, err := lastIn(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return 0, fmt.Errorf("the end of %s: %w", s.Path, err)
		}
		if seq > 0 {
			return seq, nil
		}
	}
	return 0, nil
}

// lastIn returns the number of the last complete line of f; 0 if it has none.
func lastIn(f *os.File) (uint64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	end := st.Size()
	for one := make([]byte, 1); end > 0; end-- {
		if _, err := f.ReadAt(one, end-1); err != nil {
			return 0, err
		}
		if one[0] == '\n' {
			l, err := lineBefore(f, end)
			return l.seq, err
		}
	}
	return 0, nil
}

// Read yields the records of the journal at path from number from to the current end. A damaged line is yielded as an
// error of type [Damage], and reading continues after it. Any other error is the last value.
func Read(path string, from uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r := NewReader(path, from)
		defer func() { _ = r.Close() }() // an error of Close loses nothing: the file was only read
		for {
			e, err := r.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			var d *Damage
			if !yield(e, err) || err != nil && !errors.As(err, &d) {
				return
			}
		}
	}
}
