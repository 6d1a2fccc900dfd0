package journal

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// place is the position of a record in a compact form.
type place struct {
	file, line uint32
	offset     uint64
}

// spool stores which records each serial number had, for a journal of any length in bounded memory. What does not fit
// into memory is written to a temporary file, as runs that are sorted by serial number. [spool.finish] merges the runs.
type spool struct {
	limit    int             // of the serial numbers in memory
	inMemory map[serial]seen // serial numbers that may be in memory
	file     *os.File        // nil: everything fits into memory
	runs     []int64         // the ends of the runs in the file
	err      error           // of writing the file
	open     int             // intents without an outcome that were written to the file
}

// seen has the kinds of records of a serial number, and the place of the last one.
type seen struct {
	place
	mark
}

const (
	// spoolLimit is how many serial numbers are kept in memory, in about 12 MB.
	spoolLimit = 1 << 17
	// spoolSize is the size of an entry of the file: serial number, mark, file, line, offset.
	spoolSize = len(serial{}) + 1 + 4 + 4 + 8
)

func newSpool() spool { return spool{limit: spoolLimit, inMemory: map[serial]seen{}} }

// get returns the mark of a serial number in memory.
func (s *spool) get(n serial) mark { return s.inMemory[n].mark }

// spilled reports whether entries were written to the file.
func (s *spool) spilled() bool { return s.file != nil }

// claimOpen decrements the number of intents in the file that have no outcome, if it is not 0. It returns how many it
// counted: 0 or 1.
func (s *spool) claimOpen() int {
	if s.open == 0 {
		return 0
	}
	s.open--
	return 1
}

// add adds m to the mark of a serial number.
func (s *spool) add(n serial, m mark, at place) {
	if _, known := s.inMemory[n]; !known && len(s.inMemory) >= s.limit {
		s.spill(false)
	}
	one := s.inMemory[n]
	one.place, one.mark = at, one.mark|m
	s.inMemory[n] = one
}

// spill moves the entries in memory to the file. Intents without an outcome stay in memory, because their outcomes may
// follow, unless they are too many or this is the last call.
func (s *spool) spill(last bool) {
	var all []serial
	for n, one := range s.inMemory {
		if last || one.mark != intended {
			all = append(all, n)
		}
	}
	if len(all) < s.limit/2 && !last {
		all = all[:0]
		for n, one := range s.inMemory {
			all = append(all, n)
			if one.mark == intended {
				s.open++
			}
		}
	}
	slices.SortFunc(all, func(a, b serial) int { return bytes.Compare(a[:], b[:]) })
	if s.file == nil && s.err == nil {
		if s.file, s.err = os.CreateTemp("", "mayfly-verify-*"); s.err == nil {
			s.err = os.Remove(s.file.Name()) // so that the operating system frees the file when the process ends
		}
	}
	var w *bufio.Writer
	if s.err == nil {
		w = bufio.NewWriterSize(s.file, 1<<20)
	}
	for _, n := range all {
		if s.err == nil {
			_, s.err = w.Write(s.inMemory[n].append(make([]byte, 0, spoolSize), n))
		}
		delete(s.inMemory, n)
	}
	if s.err == nil {
		s.err = w.Flush()
	}
	before := int64(0)
	if len(s.runs) > 0 {
		before = s.runs[len(s.runs)-1]
	}
	s.runs = append(s.runs, before+int64(len(all)*spoolSize))
}

func (x seen) append(b []byte, n serial) []byte {
	b = append(append(b, n[:]...), byte(x.mark))
	b = binary.BigEndian.AppendUint32(b, x.file)
	b = binary.BigEndian.AppendUint32(b, x.line)
	return binary.BigEndian.AppendUint64(b, x.offset)
}

// run reads one of the sorted runs.
type run struct {
	in    *bufio.Reader
	n     serial
	seen  seen
	ended bool
}

func (r *run) next() error {
	var b [spoolSize]byte
	_, err := io.ReadFull(r.in, b[:])
	if errors.Is(err, io.EOF) {
		r.ended = true
		return nil
	}
	r.n = serial(b[:len(serial{})])
	rest := b[len(serial{}):]
	r.seen = seen{place{
		binary.BigEndian.Uint32(rest[1:]), binary.BigEndian.Uint32(rest[5:]),
		binary.BigEndian.Uint64(rest[9:]),
	}, mark(rest[0])}
	return err
}

// finish merges the runs, and returns at most limit problems of serial numbers that are in more than one run.
func (s *spool) finish(limit int) (out []misplaced, err error) {
	if s.file == nil && s.err == nil {
		return nil, nil
	}
	s.spill(true)
	if s.err != nil {
		return nil,
			fmt.Errorf("the directory for temporary files, %s, has no space for the serial numbers (%d bytes each): %w",
				os.TempDir(), spoolSize, s.err)
	}
	var runs []*run // in the order of the records
	from := int64(0)
	for _, to := range s.runs {
		r := &run{in: bufio.NewReaderSize(io.NewSectionReader(s.file, from, to-from), 8<<10)}
		if err := r.next(); err != nil {
			return nil, err
		}
		runs, from = append(runs, r), to
	}
	for len(out) < limit {
		least := -1
		for i, r := range runs {
			if !r.ended && (least < 0 || bytes.Compare(r.n[:], runs[least].n[:]) < 0) {
				least = i
			}
		}
		if least < 0 {
			break
		}
		n, before := runs[least].n, mark(0)
		for _, r := range runs[least:] {
			if r.ended || r.n != n {
				continue
			}
			for _, what := range apart(n, before, r.seen.mark) {
				out = append(out, misplaced{r.seen.place, what})
			}
			before |= r.seen.mark
			if err := r.next(); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// apart returns the problem of a serial number whose older records are in earlier runs (before) and whose later ones
// are in this run (now).
func apart(n serial, before, now mark) (out []string) {
	if before != 0 && now&(intended|tried) != 0 {
		out = append(out, usedBefore(n))
	}
	switch {
	case before&ended != 0 && now&ended != 0:
		out = append(out, secondOutcome(n))
	case now&orphan != 0 && before&intended == 0:
		out = append(out, withoutIntent(n))
	}
	return out
}

// close closes the temporary file, which frees it.
func (s *spool) close() {
	if s.file != nil {
		_ = s.file.Close() // an error loses nothing: the file has no name and is not read again
	}
}
