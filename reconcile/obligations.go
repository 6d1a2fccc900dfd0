package reconcile

import (
	"encoding/hex"
	"fmt"
	"time"
)

// headGrace is the time after a log's merge delay in which the log may still publish a newer head.
const headGrace = time.Hour

// evaluation has the parameters of one evaluation of the correlation index.
type evaluation struct {
	now time.Time
	// lag is how far a copy of another instance's journal may be behind. Younger entries are not reported yet.
	lag time.Duration
}

// resolveObligations resolves every merge obligation that the log has fulfilled or violated. The others stay open.
func (c *correlation) resolveObligations(ev evaluation) {
	open := c.obligations[:0]
	for i := range c.obligations {
		o := c.obligations[i]
		if c.fulfilled(&o) {
			continue
		}
		if kind, text := c.violation(&o, ev); text != "" {
			f := Finding{
				Kind: kind, Log: c.logs[o.log].name, Serial: hex.EncodeToString(c.rows.at(o.row).serial[:]),
				Time: timeOf(o.timestamp), Text: text,
			}
			if o.hasIndex {
				f.Index = &o.index
			}
			c.report(newFinding(f, fmt.Sprint(o.timestamp)))
			continue
		}
		open = append(open, o)
	}
	c.obligations = open
}

// fulfilled reports whether the log has published the entry of an SCT with the timestamp, extensions and index of the
// SCT.
func (c *correlation) fulfilled(o *obligation) bool {
	return c.hasEntry(o.row, func(e *logEntry) bool {
		return e.log == o.log && !e.final && e.timestamp == o.timestamp && e.extensions == o.extensions &&
			(!o.hasIndex || e.index == o.index)
	})
}

// violation describes how the log violates an obligation; empty if it does not, as far as is known.
func (c *correlation) violation(o *obligation, ev evaluation) (Kind, string) {
	w := c.logs[o.log]
	due := timeOf(o.timestamp).Add(w.mergeDelay)
	different := c.differentEntry(o)
	complete := w.size == w.head.Size // the log was read up to its head
	switch {
	case w.removed || !w.verified:
		return "", ""
	case o.hasIndex && o.index < w.size && different != "":
		return EntryMismatch, fmt.Sprintf("the SCT names index %d and timestamp %d; %s", o.index,
			o.timestamp, different)
	case o.hasIndex && o.index < w.size:
		return MissingEntry,
			fmt.Sprintf("the SCT names index %d, and the log has another entry there (its head covers %d entries)",
				o.index, w.size)
	case complete && w.head.Time().After(due) && different != "":
		return EntryMismatch, fmt.Sprintf("the SCT has the timestamp %d; %s", o.timestamp, different)
	case complete && w.head.Time().After(due):
		return MissingEntry,
			fmt.Sprintf("the SCT is of %s, and the log's head of %s does not cover its entry (maximum merge delay: %s)",
				timeOf(o.timestamp).Format(time.RFC3339), w.head.Time().Format(time.RFC3339), w.mergeDelay)
	case !w.directory && (complete || w.unreadable) && ev.now.After(due.Add(headGrace)):
		return MissingEntry,
			fmt.Sprintf("the SCT is of %s, and the log has published no head since that covers its entry "+
				"(maximum merge delay: %s)",
				timeOf(o.timestamp).Format(time.RFC3339), w.mergeDelay)
	}
	return "", ""
}

// differentEntry describes an entry of the log for the same TBSCertificate that differs from the SCT; empty if there is
// none.
func (c *correlation) differentEntry(o *obligation) (text string) {
	c.hasEntry(o.row, func(e *logEntry) bool {
		if e.log == o.log && !e.final {
			text = fmt.Sprintf("the log has the entry at index %d with timestamp %d", e.index, e.timestamp)
			if e.index == o.index && e.timestamp == o.timestamp {
				text += " and other extensions"
			}
		}
		return text != ""
	})
	return text
}

// overdue counts the obligations that are overdue in directories. A directory does not tell whether the log violated
// the obligations or the directory is an old copy. The texts name the logs with overdue SCTs issued after since.
func (c *correlation) overdue(now, since time.Time) (all uint64, texts []string) {
	perLog := make([]uint64, len(c.logs))
	for _, o := range c.obligations {
		w, at := c.logs[o.log], timeOf(o.timestamp)
		if !w.directory || !w.verified || !now.After(at.Add(w.mergeDelay+headGrace)) {
			continue
		}
		all++
		if !at.Before(since) {
			perLog[o.log]++
		}
	}
	for i, n := range perLog {
		if w := c.logs[i]; n > 0 {
			texts = append(texts,
				fmt.Sprintf("log %s: the newest head here is of %s, covers %d entries, and lacks %d entries whose "+
					"merge delay is over: if this directory is a copy, take a newer one; if it is the log itself, "+
					"restore its newest state",
					w.name, w.head.Time().Format(time.RFC3339), w.head.Size, n))
		}
	}
	return all, texts
}
