package reconcile

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/monitor"
)

// Log is a log to audit.
type Log struct {
	Follower *monitor.Follower
	// Delay is the log's maximum merge delay (RFC 6962 §3).
	Delay time.Duration
}

// Journal is a journal to audit.
type Journal struct {
	// Name is what findings call it.
	Name string
	Path string
	// Live says that the journal is the one that this CA writes, read where it is written. Another one may be a copy, which
	// may be behind.
	Live bool
	Key  []byte // of its sums; empty: SHA-256
}

// cursor reads a journal.
type cursor struct {
	reader *journal.Reader
	sums   *journal.Sums
}

func (j Journal) open(from uint64) *cursor {
	r := journal.NewReader(j.Path, from)
	if j.Live {
		r.Acknowledged()
	}
	return &cursor{r, journal.NewSums(j.Key)}
}

// next returns the next record. The error is [io.EOF] at the present end; a *[journal.Damage] is no end.
func (c *cursor) next() (*journal.Record, error) {
	e, err := c.reader.Next()
	if err == nil {
		err = c.sums.Check(&e)
	}
	return &e.Record, err
}

func (c *cursor) close() { _ = c.reader.Close() } // it was only read

// Input is for [Run].
type Input struct {
	Logs     []Log
	Journals []Journal
	// Issuers are the issuing certificates of this CA, past and present. Keys that journals name are added to theirs.
	Issuers []*x509.Certificate
	Now     func() time.Time // nil: time.Now
	// Since leaves out findings that are older. Everything is read and proven all the same.
	Since time.Time
	// Lag is how far a journal that is not live may be behind; an entry that is younger is not judged.
	Lag time.Duration
	// Commands are what to run next for a finding; nil is none.
	Commands func(Finding) []string
	// Progress is called now and then; nil is nobody.
	Progress func(Progress)
}

// Progress is how far a run is. Of is 0 where it is not known.
type Progress struct {
	Name     string // of the log or journal
	Read, Of uint64
}

// Report is what a run found.
type Report struct {
	Logs     []LogReport     `json:"logs"`
	Journals []JournalReport `json:"journals"`
	Findings []Finding       `json:"findings"`
	// Explained counts what does not match and need not.
	Explained Explained `json:"explained"`
	// Incomplete says what could not be read. Unless it is empty, nothing is proven.
	Incomplete []string `json:"incomplete"`
}

// LogReport says how far a log was read.
type LogReport struct {
	Name  string    `json:"name"`
	Size  uint64    `json:"size"` // of the head
	Head  time.Time `json:"head"`
	Read  uint64    `json:"read"`
	Ours  uint64    `json:"ours"`
	Error string    `json:"error,omitempty"`
}

// JournalReport says how far a journal was read.
type JournalReport struct {
	Name    string    `json:"name"`
	Records uint64    `json:"records"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Error   string    `json:"error,omitempty"`
}

// Explained counts what does not match and need not.
type Explained struct {
	// WithoutOutcome are intents of requests that a crash ended, or that are under way.
	WithoutOutcome uint64 `json:"intents_without_outcome"`
	// Orphans are entries of precertificates whose certificates were not released.
	Orphans uint64 `json:"orphan_precertificates"`
	// Before are entries that are older than every journal of their key.
	Before uint64 `json:"entries_before_the_journal"`
	// Young are entries that a copy of a journal may not have yet, or whose intents may stand where a journal could not be read.
	Young uint64 `json:"entries_too_young"`
	// Open are promises whose time has not come.
	Open uint64 `json:"open_promises"`
	// Overdue are promises whose time is over, of logs whose copy here is older: see Incomplete.
	Overdue uint64 `json:"overdue_promises"`
	// Unwatched are promises of logs that are not read.
	Unwatched uint64 `json:"promises_of_other_logs"`
	// Cut are outcomes at the beginning of a journal whose older segments were taken away.
	Cut uint64 `json:"outcomes_after_a_cut"`
}

// run is one [Run].
type run struct {
	Input
	*account
	out Report
}

// Run reads the logs, then the journals, and holds them against each other. It errs only if it could not begin, or if ctx ended:
// what it could not read is in the report.
func Run(ctx context.Context, in Input) (Report, error) {
	if in.Now == nil {
		in.Now = time.Now
	}
	if len(in.Journals) == 0 {
		return Report{}, errors.New("no journal: without one, every entry would look unintended; name one")
	}
	keys := newKeyring(in.Issuers)
	for {
		r := &run{Input: in}
		r.account = newAccount(keys, r.found)
		r.again = reread(func(n uint16) *monitor.Follower { return in.Logs[n].Follower })
		if err := r.read(ctx); err != nil {
			return Report{}, err
		}
		if r.told { // a journal knows of a key that the logs were not searched for
			for _, l := range in.Logs {
				l.Follower.Rewind()
			}
			continue
		}
		r.conclude(ctx)
		return r.out, nil
	}
}

func (r *run) found(f Finding) {
	if f.Time.Before(r.Since) && f.Kind != JournalBroken {
		return
	}
	if r.Commands != nil {
		f.Commands = r.Commands(f)
	}
	r.out.Findings = append(r.out.Findings, f)
}

// read reads the logs first and the journals after them, see [account].
func (r *run) read(ctx context.Context) error {
	r.out = Report{Findings: []Finding{}, Incomplete: []string{}}
	for i, l := range r.Logs {
		log := l.Follower.Log()
		w := r.watch(log.Name(), log.ID(), l.Delay)
		w.copied = log.Local()
		more, err := true, error(nil)
		for more && err == nil {
			more, err = l.Follower.Next(ctx, func(e *monitor.Entry) error {
				if s, ok := r.sight(ctx, w, log, e); ok {
					r.entry(uint16(i), s)
				}
				if r.Progress != nil && e.Index%4096 == 0 {
					r.Progress(Progress{Name: w.name, Read: e.Index})
				}
				return nil
			})
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		state := l.Follower.State()
		w.size, w.head, w.trusted = state.Size, state.Head, err == nil
		lr := LogReport{Name: w.name, Size: w.head.Size, Head: w.head.Time(), Read: w.size, Ours: w.ours}
		switch {
		case err != nil && monitor.Convicts(err):
			lr.Error = err.Error()
			r.found(convicted(w.name, err, r.Now()))
		case err != nil:
			lr.Error = err.Error()
			r.out.Incomplete = append(r.out.Incomplete, err.Error())
		}
		if text := w.blind(); text != "" {
			r.out.Incomplete = append(r.out.Incomplete, text)
		}
		r.out.Logs = append(r.out.Logs, lr)
	}
	return r.readJournals(ctx)
}

// convicted is the finding that follows from an error of a log.
func convicted(log string, err error, now time.Time) Finding {
	kind := LogMismatch
	switch {
	case errors.Is(err, monitor.ErrBadHead):
		kind = LogHeadInvalid
	case errors.Is(err, monitor.ErrShrunk):
		kind = LogShrunk
	case errors.Is(err, monitor.ErrFork):
		kind = LogForked
	}
	return newFinding(Finding{Kind: kind, Log: log, Time: now.UTC(), Text: err.Error()}, "")
}

func (r *run) readJournals(ctx context.Context) error {
	roots := map[string]string{}
	for i, j := range r.Journals {
		b := &book{name: j.Name, number: uint16(i), live: j.Live, keys: map[string]bool{}}
		r.books = append(r.books, b)
		trouble := r.readJournal(ctx, j, b)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.told {
			return nil // it begins again
		}
		if other, twice := roots[b.root]; twice && b.root != "" {
			return fmt.Errorf("%s and %s are the same journal; name it once", other, j.Name)
		}
		roots[b.root] = j.Name
		jr := JournalReport{Name: j.Name, Records: b.read, First: b.first, Last: b.last}
		if trouble != nil {
			jr.Error = fmt.Sprintf("journal %s: %v", j.Name, trouble)
			r.out.Incomplete = append(r.out.Incomplete, jr.Error)
		}
		r.out.Journals = append(r.out.Journals, jr)
	}
	return nil
}

// readJournal reads a journal to its end, or until it names a key that the logs were not searched for.
func (r *run) readJournal(ctx context.Context, j Journal, b *book) error {
	c := j.open(0)
	defer c.close()
	for n := uint64(0); !r.told && ctx.Err() == nil; n++ {
		record, err := c.next()
		var d *journal.Damage
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &d):
			b.damaged(r.account, d.Error())
		case err != nil:
			return err
		default:
			r.record(b, record)
		}
		if r.Progress != nil && n%4096 == 0 {
			r.Progress(Progress{Name: j.Name, Read: b.read})
		}
	}
	return nil
}

// conclude judges everything. Nothing more will come.
func (r *run) conclude(ctx context.Context) {
	m := moment{now: r.Now(), lag: r.Lag}
	r.reportPairs()
	r.reportOthers()
	r.settle(m)
	x := &r.out.Explained
	unread := slices.ContainsFunc(r.out.Journals, func(j JournalReport) bool { return j.Error != "" })
	for _, s := range r.suspects {
		if r.rows.at(s.row).is(intended) || !r.logs[r.places.at(s.place).log].trusted {
			continue
		}
		switch r.judge(s, m) {
		case guilty:
			if unread && !r.places.at(s.place).below {
				x.Young++
				continue
			}
			r.accuse(ctx, s)
		case later:
			x.Young++
		case before:
			x.Before++
		}
	}
	for _, f := range r.finals {
		if r.rows.at(f.row).is(intended) && r.logs[r.places.at(f.place).log].trusted {
			r.acquit(ctx, f)
		}
	}
	for n := uint32(1); n <= r.rows.n; n++ {
		one := r.rows.at(n)
		if !one.is(intended) || one.is(issued) {
			continue
		}
		if !one.is(failed) {
			x.WithoutOutcome++
		}
		if one.places != 0 {
			x.Orphans++
		}
	}
	overdue, texts := r.overdue(m.now, r.Since)
	r.out.Incomplete = append(r.out.Incomplete, texts...)
	x.Overdue, x.Open, x.Unwatched = overdue, uint64(len(r.promises))-overdue, r.unwatched
	for _, b := range r.books {
		x.Cut += b.early
	}
	slices.SortStableFunc(r.out.Findings, func(a, b Finding) int { return a.Time.Compare(b.Time) })
}
