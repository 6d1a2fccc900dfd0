package reconcile

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// followMoves finds the journals that stand at another path than when they were read last, whole directories that were moved among
// them, and goes on with their books. Read as new ones they would be the copies of themselves.
func (a *Auditor) followMoves(all []Journal) {
	for _, j := range all {
		if slices.ContainsFunc(a.books, func(b *book) bool { return b.path == j.Path }) {
			continue
		}
		for _, b := range a.books {
			if !slices.ContainsFunc(all, func(other Journal) bool { return other.Path == b.path }) && b.continuedBy(j) {
				delete(a.cursors, b.path)
				b.path = j.Path
				break
			}
		}
	}
}

// continuedBy reports whether the last record of b that was read stands in j.
func (b *book) continuedBy(j Journal) bool {
	if b.read == 0 {
		return false
	}
	c := j.open(b.next - 1)
	defer c.close()
	r, err := c.next()
	return err == nil && r.Seq == b.next-1 && r.Sum == b.sum
}

// recognise begins a book anew if its journal is not what was read before, which is no small matter.
func (a *Auditor) recognise(j Journal, b *book) {
	had := fmt.Sprintf("that one had %d records, the last of %s", b.next-1, b.last.Format(time.RFC3339))
	switch {
	case b.read == 0:
		return
	case !b.cut && b.replacedBy(j):
		b.damaged(a.account, "it is not the journal that was read before: "+had)
	case b.live && b.rewrittenIn(j):
		b.damaged(a.account, "its end is not the one that was read before, it was cut off or written anew: "+had)
	default:
		return // whatever else is wrong is met when it is read
	}
	for n := uint32(1); n <= a.rows.n; n++ { // what it said is what it says again
		if r := a.rows.at(n); r.journal == b.number {
			r.flags = 0
		}
	}
	a.promises = slices.DeleteFunc(a.promises, func(p promise) bool { return a.rows.at(p.row).journal == b.number })
	*b = book{name: b.name, path: b.path, number: b.number, live: b.live, keys: b.keys}
}

// replacedBy reports whether j begins with another first record than b.
func (b *book) replacedBy(j Journal) bool {
	c := j.open(0)
	defer c.close()
	r, err := c.next()
	return err == nil && r.Seq == 1 && r.Sum != b.root
}

// rewrittenIn reports whether j ends before the last record of b that was read, or has another one there.
func (b *book) rewrittenIn(j Journal) bool {
	c := j.open(b.next - 1)
	defer c.close()
	r, err := c.next()
	return errors.Is(err, io.EOF) || err == nil && r.Seq == b.next-1 && r.Sum != b.sum
}

// bookOf returns the book of a journal, which the state may have brought.
func (a *Auditor) bookOf(j Journal) *book {
	for _, b := range a.books {
		if b.path == j.Path {
			b.name, b.live = j.Name, j.Live
			return b
		}
	}
	b := &book{name: j.Name, path: j.Path, number: uint16(len(a.books)), live: j.Live, keys: map[string]bool{}} //nolint:gosec // a few
	a.books = append(a.books, b)
	return b
}

// copied says that a book is the copy of another one.
func (a *Auditor) copied(b *book) bool {
	return slices.ContainsFunc(a.books, func(other *book) bool { return other != b && other.root == b.root })
}
