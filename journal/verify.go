package journal

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// VerifyOptions are the options of [Verify].
type VerifyOptions struct {
	Key []byte // key of the sums; empty: SHA-256
	// First is the number of the first record, if older segments are kept elsewhere. 0 means 1: no segment is missing.
	First uint64
	// Progress is called from time to time with the number of bytes that were read, and the total. Optional.
	Progress func(done, total int64)

	spool int // serial numbers that are kept in memory; 0: [spoolLimit]
}

// Summary describes the records of a journal.
type Summary struct {
	Segments    int
	First, Last uint64 // numbers of the first and the last record; 0: none
	Sum         string // sum of the last record; a copy of it elsewhere makes later changes of earlier records provable
	From, To    time.Time
	Kinds       map[Kind]int
	Results     map[Result]int
	Crashes     int // starts after a start without a stop
	Open        int // intents without an outcome
}

// Records returns the number of records.
func (s Summary) Records() int {
	n := 0
	for _, c := range s.Kinds {
		n += c
	}
	return n
}

// maxFindings is the number of findings after which a verification stops.
const maxFindings = 100

// Verify reads a whole journal, also one that is being written, and returns everything that is wrong with it: a changed
// byte, a missing, added or moved record, records that were cut off at the end, and records that contradict each other.
// It stops after the first break of the chain. The error is a read error. One file is open at a time. The memory is
// bounded: if there are more than a hundred thousand certificates, serial numbers are written to a temporary file.
func Verify(path string, o VerifyOptions) (Summary, []Damage, error) {
	v := &verification{
		o: o, path: path, chain: newChain(o.Key), rules: newRules(o.First > 1),
		summary: Summary{Kinds: map[Kind]int{}, Results: map[Result]int{}},
	}
	if o.First > 1 {
		v.chain.seq = o.First - 1
	}
	var err error
	if v.head, err = readHead(path); err != nil {
		v.headProblem = err
	}
	defer v.rules.serials.close()
	if o.spool > 0 {
		v.rules.serials.limit = o.spool
	}
	files, newest, err := v.list()
	if newest != nil {
		defer newest.Close() //nolint:errcheck // only read
	}
	if err != nil {
		return v.summary, nil, err
	}
	for i, s := range files {
		v.rules.at.file = uint32(i) //nolint:gosec // fewer than that
		if err := v.file(s, newest); err != nil {
			var d *Damage
			if !errors.As(err, &d) {
				return v.summary, v.findings, err
			}
			return v.summary, append(v.findings, *d), nil
		}
	}
	apart, err := v.rules.finish(maxFindings - len(v.findings))
	if err != nil {
		return v.summary, v.findings, err
	}
	for _, one := range apart {
		at := Position{files[one.at.file].Path, int(one.at.line), int64(one.at.offset)} //nolint:gosec // as it was put in
		v.findings = append(v.findings, Damage{at, one.what})
	}
	v.checkHead()
	v.summary.Open = v.rules.open
	return v.summary, v.findings, nil
}

// verification is one run of [Verify].
type verification struct {
	o           VerifyOptions
	path        string
	chain       chain
	head        head
	headProblem error
	headSum     string // sum of the record that the head names
	rules       *rules
	summary     Summary
	findings    []Damage
	at          Position // position of the current line
	before      int64    // bytes in the previous files
	total       int64
}

type openSegment struct {
	Segment
	file *os.File
	size int64
}

// list returns the current files of the journal. The newest is opened first: if the journal closes it in the meantime,
// it is found under its new name and not read twice. The others are opened one at a time.
func (v *verification) list() (out []Segment, newest *os.File, err error) {
	newest, err = os.Open(v.path)
	for try := 0; errors.Is(err, fs.ErrNotExist) && try < 20; try++ { // the list was read during a rotation
		if all, e := closedSegments(v.path); e != nil || len(all) == 0 {
			break
		}
		time.Sleep(time.Millisecond)
		newest, err = os.Open(v.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	missing := err
	all, err := closedSegments(v.path)
	if err != nil {
		return nil, newest, err
	}
	if missing != nil && len(all) == 0 {
		return nil, nil, missing
	}
	if newest == nil {
		all, err = v.addSizes(all, nil)
		return all, nil, err
	}
	mine, err := newest.Stat()
	if err != nil {
		return nil, newest, err
	}
	if all, err = v.addSizes(all, mine); err != nil {
		return nil, newest, err
	}
	v.total += mine.Size()
	return append(all, Segment{Path: v.path}), newest, nil
}

// addSizes adds the sizes of the closed segments to the total, up to the one that is the same file as mine.
func (v *verification) addSizes(all []Segment, mine fs.FileInfo) ([]Segment, error) {
	for i, s := range all {
		st, err := os.Stat(s.Path)
		if err != nil {
			return nil, err
		}
		if mine != nil && os.SameFile(st, mine) {
			return all[:i], nil
		}
		v.total += st.Size()
	}
	return all, nil
}

// file opens and verifies one file; the newest one is already open.
func (v *verification) file(s Segment, newest *os.File) error {
	f := newest
	if s.Closed {
		var err error
		if f, err = os.Open(s.Path); err != nil {
			return fault.Cure(err, "if the file was archived meanwhile, verify again with --first")
		}
		defer f.Close() //nolint:errcheck // only read
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := v.segment(openSegment{s, f, st.Size()}); err != nil {
		return err
	}
	v.before += st.Size()
	if v.o.Progress != nil {
		v.o.Progress(v.before, max(v.total, v.before))
	}
	return nil
}

// segment verifies the lines of one file.
func (v *verification) segment(s openSegment) error {
	v.summary.Segments++
	v.at = Position{File: s.Path, Line: 1}
	r := bufio.NewReaderSize(s.file, 32<<10)
	for tries := 0; ; {
		line, err := readLine(r)
		if errors.Is(err, errTorn) && !s.Closed && tries < 10 { // a write may be in progress
			tries++
			time.Sleep(5 * time.Millisecond)
			if _, err := s.file.Seek(v.at.Offset, io.SeekStart); err != nil {
				return err
			}
			r.Reset(s.file)
			continue
		}
		switch {
		case errors.Is(err, io.EOF):
			if s.Closed && v.at.Line == 1 {
				return v.damage("an empty segment")
			}
			return nil
		case errors.Is(err, errTorn):
			return v.damage(fmt.Sprintf("%v: %d bytes without a line feed, as after a crash; the next "+
				"start sets them aside",
				err, len(line)))
		case errors.Is(err, errLong):
			return v.damage(err.Error())
		case err != nil:
			return err
		}
		if err := v.line(s, line); err != nil {
			return err
		}
		v.at.Line++
		v.at.Offset += int64(len(line))
		if v.o.Progress != nil && v.at.Line%1000 == 0 {
			v.o.Progress(v.before+v.at.Offset, max(v.total, v.before+v.at.Offset))
		}
	}
}

func (v *verification) damage(what string) error { return &Damage{At: v.at, What: what} }

// line verifies one line: its sum, its place in the chain, its form, then its content.
func (v *verification) line(s openSegment, line []byte) error {
	if v.summary.Last == 0 && v.o.First > 1 {
		// The previous record is elsewhere, so its sum cannot be compared.
		if l, err := linkOf(line); err == nil {
			v.chain.sum = l.prev
		}
	}
	if err := v.chain.follow(line); err != nil {
		return v.damage(err.Error())
	}
	if s.Closed && v.at.Line == 1 && s.First != v.chain.seq {
		return v.damage(fmt.Sprintf("begins with record %d instead of the one in its name", v.chain.seq))
	}
	r, err := ParseRecord(line)
	if err != nil {
		return v.damage(err.Error())
	}
	if v.summary.Last == 0 {
		v.summary.First, v.summary.From = r.Seq, r.Time
	}
	v.summary.Last, v.summary.Sum, v.summary.To = r.Seq, r.Sum, r.Time
	v.summary.Kinds[r.Kind]++
	if r.Kind == Outcome || r.Kind == Rekor && r.Result == Logged {
		v.summary.Results[r.Result]++
	}
	if r.Seq == v.head.seq {
		v.headSum = r.Sum
	}
	v.rules.at.line, v.rules.at.offset = uint32(v.at.Line), uint64(v.at.Offset) //nolint:gosec // a file has fewer lines
	for _, what := range v.rules.record(&r) {
		if v.findings = append(v.findings, Damage{v.at, what}); len(v.findings) >= maxFindings {
			return v.damage("there are more findings than those listed")
		}
	}
	v.summary.Crashes = v.rules.crashes
	return nil
}

// checkHead compares the end of the journal with what was acknowledged.
func (v *verification) checkHead() {
	at := Position{File: v.path + headSuffix, Line: 1}
	add := func(format string, args ...any) {
		v.findings = append(v.findings, Damage{at, fmt.Sprintf(format, args...)})
	}
	switch {
	case errors.Is(v.headProblem, fs.ErrNotExist):
		add("is missing: it is unknown whether records are missing at the end")
	case v.headProblem != nil:
		add("%v", v.headProblem)
	case v.head.seq > v.summary.Last:
		add("record %d was written, but %s ends after record %d: records are missing",
			v.head.seq, filepath.Base(v.path), v.summary.Last)
	case v.headSum == "" && v.head.seq >= max(v.summary.First, 1) || v.headSum != "" && v.headSum != v.head.sum:
		add("record %d differs from the one that was written", v.head.seq)
	}
}

// Sums checks the sums of single lines. It may be used by one goroutine at a time. [Verify] checks more.
type Sums struct{ chain chain }

// NewSums makes a Sums for a journal with the key. An empty key means SHA-256.
func NewSums(key []byte) *Sums { return &Sums{newChain(key)} }

// Check returns a [Damage] unless the entry's sum is that of its bytes.
func (s *Sums) Check(e *Entry) error {
	l, err := linkOf(e.Raw)
	if err != nil {
		return &Damage{At: e.At, What: err.Error()}
	}
	if s.chain.digest(l.covered) != l.sum {
		return &Damage{At: e.At, What: fmt.Sprintf("the checksum of record %d does not match its bytes", l.seq)}
	}
	return nil
}
