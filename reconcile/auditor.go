package reconcile

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/monitor"
)

// How much an auditor does and keeps.
const (
	stepSize = 1 << 14         // entries of each log that are read before journals are
	slack    = 2 * time.Minute // between the clocks of the CA and of logs, and longer than a request lasts
	keepFor  = time.Hour       // what has been settled is kept that long; what turns up later is looked for in the journals
	mostRows = 1 << 18         // then what has been settled goes at once
	fewRows  = 1 << 12         // below that nothing goes
	scrubAge = 24 * time.Hour
	// mostAlike is how many alarms of a bounded kind are kept apart for one log or journal, and mostUnverified how many
	// of entries that only a log says our key signed. More are counted in one alarm.
	mostAlike, mostUnverified = 1000, 10000
)

// Target is a log under continuous audit.
type Target struct {
	Log *monitor.Log
	// Delay is the log's maximum merge delay.
	Delay time.Duration
}

// Setup is what is audited. It may change while the auditor runs.
type Setup struct {
	Targets []Target
	// Issuers are the issuing certificates, past and present.
	Issuers []*x509.Certificate
}

// AuditorOptions are for [NewAuditor].
type AuditorOptions struct {
	// Every is the time between two runs.
	Every time.Duration
	// Journals lists the journals of now, the one of this process first. With an error it lists those that are there: they are
	// read, and nobody is accused. Nil: there is none, and only what [Auditor.Granted] is told is audited.
	Journals func() ([]Journal, error)
	// Lag is how far journals of others may be behind.
	Lag time.Duration
	// Load and Save keep the auditor's state; both nil: it is lost with the process. Load returns nil where there is none.
	Load func() ([]byte, error)
	Save func([]byte) error
	// Orders returns what an operator has ordered since it was asked last; nil is nothing.
	Orders func() ([]Order, error)
	// Commands are what to run next for a finding; nil is none.
	Commands func(Finding) []string
	// Raise is told of each finding once: it writes it where it is seen.
	Raise func(context.Context, Finding)
	// Cleared is told of each order that was carried out, and of the alarms that it closed.
	Cleared func(context.Context, Order, []Finding)
	// Bench keeps a log from being asked, Unbench lets it be asked again.
	Bench   func(log, cause string)
	Unbench func(log string)

	Step   uint64           // entries of a log that are read at once; 0 is 16384
	Keep   time.Duration    // how long what is settled is kept; 0 is an hour
	Rows   uint32           // how many certificates are kept in mind; when there are more, what is settled goes at once; 0 is 262144
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger
}

// Grant is an SCT that a log gave, for an auditor without a journal.
type Grant struct {
	Log        [32]byte // log ID
	TBS        [32]byte // SHA-256 of the TBSCertificate without poison and SCT list
	Serial     [20]byte
	Timestamp  uint64 // milliseconds since 1970
	Extensions []byte
}

// maxGrants bounds what waits to be audited where there is no journal: SCTs until the next run, and promises that are open.
const maxGrants = 1 << 16

// Auditor holds journals and logs against each other again and again, each time only what is new. Run and Tick are for one
// goroutine; the other methods are for all.
type Auditor struct {
	o       AuditorOptions
	metrics *auditorMetrics

	*account
	followers []*follower
	cursors   map[string]*reading
	until     time.Time // journals are read up to here in this cycle
	begun     bool      // something of the logs had been read before this cycle
	benched   map[string]string
	troubles  []string // of the last run
	open      []Alarm
	known     map[string]int // IDs of open alarms, with their places in open
	alike     map[string]int // open alarms of a bounded kind, by kind and source
	kept      uint32         // rows after the last eviction
	passed    int            // grants since there was room for all

	mu       sync.Mutex
	setup    *Setup        // to be taken over
	reported []Finding     // by others, see Report
	early    chan struct{} // something was reported: the next run is at once
	grants   []Grant       // that wait; at most maxGrants
	warnings []string
	alarms   []Alarm           // a copy of open
	out      map[string]string // a copy of benched
}

// Alarm is a finding that nobody has cleared yet.
type Alarm struct {
	Finding
	Raised time.Time `json:"raised"`
}

// Order is what an operator wants of the alarms: those of a log, which is asked again then, or one.
type Order struct {
	Log   string `json:"log,omitempty"`
	Alarm string `json:"alarm,omitempty"` // ID
	// By is who gave the order, as far as it is known.
	By string `json:"-"`
}

// Concerns reports whether the order closes the alarm f.
func (o Order) Concerns(f Finding) bool {
	return o.Log != "" && f.Log == o.Log && f.Kind.ofLog() || o.Alarm != "" && f.ID == o.Alarm
}

// follower is a log that is followed.
type follower struct {
	*monitor.Follower
	*watched
	number  uint16
	scrub   *monitor.Follower // reads everything again, so that damage to what was read long ago is found
	scrubAt time.Time
}

// reading is a journal that is read.
type reading struct {
	*cursor
	*book
	held   *journal.Record // read, and too new for this cycle
	copied bool            // it is another journal's copy, and is not read
}

// NewAuditor makes an auditor, from the state that Load returns. Without a Setup it does nothing.
func NewAuditor(o AuditorOptions) (*Auditor, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Step == 0 {
		o.Step = stepSize
	}
	if o.Rows == 0 {
		o.Rows = mostRows
	}
	if o.Keep == 0 {
		o.Keep = keepFor
	}
	a := &Auditor{
		o: o, early: make(chan struct{}, 1), cursors: map[string]*reading{}, benched: map[string]string{},
		known: map[string]int{}, alike: map[string]int{},
	}
	a.account = newAccount(newKeyring(nil), a.found)
	a.proven = true // follow sees to it
	a.metrics = newAuditorMetrics(a)
	if o.Load == nil {
		return a, nil
	}
	data, err := o.Load()
	if err != nil || data == nil {
		return a, err
	}
	if err := a.restore(data); err != nil {
		return nil, err
	}
	a.count()
	for log, cause := range a.benched {
		a.bench(log, cause)
	}
	a.publish(nil)
	return a, nil
}

// Configure says what to audit from the next run on.
func (a *Auditor) Configure(s Setup) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.setup = &s
}

// JournalChanged reports that somebody else changed a file of the journal while this process wrote it. It never waits.
// The alarm stays open until an operator clears it; what happens to the journal until then is part of it.
func (a *Auditor) JournalChanged(journal, what string) {
	f := newFinding(Finding{
		Kind: JournalBroken, Journal: journal, Time: a.o.Now().UTC(),
		Text: "another process changed the journal while it was written: " + what,
	}, "changed while it was written")
	a.mu.Lock()
	if len(a.reported) < mostAlike {
		a.reported = append(a.reported, f)
	}
	a.mu.Unlock()
	select {
	case a.early <- struct{}{}:
	default:
	}
}

// Granted takes an SCT to audit, where there is no journal. It never waits: what finds no place is counted.
func (a *Auditor) Granted(g Grant) {
	if a.o.Journals != nil {
		return // the journal will say it
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.grants) == maxGrants {
		a.metrics.dropped.Inc()
		return
	}
	a.grants = append(a.grants, g)
}

// Benched are the logs that broke a promise and were not cleared, with the cause.
func (a *Auditor) Benched() map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.out)
}

// Alarms are the findings that nobody has cleared yet, the oldest first.
func (a *Auditor) Alarms() []Alarm {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.alarms)
}

// Warnings says what keeps the auditor from seeing everything, and how many alarms are open.
func (a *Auditor) Warnings() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := slices.Clone(a.warnings)
	n := len(a.alarms)
	if n == 0 {
		return out
	}
	last := &a.alarms[n-1]
	text := fmt.Sprintf("open alarms: %d, the last is %s: %s", n, last.Kind, last.Words())
	if last.Severity != Critical {
		critical := 0
		for i := range a.alarms {
			if a.alarms[i].Severity == Critical {
				critical, last = critical+1, &a.alarms[i]
			}
		}
		if critical > 0 {
			text += fmt.Sprintf("; %d are critical, the last of these is %s: %s", critical, last.Kind, last.Words())
		}
	}
	return append([]string{text}, out...)
}

// Run audits until ctx ends.
func (a *Auditor) Run(ctx context.Context) {
	tick := time.NewTicker(a.o.Every)
	defer tick.Stop()
	defer a.close()
	for {
		a.Tick(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-a.early:
		}
	}
}

func (a *Auditor) close() {
	for _, c := range a.cursors {
		c.close()
	}
}

// Tick is one run: everything that is new is read and judged, in steps of bounded size.
func (a *Auditor) Tick(ctx context.Context) {
	began := time.Now()
	a.takeOver()
	a.mu.Lock()
	reported := a.reported
	a.reported = nil
	a.mu.Unlock()
	for _, f := range reported {
		a.found(f)
	}
	disobeyed := a.obey(ctx)
	var troubles []string
	for more := true; more && ctx.Err() == nil; {
		step := time.Now()
		more, troubles = a.cycle(ctx)
		if err := a.save(); err != nil {
			troubles = append(troubles, "the auditor's state cannot be kept: "+err.Error())
		}
		if more { // whoever asks for a certificate goes first
			pause(ctx, time.Since(step)/2)
		}
	}
	if ctx.Err() != nil {
		return
	}
	if disobeyed != nil {
		troubles = append(troubles, strings.Split(disobeyed.Error(), "\n")...)
	}
	troubles = slices.Compact(troubles)
	a.publish(troubles)
	a.metrics.ran(began, len(troubles) == 0)
	if !slices.Equal(troubles, a.troubles) { // else it has been said
		for _, text := range troubles {
			a.o.Logger.Warn("audit is incomplete", "cause", text)
		}
	}
	a.troubles = troubles
}

func pause(ctx context.Context, d time.Duration) {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-ctx.Done():
	case <-wait.C:
	}
}

// cycle reads a step of each log and then the journals, as far as that step needs, and judges. See [account] for the order.
func (a *Auditor) cycle(ctx context.Context) (more bool, troubles []string) {
	a.until = time.Time{}
	a.begun = slices.ContainsFunc(a.followers, func(f *follower) bool { return f.size > 0 })
	for _, f := range a.followers {
		behind, err := a.follow(ctx, f)
		if err != nil && ctx.Err() == nil {
			troubles = append(troubles, err.Error())
		}
		a.fetchMissing(ctx, f.watched, f.Log())
		if text := f.blind(); text != "" {
			troubles = append(troubles, text)
		}
		if behind { // its journals are read no further than the entries are
			more = true
			if at := timeOf(f.last).Add(slack); a.until.IsZero() || at.Before(a.until) {
				a.until = at
			}
		}
	}
	if err := a.readJournals(ctx); err != nil {
		troubles = append(troubles, err.Error())
	}
	a.readGrants()
	if ctx.Err() != nil {
		return false, troubles
	}
	if a.told { // the logs were not searched for what a journal names
		a.told = false
		for _, f := range a.followers {
			f.Rewind()
			f.size = 0
		}
		return true, troubles
	}
	if err := a.conclude(ctx); err != nil {
		troubles = append(troubles, err.Error())
	}
	a.evict()
	return more, troubles
}

// follow reads one step of a log. What it brings is taken in only when it is proven.
func (a *Auditor) follow(ctx context.Context, f *follower) (more bool, err error) {
	var seen []sighting
	last := f.last
	more, err = f.Next(ctx, func(e *monitor.Entry) error {
		last = max(last, e.Timestamp)
		if s, ours := a.sight(ctx, f.watched, f.Log(), e); ours {
			seen = append(seen, s)
		}
		return nil
	})
	if errors.Is(err, monitor.ErrStale) {
		return false, nil // a replica that lags behind; a log that shows nothing new for too long is late, see settle
	}
	if err != nil {
		f.trusted, f.stuck = !monitor.Convicts(err), true
		if !f.trusted {
			a.found(convicted(f.watched.name, err, a.o.Now()))
			return false, nil
		}
		return false, err
	}
	state := f.State()
	f.size, f.watched.head, f.last, f.trusted, f.stuck = state.Size, state.Head, last, true, false
	for i := range seen {
		a.entry(f.number, seen[i])
	}
	if !more {
		a.scrub(ctx, f)
	}
	return more, nil
}

// scrub reads another step of everything once more, and begins again a day after its end, where the log's storage is ours to keep.
func (a *Auditor) scrub(ctx context.Context, f *follower) {
	if !f.Log().Local() {
		return
	}
	if f.scrub == nil {
		if a.o.Now().Before(f.scrubAt) {
			return
		}
		s, err := monitor.Follow(f.Log(), monitor.FollowerOptions{Step: a.o.Step})
		if err != nil {
			return // a zero state is of any log
		}
		f.scrub = s
	}
	more, err := f.scrub.Next(ctx, func(*monitor.Entry) error { return nil })
	if err != nil && monitor.Convicts(err) {
		f.trusted = false
		a.found(convicted(f.watched.name, err, a.o.Now()))
	}
	if err == nil && !more {
		f.scrub, f.scrubAt = nil, a.o.Now().Add(scrubAge)
	}
}

// readJournals reads the journals to their present end, or up to a.until.
func (a *Auditor) readJournals(ctx context.Context) error {
	if a.o.Journals == nil {
		return nil
	}
	all, err := a.o.Journals()
	errs := []error{err} // those that are there are read all the same
	a.followMoves(all)
	for _, j := range all {
		r := a.cursors[j.Path]
		if r == nil {
			b := a.bookOf(j)
			a.recognise(j, b)
			// What it says of the time before may be of entries that were read and forgotten: they are read again.
			a.told = a.told || b.read == 0 && a.begun
			r = &reading{cursor: j.open(b.next), book: b}
			a.cursors[j.Path] = r
		}
		if err := a.readJournal(ctx, r); err != nil {
			errs = append(errs, fmt.Errorf("journal %s: %w", j.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (a *Auditor) readJournal(ctx context.Context, r *reading) error {
	for ctx.Err() == nil {
		if r.copied {
			return errors.New("it is a copy of another journal that is read; name one of them")
		}
		record := r.held
		r.held = nil
		if record == nil {
			var err error
			record, err = r.cursor.next()
			var d *journal.Damage
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case errors.As(err, &d):
				r.damaged(a.account, d.Error())
				continue
			case err != nil:
				return err
			}
		}
		if !a.until.IsZero() && record.Time.After(a.until) || len(a.promises) >= int(a.o.Rows) {
			r.held = record
			return nil
		}
		if a.record(r.book, record); r.read == 1 && a.copied(r.book) {
			r.copied = true
		}
	}
	return nil
}

// readGrants takes in what [Auditor.Granted] was told.
func (a *Auditor) readGrants() {
	a.mu.Lock()
	all := a.grants
	a.grants = nil
	a.mu.Unlock()
	most := min(int(a.o.Rows), maxGrants)
	for _, g := range all {
		open := len(a.promises)
		if open < most {
			a.passed = 0
			a.granted(g)
			continue
		}
		// Of more than there is room for a random part is watched: no log knows which.
		a.metrics.dropped.Inc()
		a.passed++
		if n := rand.IntN(open + a.passed); n < open { //nolint:gosec // see above; nobody outside can see the choice
			a.promises[n] = a.promises[open-1]
			a.promises = a.promises[:open-1]
			a.granted(g)
		}
	}
}

// granted is intend and promised for a certificate that no journal knows.
func (a *account) granted(g Grant) {
	n := a.find(g.TBS)
	if n == 0 {
		n, _ = a.add(row{tbs: g.TBS, serial: g.Serial, when: uint32(g.Timestamp / 1000)}) //nolint:gosec // until 2106
	}
	a.rows.at(n).flags |= intended | issued
	if log, ok := a.numberOf(g.Log); ok {
		a.expect(promise{row: n, log: log, timestamp: g.Timestamp}, g.Extensions)
	}
}
