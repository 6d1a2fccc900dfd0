package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
)

// maxRequestTime is longer than any request takes: an outcome is written no later than that after its intent.
const maxRequestTime = 2 * time.Minute

// Journal is a journal to audit.
type Journal struct {
	// Name is the name of the journal in findings.
	Name string
	Path string
	// Live: this CA writes the journal at this path. Any other journal may be a copy, which may be behind.
	Live bool
	Key  []byte // the key of the journal's sums; empty: the sums are SHA-256
}

// FindJournals returns the journals that exist at the paths and shell patterns of Config.Journals, sorted. The error
// names the patterns without a journal. Files that belong to a journal, such as its closed segments, are omitted.
func FindJournals(patterns []string) (paths []string, err error) {
	for _, pattern := range patterns {
		found, e := filepath.Glob(pattern)
		if e != nil || len(found) == 0 {
			err = errors.Join(err, e, fmt.Errorf("audit.reconcile.journals: no file matches %s", pattern))
		}
		paths = append(paths, slices.DeleteFunc(found, isCompanion)...)
	}
	slices.Sort(paths)
	return slices.Compact(paths), err
}

// isCompanion reports whether a file belongs to a journal: its path is that of an existing file, a dot, and a suffix.
func isCompanion(path string) bool {
	for i := len(path) - 1; i > 0 && path[i] != filepath.Separator; i-- {
		if path[i] != '.' {
			continue
		}
		if st, err := os.Stat(path[:i]); err == nil && st.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// journalReader reads a journal and checks the sum of each record.
type journalReader struct {
	reader *journal.Reader
	sums   *journal.Sums
}

func (j Journal) open(from uint64) *journalReader {
	r := journal.NewReader(j.Path, from)
	if j.Live {
		r.Acknowledged()
	}
	return &journalReader{r, journal.NewSums(j.Key)}
}

// next returns the next record. The error is [io.EOF] at the current end of the journal. After a *[journal.Damage] the
// journal can be read on.
func (r *journalReader) next() (*journal.Record, error) {
	e, err := r.reader.Next()
	if err == nil {
		err = r.sums.Check(&e)
	}
	return &e.Record, err
}

func (r *journalReader) close() { _ = r.reader.Close() } // opened for reading only

// journalState is what is known about a journal, and how far it has been read.
type journalState struct {
	name   string
	path   string
	number uint16
	live   bool
	next   uint64 // number of the next record
	sum    string // digest of the last record
	root   string // sum of the first record: it identifies the journal
	// truncated: the journal does not begin with record 1, because older segments were archived.
	truncated      bool
	first          time.Time
	last           time.Time
	keys           map[string]bool // the issuing keys that the journal names
	read           uint64          // number of records
	intentsRemoved uint64          // outcomes whose intents were archived
	signatures     signatureCount
}

// signatureCount is how many signatures of one process its records explain.
type signatureCount struct {
	started   bool // the journal has the start of the process
	explained int  // by outcomes and trials
	pending   int  // intents without an outcome
}

// checkChain checks that r is the next record of the hash chain. The reader has checked that the sum of each record is
// that of its line.
func (j *journalState) checkChain(c *correlation, r *journal.Record) {
	switch {
	case j.read == 0:
		j.truncated, j.first, j.root = r.Seq != 1, r.Time, r.Sum
	case r.Seq != j.next:
		j.broken(c, r, fmt.Sprintf("record %d is followed by record %d", j.next-1, r.Seq))
	case r.Prev != j.sum:
		j.broken(c, r, fmt.Sprintf("the hash chain is broken: record %d does not continue the one before it", r.Seq))
	}
	j.next, j.sum, j.last = r.Seq+1, r.Sum, r.Time
	j.read++
}

// broken reports a record that must not be in the journal.
func (j *journalState) broken(c *correlation, r *journal.Record, text string) {
	c.report(newFinding(Finding{Kind: JournalBroken, Journal: j.name, Serial: r.Serial, Time: r.Time, Text: text},
		fmt.Sprint(r.Seq)))
}

// damaged reports damage to the journal.
func (j *journalState) damaged(c *correlation, text string) {
	c.report(newFinding(Finding{Kind: JournalBroken, Journal: j.name, Time: j.last, Text: text}, text))
}

// checkSignatures compares the signatures that the process counted with those that its records explain.
//
// A request in progress has an intent and up to two signatures that no record explains yet. While a configuration is
// reloaded, other requests may end between the counting and the writing of the record, so that the records may explain
// more than was counted. When the process stops, no request is in progress except those that were given up.
func (j *journalState) checkSignatures(c *correlation, r *journal.Record) {
	s := &j.signatures
	switch r.Kind {
	case journal.Start:
		*s = signatureCount{started: true}
		return
	case journal.Trial:
		s.explained += r.Signatures
		return
	}
	if !s.started {
		return // the start of the process was archived
	}
	most, least := s.explained+2*s.pending, s.explained
	if r.Signatures > most || r.Kind == journal.Stop && r.Signatures < least {
		c.report(newFinding(Finding{
			Kind: SignaturesUncounted, Journal: j.name, Time: r.Time,
			Text: fmt.Sprintf("record %d (%s): the key made %d signatures since the process started, but the "+
				"records explain %d to %d",
				r.Seq, r.Kind, r.Signatures, least, most),
		}, fmt.Sprint(r.Seq)))
	}
	if r.Kind == journal.Stop {
		s.started = false
	}
}

// openJournal is a journal that an Auditor reads.
type openJournal struct {
	*journalReader
	*journalState
	held      *journal.Record // a record that was read and is too new for this cycle
	duplicate bool            // it is a copy of another journal, and is not read
}

// readJournals reads the journals up to their current ends, or up to a.readUntil.
func (a *Auditor) readJournals(ctx context.Context) error {
	if a.o.Journals == nil {
		return nil
	}
	all, err := a.o.Journals()
	errs := []error{err} // the journals that exist are read nevertheless
	a.followMovedJournals(all)
	for _, j := range all {
		o := a.openJournals[j.Path]
		if o == nil {
			state := a.stateOf(j)
			a.checkContinuity(j, state)
			// The records of a new journal may explain entries that were read and evicted: the logs are read again.
			a.rescan = a.rescan || state.read == 0 && a.entriesRead
			o = &openJournal{journalReader: j.open(state.next), journalState: state}
			a.openJournals[j.Path] = o
		}
		if err := a.readJournal(ctx, o); err != nil {
			errs = append(errs, fmt.Errorf("journal %s: %w", j.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (a *Auditor) readJournal(ctx context.Context, o *openJournal) error {
	for ctx.Err() == nil {
		if o.duplicate {
			return errors.New("the journal is a copy of another journal; name only one of them")
		}
		record := o.held
		o.held = nil
		if record == nil {
			var err error
			record, err = o.journalReader.next()
			var damage *journal.Damage
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case errors.As(err, &damage):
				o.damaged(a.correlation, damage.Error())
				continue
			case err != nil:
				return err
			}
		}
		if !a.readUntil.IsZero() && record.Time.After(a.readUntil) || len(a.obligations) >= int(a.o.Rows) {
			o.held = record
			return nil
		}
		if a.addRecord(o.journalState, record); o.read == 1 && a.isCopy(o.journalState) {
			o.duplicate = true
		}
	}
	return nil
}

// stateOf returns the state of a journal, which may come from the saved state.
func (a *Auditor) stateOf(j Journal) *journalState {
	for _, s := range a.journals {
		if s.path == j.Path {
			s.name, s.live = j.Name, j.Live
			return s
		}
	}
	s := &journalState{name: j.Name, path: j.Path, number: uint16(len(a.journals)), live: j.Live, keys: map[string]bool{}} //nolint:gosec // a few
	a.journals = append(a.journals, s)
	return s
}

// isCopy reports whether another journal begins with the same record.
func (a *Auditor) isCopy(s *journalState) bool {
	return slices.ContainsFunc(a.journals, func(other *journalState) bool { return other != s && other.root == s.root })
}
