package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/monitor"
)

// evaluate checks everything that can be checked with what has been read so far.
func (a *Auditor) evaluate(ctx context.Context) error {
	ev := evaluation{now: a.o.Now(), lag: a.o.Lag}
	a.reader = &entryReader{follower: func(n uint16) *monitor.Follower {
		for _, f := range a.followers {
			if f.number == n {
				return f.Follower
			}
		}
		return nil
	}}
	defer func() { a.reader = nil }() // together with the entries that it still has
	a.reportSameSerials()
	a.reportUnknownCAs()
	a.resolveObligations(ev)
	a.candidates = slices.DeleteFunc(a.candidates, func(one candidate) bool { // checked even if journals are incomplete
		e := a.entries.at(one.entry)
		if !e.subordinate || e.precertSigner && a.o.Journals != nil { // a journal may have the trial that made it
			return false
		}
		a.reportUnintended(ctx, one)
		return true
	})
	if a.o.Journals == nil {
		a.candidates, a.finals = nil, nil // without a journal, no intent is known
		return nil
	}
	unexplained, waiting := a.checkCandidates(ev)
	err := a.lookUpIntents(ctx, unexplained)
	if err != nil { // a journal that could not be read proves nothing: the next audit tries again
		a.candidates = slices.Concat(waiting, unexplained)
		return err
	}
	a.candidates = waiting
	for _, one := range unexplained {
		// The check is repeated because lookUpIntents may have found that older segments were archived.
		if !a.rows.at(one.row).is(intended) && a.checkCandidate(one, ev) == unintended {
			a.reportUnintended(ctx, one)
		}
	}
	finals := a.finals
	a.finals = nil
	for _, f := range finals {
		switch {
		case a.isWaiting(f.candidate) || !a.journalsCover(f.candidate):
			a.finals = append(a.finals, f)
		case a.rows.at(f.row).is(intended):
			a.checkFinal(ctx, f)
		}
	}
	return nil
}

// journalsCover reports whether the journals were read far enough to have the intent of an entry.
func (a *Auditor) journalsCover(one candidate) bool {
	at := timeOf(a.entries.at(one.entry).timestamp)
	return a.readUntil.IsZero() || !at.Add(maxClockSkew).After(a.readUntil)
}

// isWaiting reports whether an entry is a candidate that could not be checked conclusively yet.
func (a *Auditor) isWaiting(one candidate) bool {
	for _, w := range a.candidates {
		if w.entry == one.entry {
			return true
		}
	}
	return false
}

// checkCandidates reports the candidates without an intent, and keeps those that cannot be decided yet.
func (a *Auditor) checkCandidates(ev evaluation) (unexplained, waiting []candidate) {
	for _, one := range a.candidates {
		switch {
		case a.rows.at(one.row).is(intended):
		case !a.journalsCover(one):
			waiting = append(waiting, one)
		default:
			switch a.checkCandidate(one, ev) {
			case unintended:
				unexplained = append(unexplained, one)
			case undecided:
				waiting = append(waiting, one)
			case predatesJournal, ownPrecertSigner:
			}
		}
	}
	return unexplained, waiting
}

// lookUpIntents searches all journals from their beginnings for the intents of the given candidates, because rows that
// were resolved long ago have been evicted.
func (a *Auditor) lookUpIntents(ctx context.Context, candidates []candidate) error {
	if len(candidates) == 0 {
		return nil
	}
	wanted := map[string]uint32{} // TBS digest to row
	for _, one := range candidates {
		wanted[fmt.Sprintf("%x", a.rows.at(one.row).tbs)] = one.row
	}
	for _, f := range a.finals {
		wanted[fmt.Sprintf("%x", a.rows.at(f.row).tbs)] = f.row
	}
	all, err := a.o.Journals()
	if err != nil {
		return err
	}
	for _, j := range all {
		if err := a.lookUpIntentsIn(ctx, j, wanted); err != nil {
			return fmt.Errorf("journal %s: %w", j.Name, err)
		}
	}
	return nil
}

func (a *Auditor) lookUpIntentsIn(ctx context.Context, j Journal, wanted map[string]uint32) error {
	in := j.open(0)
	defer in.close()
	for first := true; ; {
		r, err := in.next()
		var damage *journal.Damage
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &damage):
			continue // it was reported when the journal was read
		case err != nil:
			return err
		}
		if first {
			first = false
			if s := a.stateOf(j); r.Seq != 1 && r.Time.After(s.first) { // older segments were archived since
				s.first, s.truncated = r.Time, true
			}
		}
		n, ok := wanted[r.TBS]
		if !ok || r.TBS == "" {
			continue
		}
		one := a.rows.at(n)
		switch {
		case r.Kind == journal.Trial:
			one.flags |= trial
		case r.Kind == journal.Intent:
			one.flags |= intended
		case r.Kind == journal.Outcome && r.Result == journal.Issued:
			one.flags |= issued
			if sum, ok := parseDigest(r.Certificate); ok {
				one.certPrefix = certPrefix(sum)
			}
		}
	}
}

// evict removes old rows that are resolved. Rows with open obligations or candidates stay.
func (a *Auditor) evict() {
	n := a.rows.n
	if n < min(minEvictRows, a.o.Rows) || n < a.o.Rows && n < 2*a.rowsKept {
		return
	}
	now := a.o.Now()
	if !a.readUntil.IsZero() && a.readUntil.Before(now) {
		now = a.readUntil
	}
	horizon := now.Add(-a.o.Keep)
	if n >= a.o.Rows {
		horizon = now.Add(-maxRequestTime)
	}
	a.evictBefore(horizon)
	a.rowsKept = a.rows.n
}

// evictBefore keeps the rows that are open and those after the horizon.
func (c *correlation) evictBefore(horizon time.Time) {
	open := map[uint32]bool{}
	for _, o := range c.obligations {
		open[o.row] = true
	}
	for _, one := range c.candidates {
		open[one.row] = true
	}
	for _, f := range c.finals {
		open[f.row] = true
	}
	next := newRowTable()
	rows, entries := map[uint32]uint32{}, map[uint32]uint32{} // old number to new number
	for n := uint32(1); n <= c.rows.n; n++ {
		r := *c.rows.at(n)
		young := time.Unix(int64(r.seconds), 0).After(horizon)
		if !open[n] && !young {
			continue
		}
		at := r.entries
		r.entries = 0
		to, _ := next.addRow(r)
		rows[n] = to
		for ; at != 0; at = c.entries.at(at).next {
			next.addEntry(to, *c.entries.at(at))
			entries[at] = next.entries.n
		}
	}
	for i := range c.obligations {
		c.obligations[i].row = rows[c.obligations[i].row]
	}
	for i := range c.candidates {
		c.candidates[i].row, c.candidates[i].entry = rows[c.candidates[i].row], entries[c.candidates[i].entry]
	}
	for i := range c.finals {
		c.finals[i].row, c.finals[i].entry = rows[c.finals[i].row], entries[c.finals[i].entry]
	}
	c.rowTable = next
}
