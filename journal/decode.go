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

// ParseRecord reads one line of a journal, with or without its line feed. It accepts exactly what a journal writes: a line whose
// record would be written in other bytes is refused. It does not verify Sum, which needs the journal's key, see [Verify].
func ParseRecord(line []byte) (Record, error) {
	var r Record
	line = bytes.TrimSuffix(line, []byte("\n"))
	if len(line) >= maxLine {
		return r, fmt.Errorf("a line of %d bytes; the longest has %d", len(line), maxLine)
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
	if !bytes.Equal(again[:len(again)-1], line) {
		return Record{}, errors.New("not in the form in which a journal writes it")
	}
	if !isSum(r.Prev) || !isSum(r.Sum) {
		return Record{}, errors.New("prev and sum are not 64 hexadecimal digits")
	}
	return r, r.check()
}

func isSum(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw)*2 == len(zeroes) && hex.EncodeToString(raw) == s
}

// link is what holds a line in its chain, read without looking at the rest.
type link struct {
	seq       uint64
	prev, sum string
	covered   []byte // what the sum is over
}

// linkOf takes a whole line apart, line feed included. The sum still has to be compared.
func linkOf(line []byte) (link, error) {
	const head, prevMember = `{"seq":`, `,"prev":"`
	const prevSize = len(prevMember) + len(`"`)
	at := len(line) - tailSize // where the sum's member begins
	prevAt := at - prevSize - len(zeroes)
	if prevAt < len(head) || !bytes.HasPrefix(line, []byte(head)) || !bytes.HasPrefix(line[prevAt:], []byte(prevMember)) ||
		!bytes.HasPrefix(line[at:], []byte(sumMember)) || !bytes.HasSuffix(line, []byte(lineEnd)) {
		return link{}, errors.New("not a line of a journal")
	}
	digits, _, _ := bytes.Cut(line[len(head):], []byte(","))
	seq, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil {
		return link{}, errors.New("the sequence number is not a number")
	}
	from, sumFrom := prevAt+len(prevMember), at+len(sumMember)
	return link{
		seq: seq, prev: string(line[from : from+len(zeroes)]), sum: string(line[sumFrom : sumFrom+len(zeroes)]), covered: line[:at],
	}, nil
}

// follow verifies that line is the next one of the chain, and goes on to it. The chain stays where it is on an error.
func (c *chain) follow(line []byte) error {
	l, err := linkOf(line)
	switch {
	case err != nil:
		return err
	case c.digest(l.covered) != l.sum:
		return fmt.Errorf("the checksum of record %d is not that of its bytes", l.seq)
	case l.seq != c.seq+1:
		return fmt.Errorf("record %d where record %d belongs", l.seq, c.seq+1)
	case l.prev != c.sum:
		return fmt.Errorf("record %d does not follow the record before it: prev is not its sum", l.seq)
	}
	c.seq, c.sum = l.seq, l.sum
	return nil
}
