package reconcile

import (
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
)

// aRequest is longer than any request lasts: an outcome stands no further behind its intent.
const aRequest = 2 * time.Minute

// book is how far a journal has been read.
type book struct {
	name   string
	path   string
	number uint16
	live   bool // it is read to its present end each time; else it is a copy that may be behind
	next   uint64
	sum    string // of the last record
	root   string // the sum of the first record: whose journal it is
	cut    bool   // it does not begin with record 1: older segments were taken away
	first  time.Time
	last   time.Time
	keys   map[string]bool // issuing keys that it names
	read   uint64          // records
	early  uint64          // outcomes whose intents were taken away
	tally  tally
}

// tally counts the signatures of one process.
type tally struct {
	on      bool // the process began in this journal
	signed  int  // by outcomes and trials
	pending int  // intents without outcome
}

// follow proves that r is the next link of the chain. That each sum is the one of its line is proven by whoever reads the lines.
func (b *book) follow(a *account, r *journal.Record) {
	switch {
	case b.read == 0:
		b.cut, b.first, b.root = r.Seq != 1, r.Time, r.Sum
	case r.Seq != b.next:
		b.broken(a, r, fmt.Sprintf("record %d is followed by record %d", b.next-1, r.Seq))
	case r.Prev != b.sum:
		b.broken(a, r, fmt.Sprintf("record %d does not continue the one before it", r.Seq))
	}
	b.next, b.sum, b.last = r.Seq+1, r.Sum, r.Time
	b.read++
}

func (b *book) broken(a *account, r *journal.Record, text string) {
	a.report(newFinding(Finding{Kind: JournalBroken, Journal: b.name, Serial: r.Serial, Time: r.Time, Text: text}, fmt.Sprint(r.Seq)))
}

// damaged notes what the reader of the lines has found.
func (b *book) damaged(a *account, text string) {
	a.report(newFinding(Finding{Kind: JournalBroken, Journal: b.name, Time: b.last, Text: text}, text))
}

// count holds the signatures that the process has counted against those that its records explain.
//
// A request under way has an intent, and up to two signatures that no record explains yet. While a configuration is reloaded
// others may end between the counting and the writing, so that records may then explain more than was counted. When the
// process stops, nothing is under way but what was given up.
func (b *book) count(a *account, r *journal.Record) {
	t := &b.tally
	switch r.Kind {
	case journal.Start:
		*t = tally{on: true}
		return
	case journal.Trial:
		t.signed += r.Signatures
		return
	}
	if !t.on {
		return // its beginning was taken away
	}
	most, least := t.signed+2*t.pending, t.signed
	if r.Signatures > most || r.Kind == journal.Stop && r.Signatures < least {
		a.report(newFinding(Finding{
			Kind: SignaturesUncounted, Journal: b.name, Time: r.Time,
			Text: fmt.Sprintf("record %d (%s): the key made %d signatures since the process began; records explain %d to %d",
				r.Seq, r.Kind, r.Signatures, least, most),
		}, fmt.Sprint(r.Seq)))
	}
	if r.Kind == journal.Stop {
		t.on = false
	}
}
