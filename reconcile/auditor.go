package reconcile

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Limits and intervals of an Auditor.
const (
	defaultStep  = 1 << 14         // entries that are read from each log before the journals are read
	maxClockSkew = 2 * time.Minute // between the clocks of the CA and of the logs; also longer than a request takes
	// Resolved rows are kept for defaultKeep; the intents of older ones are looked up in the journals.
	defaultKeep   = time.Hour
	defaultRows   = 1 << 18 // from this number of rows on, resolved rows are evicted at once
	minEvictRows  = 1 << 12 // below this number of rows, nothing is evicted
	scrubInterval = 24 * time.Hour
	// maxAlarmsPerClass is the number of open alarms of a bounded kind for one log or journal; maxUnverifiedAlarms that
	// of entries without a verified signature of the issuing key. Further findings are counted in one alarm.
	maxAlarmsPerClass, maxUnverifiedAlarms = 1000, 10000
	// maxQueuedSCTs is the number of SCTs that wait for the next audit, and of merge obligations that are open, if
	// there is no journal.
	maxQueuedSCTs = 1 << 16
)

// Scope is what an Auditor audits.
type Scope struct {
	Logs []Log
	// Issuers are the issuing certificates, past and present.
	Issuers []*x509.Certificate
}

// SCT is an SCT that a log returned, for an Auditor without a journal.
type SCT struct {
	Log        [32]byte // log ID
	TBS        [32]byte // SHA-256 of the TBSCertificate without poison and SCT list
	Serial     [20]byte
	Timestamp  uint64 // milliseconds since 1970
	Extensions []byte
}

// AuditorOptions are for [NewAuditor].
type AuditorOptions struct {
	// Every is the interval between two audits.
	Every time.Duration
	// Journals returns the journals that exist, the one of this process first. If some are missing, it returns the
	// others and an error: the others are read, and no entry is reported as unintended. Nil: there is no journal, and
	// only the SCTs of [Auditor.AddSCT] are audited.
	Journals func() ([]Journal, error)
	// Lag is how far the journals of other instances may be behind.
	Lag time.Duration
	// Load and Save keep the state of the auditor, see [LoadState] and [SaveState]. If both are nil, the state ends
	// with the process. Load returns nil if there is no state.
	Load func() ([]byte, error)
	Save func([]byte) error
	// Orders returns the orders of an operator since the last call, see [TakeOrders]. Optional.
	Orders func() ([]Order, error)
	// Commands returns the commands to run next for a finding. Optional.
	Commands func(Finding) []string
	// Raise is called once for each finding, to write it to the journal and to send it. Optional.
	Raise func(context.Context, Finding)
	// Cleared is called for each order that was applied, with the alarms that it closed. Optional.
	Cleared func(context.Context, Order, []Finding)
	// Quarantine is called when a log must not be used for SCTs any more, Release when it may be used again. Optional.
	Quarantine func(log, cause string)
	Release    func(log string)

	Step   uint64           // entries that are read from each log before the journals are read; 0: 16384
	Keep   time.Duration    // how long resolved rows are kept; 0: an hour
	Rows   uint32           // from this number of rows on, resolved rows are evicted at once; 0: 262144
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: no log
}

// Auditor compares journals and logs continuously, each time only what is new. Run and RunOnce are for one goroutine;
// the other methods may be called by several.
type Auditor struct {
	o       AuditorOptions
	metrics *auditorMetrics

	*correlation
	followers    []*logFollower
	openJournals map[string]*openJournal // by path
	readUntil    time.Time               // journals are read up to this time in this cycle; zero: up to their ends
	entriesRead  bool                    // entries of a log that had been read before this cycle
	problems     []string                // of the last audit
	alarms       alarmList
	rowsKept     uint32 // number of rows after the last eviction
	overflow     int    // number of SCTs since the queue last had room for all

	mu        sync.Mutex
	scope     *Scope        // orders that the next audit applies
	reported  []Finding     // by JournalChanged
	wake      chan struct{} // a finding was reported: audit at once
	scts      []SCT         // for the next audit; at most maxQueuedSCTs
	published published
}

// published is the state that an Auditor shows to other goroutines.
type published struct {
	alarms      []Alarm
	quarantined map[string]string
	warnings    []string
}

// NewAuditor makes an auditor, from the state that Load returns. It audits nothing before Configure is called.
func NewAuditor(o AuditorOptions) (*Auditor, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Step == 0 {
		o.Step = defaultStep
	}
	if o.Rows == 0 {
		o.Rows = defaultRows
	}
	if o.Keep == 0 {
		o.Keep = defaultKeep
	}
	a := &Auditor{o: o, wake: make(chan struct{}, 1), openJournals: map[string]*openJournal{}, alarms: newAlarmList()}
	a.correlation = newCorrelation(newIssuerKeys(nil), a.addFinding)
	a.verifiedOnly = true // see follow
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
	a.alarms.rebuildIndex()
	for log, cause := range a.alarms.quarantined {
		a.quarantine(log, cause)
	}
	a.publish(nil)
	return a, nil
}

// Configure sets what to audit from the next audit on.
func (a *Auditor) Configure(s Scope) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.scope = &s
}

// JournalChanged reports that another process changed a file of the journal while this process wrote it. It does not
// block. The alarm stays open until an operator clears it, even if the journal is repaired.
func (a *Auditor) JournalChanged(journal, what string) {
	f := newFinding(Finding{
		Kind: JournalBroken, Journal: journal, Time: a.o.Now().UTC(),
		Text: "another process changed the journal while the CA wrote it: " + what,
	}, "changed while it was written")
	a.mu.Lock()
	if len(a.reported) < maxAlarmsPerClass {
		a.reported = append(a.reported, f)
	}
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// AddSCT adds an SCT to audit, if there is no journal. It does not block: an SCT that does not fit into the queue is
// counted and dropped.
func (a *Auditor) AddSCT(s SCT) {
	if a.o.Journals != nil {
		return // the journal has the SCT
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.scts) == maxQueuedSCTs {
		a.metrics.dropped.Inc()
		return
	}
	a.scts = append(a.scts, s)
}

// Quarantined returns the logs that violated their obligations and were not released, with the cause.
func (a *Auditor) Quarantined() map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.published.quarantined)
}

// Alarms returns the open alarms, the oldest first.
func (a *Auditor) Alarms() []Alarm {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.published.alarms)
}

// Warnings returns what keeps the audit from being complete, and the number of open alarms.
func (a *Auditor) Warnings() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := slices.Clone(a.published.warnings)
	alarms := a.published.alarms
	n := len(alarms)
	if n == 0 {
		return out
	}
	last := &alarms[n-1]
	text := fmt.Sprintf("open alarms: %d, the newest is %s: %s", n, last.Kind, last.Summary())
	if last.Severity != Critical {
		critical := 0
		for i := range alarms {
			if alarms[i].Severity == Critical {
				critical, last = critical+1, &alarms[i]
			}
		}
		if critical > 0 {
			text += fmt.Sprintf("; critical: %d, the newest is %s: %s", critical, last.Kind, last.Summary())
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
		a.RunOnce(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-a.wake:
		}
	}
}

func (a *Auditor) close() {
	for _, o := range a.openJournals {
		o.close()
	}
}

// RunOnce reads and checks everything that is new, in steps of bounded size.
func (a *Auditor) RunOnce(ctx context.Context) {
	began := time.Now()
	a.applyScope()
	a.mu.Lock()
	reported := a.reported
	a.reported = nil
	a.mu.Unlock()
	for _, f := range reported {
		a.addFinding(f)
	}
	orderErr := a.applyOrders(ctx)
	var problems []string
	for more := true; more && ctx.Err() == nil; {
		step := time.Now()
		more, problems = a.cycle(ctx)
		if err := a.save(); err != nil {
			problems = append(problems, "the state of the auditor cannot be saved: "+err.Error())
		}
		if more { // requests for certificates have priority
			pause(ctx, time.Since(step)/2)
		}
	}
	if ctx.Err() != nil {
		return
	}
	if orderErr != nil {
		problems = append(problems, strings.Split(orderErr.Error(), "\n")...)
	}
	problems = slices.Compact(problems)
	a.publish(problems)
	a.metrics.observe(began, len(problems) == 0)
	if !slices.Equal(problems, a.problems) { // log each problem once
		for _, text := range problems {
			a.o.Logger.Warn("audit is incomplete", "cause", text)
		}
	}
	a.problems = problems
}

func pause(ctx context.Context, d time.Duration) {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-ctx.Done():
	case <-wait.C:
	}
}

// cycle reads one step of each log, then the journals as far as that step needs, and evaluates both. The package
// comment gives the reason for this order.
func (a *Auditor) cycle(ctx context.Context) (more bool, problems []string) {
	a.readUntil = time.Time{}
	a.entriesRead = slices.ContainsFunc(a.followers, func(f *logFollower) bool { return f.size > 0 })
	for _, f := range a.followers {
		behind, err := a.follow(ctx, f)
		if err != nil && ctx.Err() == nil {
			problems = append(problems, err.Error())
		}
		a.retryMissingCAs(ctx, f.logState, f.Log())
		if text := f.missingCAsText(); text != "" {
			problems = append(problems, text)
		}
		if behind { // the journals are read no further than the entries
			more = true
			if at := timeOf(f.last).Add(maxClockSkew); a.readUntil.IsZero() || at.Before(a.readUntil) {
				a.readUntil = at
			}
		}
	}
	if err := a.readJournals(ctx); err != nil {
		problems = append(problems, err.Error())
	}
	a.takeSCTs()
	if ctx.Err() != nil {
		return false, problems
	}
	if a.rescan {
		a.rescan = false
		for _, f := range a.followers {
			f.Rewind()
			f.size = 0
		}
		return true, problems
	}
	if err := a.evaluate(ctx); err != nil {
		problems = append(problems, err.Error())
	}
	a.evict()
	return more, problems
}

// takeSCTs adds the SCTs of [Auditor.AddSCT]. If there are more than fit, a random sample of them is audited, so that a
// log cannot predict which ones.
func (a *Auditor) takeSCTs() {
	a.mu.Lock()
	all := a.scts
	a.scts = nil
	a.mu.Unlock()
	most := min(int(a.o.Rows), maxQueuedSCTs)
	for _, s := range all {
		open := len(a.obligations)
		if open < most {
			a.overflow = 0
			a.addSCT(s)
			continue
		}
		a.metrics.dropped.Inc()
		a.overflow++
		if n := rand.IntN(open + a.overflow); n < open { //nolint:gosec // the choice is not visible from outside
			a.obligations[n] = a.obligations[open-1]
			a.obligations = a.obligations[:open-1]
			a.addSCT(s)
		}
	}
}

// publish shows alarms and problems to other goroutines.
func (a *Auditor) publish(problems []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.published = published{
		alarms: slices.Clone(a.alarms.open), quarantined: maps.Clone(a.alarms.quarantined), warnings: problems,
	}
}
