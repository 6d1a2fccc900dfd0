package journal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// ParseRecord reads one line of a journal, with or without its line feed. It accepts exactly what a journal writes: a
// line whose record would be encoded differently is refused, and so is a record of a newer format. It does not verify
// Sum, which needs the journal's key, see [Verify].
func ParseRecord(line []byte) (Record, error) {
	var r Record
	line = bytes.TrimSuffix(line, []byte("\n"))
	if len(line) >= maxLine {
		return r, fmt.Errorf("a line of %d bytes; at most %d are allowed", len(line), maxLine)
	}
	if seq, format := lineHead(line); format > Format {
		return r, newerFormat(seq, format)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("not a record: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Record{}, errors.New("not a record: bytes after the object")
	}
	again := appendSum(r.appendCovered(make([]byte, 0, len(line)+64)), r.Sum)
	if !bytes.Equal(again[:len(again)-1], line) || r.Format < 0 || r.Format == 1 {
		return Record{}, errors.New("not in the encoding of a journal")
	}
	if !isSum(r.Prev) || !isSum(r.Sum) {
		return Record{}, errors.New("prev and sum are not 64 hexadecimal digits")
	}
	return r, r.check()
}

// errNewer is a record of a newer format than this package knows. It is not damaged, but cannot be read.
var errNewer = errors.New("this version of mayfly reads formats up to " + strconv.Itoa(Format) +
	"; use the version that wrote it, or a newer one")

func newerFormat(seq uint64, format int) error {
	return fmt.Errorf("record %d has format %d; %w", seq, format, errNewer)
}

func isSum(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw)*2 == len(zeroes) && hex.EncodeToString(raw) == s
}

// link is the part of a line that determines its place in the chain. It is the same in every format.
type link struct {
	seq       uint64
	format    int
	prev, sum string
	covered   []byte // the bytes that the sum covers
}

// check refuses a record of a newer format.
func (l *link) check() error {
	if l.format > Format {
		return newerFormat(l.seq, l.format)
	}
	return nil
}

const seqMember, formatMember = `{"seq":`, `"format":`

// lineHead returns the sequence number and the format at the beginning of a line. seq is 0 if the line does not begin
// like a record. A format that is too large for an int is the largest int.
func lineHead(line []byte) (seq uint64, format int) {
	rest, ok := bytes.CutPrefix(line, []byte(seqMember))
	digits, rest, more := bytes.Cut(rest, []byte(","))
	seq, err := strconv.ParseUint(string(digits), 10, 64)
	if !ok || !more || err != nil {
		return 0, 1
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(formatMember)); !ok {
		return seq, 1
	}
	digits, _, _ = bytes.Cut(rest, []byte(","))
	if format, err = strconv.Atoi(string(digits)); err != nil && !errors.Is(err, strconv.ErrRange) {
		return seq, 1
	}
	return seq, format
}

// linkOf splits a whole line, line feed included. It does not check the sum, and accepts a newer format.
func linkOf(line []byte) (link, error) {
	const prevMember = `,"prev":"`
	const prevSize = len(prevMember) + len(`"`)
	at := len(line) - tailSize // where the member "sum" begins
	prevAt := at - prevSize - len(zeroes)
	if prevAt < len(seqMember) || !bytes.HasPrefix(line, []byte(seqMember)) ||
		!bytes.HasPrefix(line[prevAt:], []byte(prevMember)) || !bytes.HasPrefix(line[at:], []byte(sumMember)) ||
		!bytes.HasSuffix(line, []byte(lineEnd)) {
		return link{}, errors.New("not a line of a journal")
	}
	seq, format := lineHead(line)
	if seq == 0 {
		return link{}, errors.New("the sequence number is not a number")
	}
	from, sumFrom := prevAt+len(prevMember), at+len(sumMember)
	return link{
		seq: seq, format: format, prev: string(line[from : from+len(zeroes)]),
		sum: string(line[sumFrom : sumFrom+len(zeroes)]), covered: line[:at],
	}, nil
}

// follow verifies that line is the next one of the chain, and advances the chain to it. After an error the chain is
// unchanged. A record of a newer format is refused only if it is the next one of the chain.
func (c *chain) follow(line []byte) error {
	l, err := linkOf(line)
	switch {
	case err != nil:
		return err
	case c.digest(l.covered) != l.sum:
		return fmt.Errorf("the checksum of record %d does not match its bytes", l.seq)
	case l.seq != c.seq+1:
		return fmt.Errorf("record %d is in the position of record %d", l.seq, c.seq+1)
	case l.prev != c.sum:
		return fmt.Errorf("record %d does not follow the record before it: prev is not its sum", l.seq)
	}
	if err := l.check(); err != nil {
		return err
	}
	c.seq, c.sum = l.seq, l.sum
	return nil
}
