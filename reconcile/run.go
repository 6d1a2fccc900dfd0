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

// Input is the input of [Run].
type Input struct {
	Logs     []Log
	Journals []Journal
	// Issuers are the issuing certificates of the CA, past and present. The keys that journals name are added to
	// theirs.
	Issuers []*x509.Certificate
	Now     func() time.Time // nil: time.Now
	// Since leaves out older findings. Everything is read and verified nevertheless.
	Since time.Time
	// Lag is how far a journal that is not live may be behind; younger entries are not reported.
	Lag time.Duration
	// Commands returns the commands to run next for a finding. Optional.
	Commands func(Finding) []string
	// Progress is called from time to time. Optional.
	Progress func(Progress)
}

// Progress is the progress of [Run].
type Progress struct {
	Name string // of the log or journal
	Read uint64 // entries or records
}

// Report is the result of [Run].
type Report struct {
	Logs     []LogReport     `json:"logs"`
	Journals []JournalReport `json:"journals"`
	Findings []Finding       `json:"findings"`
	// Explained counts what does not match for a harmless reason.
	Explained Explained `json:"explained"`
	// Incomplete lists what could not be read. Only if it is empty does a report without findings prove anything.
	Incomplete []string `json:"incomplete"`
}

// LogReport says how far a log was read.
type LogReport struct {
	Name    string    `json:"name"`
	Size    uint64    `json:"size"`          // of the head
	Head    time.Time `json:"head,omitzero"` // the head of a log of signatures has no time
	Read    uint64    `json:"read"`
	Matched uint64    `json:"ours"` // entries under an issuing key
	Error   string    `json:"error,omitempty"`
}

// JournalReport says how far a journal was read.
type JournalReport struct {
	Name    string    `json:"name"`
	Records uint64    `json:"records"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Error   string    `json:"error,omitempty"`
}

// Explained counts what does not match for a harmless reason.
type Explained struct {
	// WithoutOutcome is the number of intents of requests that are in progress or ended with a crash.
	WithoutOutcome uint64 `json:"intents_without_outcome"`
	// OrphanPrecerts is the number of precertificates whose certificates were not released.
	OrphanPrecerts uint64 `json:"orphan_precertificates"`
	// Canaries is the number of precertificates of the CA's own, for which no certificate was to be made.
	Canaries uint64 `json:"canaries"`
	// PredateJournal is the number of entries that are older than every journal of their key.
	PredateJournal uint64 `json:"entries_before_the_journal"`
	// Undecided is the number of entries whose intents may be missing from a copy of a journal that is behind, or from
	// a journal that could not be read.
	Undecided uint64 `json:"entries_too_young"`
	// Open is the number of merge obligations that are not due.
	Open uint64 `json:"open_promises"`
	// Overdue is the number of merge obligations that are overdue in a directory, see Report.Incomplete.
	Overdue uint64 `json:"overdue_promises"`
	// UnreadLogs is the number of SCTs of logs that are not read.
	UnreadLogs uint64 `json:"promises_of_other_logs"`
	// IntentsArchived is the number of outcomes whose intents are in archived segments of the journal.
	IntentsArchived uint64 `json:"outcomes_after_a_cut"`
}

// run is one attempt of [Run].
type run struct {
	Input
	*correlation
	followers []*monitor.Follower // by log
	out       Report
}

// Run reads the logs, then the journals, and compares them. It returns an error only if it cannot start or if ctx ends:
// the report says what could not be read.
func Run(ctx context.Context, in Input) (Report, error) {
	if in.Now == nil {
		in.Now = time.Now
	}
	if len(in.Journals) == 0 {
		return Report{}, errors.New("the journal is missing: every log entry would look unintended; name a journal")
	}
	followers := make([]*monitor.Follower, len(in.Logs))
	for i, l := range in.Logs {
		var err error
		if followers[i], err = monitor.Follow(l.Log, monitor.FollowerOptions{}); err != nil {
			return Report{}, err
		}
	}
	keys := newIssuerKeys(in.Issuers)
	for {
		r := &run{Input: in, followers: followers}
		r.correlation = newCorrelation(keys, r.addFinding)
		r.reader = &entryReader{follower: func(n uint16) *monitor.Follower { return followers[n] }}
		if err := r.read(ctx); err != nil {
			return Report{}, err
		}
		if r.rescan { // a journal names a key for which the logs were not searched
			for _, f := range followers {
				f.Rewind()
			}
			continue
		}
		r.evaluate(ctx)
		return r.out, nil
	}
}

func (r *run) addFinding(f Finding) {
	if f.Time.Before(r.Since) && f.Kind != JournalBroken {
		return
	}
	if r.Commands != nil {
		f.Commands = r.Commands(f)
	}
	r.out.Findings = append(r.out.Findings, f)
}

// read reads the logs and then the journals.
func (r *run) read(ctx context.Context) error {
	r.out = Report{Findings: []Finding{}, Incomplete: []string{}}
	for i, l := range r.Logs {
		if err := r.readLog(ctx, i, l); err != nil {
			return err
		}
	}
	return r.readJournals(ctx)
}

// readLog reads a log up to its head. It returns an error only if ctx ends.
func (r *run) readLog(ctx context.Context, number int, l Log) error {
	w := r.addLog(l.Name(), l.ID(), l.MergeDelay)
	w.directory = l.Local()
	follower := r.followers[number]
	more, err := true, error(nil)
	for more && err == nil {
		more, err = follower.Next(ctx, func(e *monitor.Entry) error {
			for _, m := range r.matchAll(ctx, w, l.Log, e) {
				r.addMatch(uint16(number), m) //nolint:gosec // a few
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
	state := follower.State()
	w.size, w.head, w.verified = state.Size, state.Head, err == nil
	report := LogReport{Name: w.name, Size: w.head.Size, Read: w.size, Matched: w.matched}
	if l.Format() == monitor.Certificates {
		report.Head = w.head.Time()
	}
	switch {
	case err != nil && monitor.Misbehaved(err):
		report.Error = err.Error()
		r.addFinding(logFinding(w.name, err, r.Now()))
	case err != nil:
		report.Error = err.Error()
		r.out.Incomplete = append(r.out.Incomplete, err.Error())
	}
	if text := w.missingCAsText(); text != "" {
		r.out.Incomplete = append(r.out.Incomplete, text)
	}
	r.out.Logs = append(r.out.Logs, report)
	return nil
}

func (r *run) readJournals(ctx context.Context) error {
	roots := map[string]string{} // sum of the first record to name
	for i, j := range r.Journals {
		s := &journalState{name: j.Name, number: uint16(i), live: j.Live, keys: map[string]bool{}}
		r.journals = append(r.journals, s)
		readErr := r.readJournal(ctx, j, s)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.rescan {
			return nil
		}
		if other, twice := roots[s.root]; twice && s.root != "" {
			return fmt.Errorf("%s and %s are the same journal; name only one of them", other, j.Name)
		}
		roots[s.root] = j.Name
		report := JournalReport{Name: j.Name, Records: s.read, First: s.first, Last: s.last}
		if readErr != nil {
			report.Error = fmt.Sprintf("journal %s: %v", j.Name, readErr)
			r.out.Incomplete = append(r.out.Incomplete, report.Error)
		}
		r.out.Journals = append(r.out.Journals, report)
	}
	return nil
}

// readJournal reads a journal to its end, or until it names a key that the logs were not searched for.
func (r *run) readJournal(ctx context.Context, j Journal, s *journalState) error {
	in := j.open(0)
	defer in.close()
	for n := uint64(0); !r.rescan && ctx.Err() == nil; n++ {
		record, err := in.next()
		var damage *journal.Damage
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &damage):
			s.damaged(r.correlation, damage.Error())
		case err != nil:
			return err
		default:
			r.addRecord(s, record)
		}
		if r.Progress != nil && n%4096 == 0 {
			r.Progress(Progress{Name: j.Name, Read: s.read})
		}
	}
	return nil
}

// evaluate checks everything: all logs and journals have been read.
func (r *run) evaluate(ctx context.Context) {
	ev := evaluation{now: r.Now(), lag: r.Lag}
	r.reportSameSerials()
	r.reportUnknownCAs()
	r.resolveObligations(ev)
	r.evaluateCandidates(ctx, ev)
	for _, f := range r.finals {
		if r.rows.at(f.row).is(intended) && r.logs[r.entries.at(f.entry).log].verified {
			r.checkFinal(ctx, f)
		}
	}
	r.countExplained(ev)
	slices.SortStableFunc(r.out.Findings, func(a, b Finding) int { return a.Time.Compare(b.Time) })
}

func (r *run) evaluateCandidates(ctx context.Context, ev evaluation) {
	x := &r.out.Explained
	unread := slices.ContainsFunc(r.out.Journals, func(j JournalReport) bool { return j.Error != "" })
	for _, one := range r.candidates {
		e := r.entries.at(one.entry)
		if r.rows.at(one.row).is(intended) || !r.logs[e.log].verified {
			continue
		}
		switch r.checkCandidate(one, ev) {
		case unintended:
			if unread && (!e.subordinate || e.precertSigner) { // the journal that could not be read may have the intent
				x.Undecided++
				continue
			}
			r.reportUnintended(ctx, one)
		case undecided:
			x.Undecided++
		case predatesJournal:
			x.PredateJournal++
		}
	}
}

func (r *run) countExplained(ev evaluation) {
	x := &r.out.Explained
	for n := uint32(1); n <= r.rows.n; n++ {
		one := r.rows.at(n)
		if !one.is(intended) || one.is(issued) {
			continue
		}
		if !one.is(failed) {
			x.WithoutOutcome++
		}
		switch {
		case one.is(canary):
			x.Canaries++
		case one.entries != 0:
			x.OrphanPrecerts++
		}
	}
	overdue, texts := r.overdue(ev.now, r.Since)
	r.out.Incomplete = append(r.out.Incomplete, texts...)
	x.Overdue, x.Open, x.UnreadLogs = overdue, uint64(len(r.obligations))-overdue, r.unreadLogs
	for _, s := range r.journals {
		x.IntentsArchived += s.intentsRemoved
	}
}
