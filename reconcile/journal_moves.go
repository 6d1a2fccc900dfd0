package reconcile

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// followMovedJournals finds the journals that were moved to another path since they were read, and continues their
// states. Without it, a moved journal would look like a copy of itself.
func (a *Auditor) followMovedJournals(all []Journal) {
	for _, j := range all {
		if slices.ContainsFunc(a.journals, func(s *journalState) bool { return s.path == j.Path }) {
			continue
		}
		for _, s := range a.journals {
			if !slices.ContainsFunc(all, func(other Journal) bool { return other.Path == s.path }) && s.continuesIn(j) {
				delete(a.openJournals, s.path)
				s.path = j.Path
				break
			}
		}
	}
}

// continuesIn reports whether other contains the last record that was read from j.
func (j *journalState) continuesIn(other Journal) bool {
	if j.read == 0 {
		return false
	}
	in := other.open(j.next - 1)
	defer in.close()
	r, err := in.next()
	return err == nil && r.Seq == j.next-1 && r.Sum == j.sum
}

// checkContinuity reports a journal that differs from the one that was read before, or ends earlier, and resets its
// state.
func (a *Auditor) checkContinuity(j Journal, s *journalState) {
	before := fmt.Sprintf("that one had %d records, the last of %s", s.next-1, s.last.Format(time.RFC3339))
	switch {
	case s.read == 0:
		return
	case !s.truncated && s.replacedBy(j):
		s.damaged(a.correlation, "this is not the journal that was read before: "+before)
	case s.live && s.rewrittenIn(j):
		s.damaged(a.correlation, "the end of the journal was removed or rewritten since it was read: "+before)
	default:
		return // any other damage is found when the journal is read
	}
	for n := uint32(1); n <= a.rows.n; n++ { // the records that are still there are added again
		if r := a.rows.at(n); r.journal == s.number {
			r.flags = 0
		}
	}
	a.obligations = slices.DeleteFunc(a.obligations,
		func(o obligation) bool { return a.rows.at(o.row).journal == s.number })
	*s = journalState{name: s.name, path: s.path, number: s.number, live: s.live, keys: s.keys}
}

// replacedBy reports whether j begins with another first record than s.
func (j *journalState) replacedBy(other Journal) bool {
	in := other.open(0)
	defer in.close()
	r, err := in.next()
	return err == nil && r.Seq == 1 && r.Sum != j.root
}

// rewrittenIn reports whether j ends before the last record that was read of s, or has another record in its place.
func (j *journalState) rewrittenIn(other Journal) bool {
	in := other.open(j.next - 1)
	defer in.close()
	r, err := in.next()
	return errors.Is(err, io.EOF) || err == nil && r.Seq == j.next-1 && r.Sum != j.sum
}
