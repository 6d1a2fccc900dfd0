package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Suffixes of the files of a journal beside FILE itself, which has the newest records.
const (
	headSuffix   = ".head"  // the last acknowledged record
	lockSuffix   = ".lock"  // locked by the process that writes
	saltSuffix   = ".salt"  // for digests of subjects, if none is configured
	tornInfix    = ".torn-" // what a crash or a failed write left at the end, with a time
	segmentWidth = 12       // digits of a closed segment's first sequence number
)

// Segment is one file of a journal.
type Segment struct {
	Path   string
	First  uint64 // number of its first record; 0: it has none yet
	Closed bool   // no further record is added
}

// Segments returns the files of the journal at path, in their order: closed ones, then path itself if it exists. No
// file at all is an error.
func Segments(path string) ([]Segment, error) {
	out, err := closedSegments(path)
	if err != nil {
		return nil, err
	}
	first, err := firstOf(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(out) > 0:
		return out, nil
	case err != nil:
		return nil, err
	}
	return append(out, Segment{Path: path, First: first}), nil
}

func closedSegments(path string) ([]Segment, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var out []Segment
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		if !ok || len(digits) < segmentWidth || strings.Trim(digits, "0123456789") != "" {
			continue
		}
		first, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || segmentName(path, first) != path+"."+digits {
			continue
		}
		out = append(out, Segment{Path: path + "." + digits, First: first, Closed: true})
	}
	slices.SortFunc(out, func(a, b Segment) int {
		if a.First < b.First {
			return -1
		}
		return 1
	})
	return out, nil
}

func segmentName(path string, first uint64) string {
	return fmt.Sprintf("%s.%0*d", path, segmentWidth, first)
}

// firstOf returns the number of the first record of a file; 0 if there is no complete line yet.
func firstOf(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	line, err := readLine(bufio.NewReader(f))
	if err != nil {
		return 0, nil //nolint:nilerr // an empty file, or one that begins with a torn line
	}
	l, err := linkOf(line)
	if err != nil {
		return 0, nil //nolint:nilerr // the error appears again, with its place, when the line is read
	}
	return l.seq, nil
}

// errTorn means that a file ends inside a line.
var errTorn = errors.New("the last line is incomplete")

// errLong means that a line is longer than the longest line of a journal.
var errLong = fmt.Errorf("a line of more than %d bytes", maxLine)

// readLine returns the next line with its line feed. At the end of the file the error is io.EOF, and inside a line it
// is errTorn. The line is valid until the next call.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err == nil {
		return line, nil
	}
	whole := bytes.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		if len(whole) > maxLine {
			return whole, errLong
		}
		line, err = r.ReadSlice('\n')
		whole = append(whole, line...)
	}
	if errors.Is(err, io.EOF) && len(whole) > 0 {
		err = errTorn
	}
	return whole, err
}

// head names the last acknowledged record, in the file FILE.head. It is written after each commit and not synced: after
// a crash it may name an earlier record, and never a later one.
type head struct {
	seq uint64
	sum string
}

const (
	headLayout = "%020d %s\n"
	headSize   = int64(20 + 1 + len(zeroes) + 1)
)

func (h head) bytes() []byte { return fmt.Appendf(nil, headLayout, h.seq, h.sum) }

func readHead(path string) (head, error) {
	data, err := os.ReadFile(path + headSuffix)
	if err != nil {
		return head{}, err
	}
	digits, sum, _ := strings.Cut(strings.TrimSuffix(string(data), "\n"), " ")
	seq, err := strconv.ParseUint(digits, 10, 64)
	h := head{seq, sum}
	if err != nil || !isSum(sum) || !bytes.Equal(h.bytes(), data) {
		return head{}, fmt.Errorf("%s does not have a sequence number and a sum", path+headSuffix)
	}
	return h, nil
}
