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

// Position is where a line stands.
type Position struct {
	File   string
	Line   int   // from 1
	Offset int64 // of its first byte in the file
}

// String gives the position as FILE:LINE (byte OFFSET).
func (p Position) String() string { return fmt.Sprintf("%s:%d (byte %d)", p.File, p.Line, p.Offset) }

// Entry is a record of a journal and where it stands.
type Entry struct {
	Record
	Raw []byte // the line with its line feed
	At  Position
}

// Damage is something in a journal that should not be there, or is not there.
type Damage struct {
	At   Position
	What string
}

// Error gives position and problem.
func (d *Damage) Error() string { return d.At.String() + ": " + d.What }

// Reader reads a journal that may be growing, across its segments, in order. It needs no lock and writes nothing. It does not
// verify the chain, see [Verify].
type Reader struct {
	path string
	next uint64 // the record that is wanted; 0: the first that there is
	file *os.File
	buf  *bufio.Reader
	at   Position // of the next line
	torn int64    // where a closed segment was found to end inside a line; -1: nowhere
	gap  uint64   // the record that was looked for once more, because a later one came

	bounded bool   // see Acknowledged
	bound   uint64 // the last record that is known to be acknowledged
}

// NewReader reads the journal at path from record number from on; 0 is the first that there is.
func NewReader(path string, from uint64) *Reader { return &Reader{path: path, next: from} }

// Acknowledged lets r end behind the last record that FILE.head names, where there is that file: what stands behind it was not told to
// anybody yet, and after a write that failed other records take its place.
func (r *Reader) Acknowledged() *Reader {
	r.bounded = true
	return r
}

// held reports whether the next record is not acknowledged yet.
func (r *Reader) held() (bool, error) {
	if !r.bounded || r.next <= r.bound {
		return false, nil
	}
	h, err := readHead(r.path)
	for tries := 0; err != nil && !errors.Is(err, fs.ErrNotExist) && tries < 3; tries++ { // perhaps it is just being written
		h, err = readHead(r.path)
	}
	if err != nil {
		return false, nil //nolint:nilerr // nobody knows: what is there is read
	}
	r.bound = h.seq
	if r.file != nil {
		err = r.rewind() // the buffer may have what is there no more
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

// Next returns the next record. The error is io.EOF at the present end: call again later. A line that is no record is a
// [Damage]; the next call goes on behind it. An incomplete last line counts as not there yet.
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
		return Entry{}, errors.Join(io.EOF, r.rewind()) // what is cut off and written anew must not be read from the buffer
	case errors.Is(err, errLong): // what is behind it is met next
		d := &Damage{At: r.at, What: err.Error()}
		r.at.Offset += int64(len(raw))
		return Entry{}, d
	case err != nil: // says nothing of the line, and another try may read it
		return Entry{}, errors.Join(err, r.rewind())
	}
	at := r.at
	r.at.Line++
	r.at.Offset += int64(len(raw))
	if l, err := linkOf(raw); err == nil && l.seq < r.next {
		return Entry{Record: Record{Seq: l.seq}}, nil // Next leaves it out
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

// open opens the segment that holds the wanted record, or the first one after it.
func (r *Reader) open() error {
	all, err := Segments(r.path)
	if errors.Is(err, fs.ErrNotExist) && r.next > 0 {
		return io.EOF // between two steps of a rotation
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
		return io.EOF // as above
	}
	if err != nil {
		return err
	}
	r.file, r.buf, r.at, r.torn = f, bufio.NewReaderSize(f, 64<<10), Position{File: path, Line: 1}, -1
	return nil
}

// advance goes to the next segment if the open one has been closed and read to its end.
func (r *Reader) advance() (moved bool, err error) {
	mine, err := r.file.Stat()
	if err != nil {
		return false, err
	}
	if now, err := os.Stat(r.path); err == nil && os.SameFile(mine, now) || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, nil //nolint:nilerr // the newest segment: more may come
	}
	if mine, err = r.file.Stat(); err != nil { // again: it has its final size only now that it is closed
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

// Last returns the number of the last record of the journal at path; 0 when it has none.
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

// lastIn returns the number of the last whole line of f; 0 when it has none. An incomplete one behind it does not count.
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

// Read yields the records of the journal at path from number from on, to its present end. Damaged lines are yielded as errors
// of type [Damage], and the reading goes on behind them; any other error is the last.
func Read(path string, from uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r := NewReader(path, from)
		defer func() { _ = r.Close() }() // it was only read
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
