package journal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/journal/ship"
)

const (
	// maxNotes is the number of queued records without a waiting caller above which denials are only counted.
	maxNotes = 4096
	// reportDropped is the time between two records with the number of denials that were not written.
	reportDropped = time.Second
	// minRepair and maxRepair bound the time between two attempts to repair a journal that cannot be written.
	minRepair = 50 * time.Millisecond
	maxRepair = 5 * time.Second
	// hung is how long a commit may take before the journal counts as unwritable.
	hung = 5 * time.Second
	// checkEvery is how often the files are checked while nothing is written.
	checkEvery = time.Second
)

// Options for [Open].
type Options struct {
	Version string // of mayfly, for the record of the start
	Digest  string // digest of the configuration, for the same record

	Logger *slog.Logger     // nil: none
	Now    func() time.Time // nil: time.Now
	Stdout *os.File         // receives the copy for standard output; nil: os.Stdout
	// Changed is called when another process changed a file of the journal while it was written. It MUST return at
	// once. Optional: if it is nil, [Journal.Health] has a warning until the process ends.
	Changed func(what string)
	// Disk wraps the file for writing. Optional; default: the file itself.
	Disk func(*os.File) Disk

	free func(dir string) (free, size uint64, known bool) // replaces freeOf in tests
}

// store makes groups of records durable: in a file, or by sending them to receivers that acknowledge them.
type store interface {
	// commit returns when the group is durable. After an error it is not called again before repair has succeeded.
	commit(group) error
	// repair tries to make the store usable again. cut describes what was lost or set aside; empty if nothing was.
	repair() (cut string, err error)
	close()
}

// group is the set of records that one commit writes.
type group struct {
	lines   []byte
	entries []entry
	end     chain // the chain after its last record
}

// entry is a record that waits to be written.
type entry struct {
	record Record
	wait   *waiter // nil: no caller waits
}

// waiter is a caller that waits for the result of its record, until it gets the result or gives up.
type waiter struct {
	done  chan error  // buffered for the one result
	taken atomic.Bool // set by giveUp or refuse, whichever is first
}

func newWaiter() *waiter { return &waiter{done: make(chan error, 1)} }

func (w *waiter) finish(err error) { w.done <- err }

// giveUp ends the wait. It returns false if the result is about to arrive.
func (w *waiter) giveUp() bool { return w.taken.CompareAndSwap(false, true) }

// refuse sends the error of a record that does not count. It returns false if the caller has given up.
func (w *waiter) refuse(err error) bool {
	if !w.taken.CompareAndSwap(false, true) {
		return false
	}
	w.done <- err
	return true
}

// Journal writes records. It is safe for concurrent use.
type Journal struct {
	log      *slog.Logger
	now      func() time.Time
	metrics  *metrics
	privacy  *privacy
	store    store
	file     *fileStore    // the store if it is a file, else nil
	copies   *ship.Copies  // nil: there is no file to copy
	busy     atomic.Int64  // start of the commit under way, in nanoseconds since 1970; 0: there is none
	wake     chan struct{} // signals that a record waits, or that the journal closes
	changed  func(string)  // see Options.Changed; may be nil
	stopping chan struct{} // closed when Close is called
	ended    chan struct{} // closed when the writer has returned

	mu          sync.Mutex
	waiting     []entry
	notes       int       // the number of records in waiting without a waiting caller
	dropped     int       // denials that were not written, since the last record about them
	reportedAt  time.Time // when that record was written
	broken      error     // why nothing can be written; nil if it can
	since       time.Time // when broken changed last
	changedFile string    // what another process changed last; empty: nothing
	denials     denials
	closing     bool

	free func(dir string) (free, size uint64, known bool) // denials on a disk with little space are limited here

	chain     chain     // the fields below are used only by the goroutine that writes
	lines     []byte    // the group that is being written; reused
	spare     []entry   // reused for waiting
	lastGroup int       // number of records in the last group
	measured  time.Time // when the free space was measured last
}

// Open opens the journal for this process only, sets aside what a crash left at its end, and writes the start record.
// When Open returns, the journal can be written. Its errors name the remedy.
func Open(c Config, o Options) (*Journal, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Disk == nil {
		o.Disk = func(f *os.File) Disk { return osDisk{f} }
	}
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.free == nil {
		o.free = freeOf
	}
	key, err := c.Key.Read()
	if err != nil {
		return nil, fmt.Errorf("audit.key: %w", err)
	}
	j := &Journal{
		log: o.Logger, now: o.Now, metrics: newMetrics(), wake: make(chan struct{}, 1), stopping: make(chan struct{}),
		ended: make(chan struct{}),
		chain: newChain(key), since: o.Now(), denials: newDenials(), changed: o.Changed, free: o.free,
	}
	if j.privacy, err = c.privacy(); err != nil {
		return nil, err
	}
	cut, err := j.openStore(c, o)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	j.metrics.watch(j)
	begin := []entry{{record: Record{Kind: Start, Version: o.Version, Config: o.Digest, Instance: rand.Text()}}}
	if cut != "" {
		o.Logger.Warn("journal: the end of the file was set aside", "text", cut)
		begin = append([]entry{{record: Record{Kind: Recovered, Text: cut}}}, begin...)
	}
	if err := j.commit(begin); err != nil {
		j.store.close()
		return nil, fmt.Errorf("audit: %w", err)
	}
	if j.copies != nil {
		j.copies.Start()
	}
	j.measure()
	go j.write()
	return j, nil
}

// openStore opens the store, and prepares the copies of a file.
func (j *Journal) openStore(c Config, o Options) (cut string, err error) {
	receivers, err := ship.Open(c.Config, o.Stdout)
	if err != nil {
		return "", err
	}
	if c.File == "" {
		j.store = &receiverStore{receivers}
		return "", nil
	}
	size, err := c.maxSize()
	if err != nil {
		return "", err
	}
	j.file = &fileStore{path: c.File, maxSize: size, wrap: o.Disk, now: o.Now, notice: j.reportChange}
	j.store = j.file
	if cut, err = openFile(j.file, j.chain); err != nil {
		return "", fmt.Errorf("file: %w", err)
	}
	j.chain = j.file.last
	j.copies = receivers.Follow(ship.FollowOptions{
		Path: c.File, Last: j.chain.seq, Log: j.log,
		Read: func(name string, from uint64) ship.Source {
			return &copySource{NewReader(c.File, from).Acknowledged(), j.log, name}
		},
	})
	return cut, nil
}

// Append returns when the record is durable. The journal sets Seq, Format, Time, Prev and Sum. After an error the
// record does not count; if ctx has ended, it may count nevertheless. The error names the cause for the operator.
func (j *Journal) Append(ctx context.Context, r *Record) error {
	if err := r.check(); err != nil {
		return err
	}
	w := newWaiter()
	if err := j.enqueue(entry{*r, w}); err != nil {
		return err
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		if !w.giveUp() {
			return <-w.done
		}
		return context.Cause(ctx)
	}
}

// Note queues a record and returns at once. While the journal cannot be written, the record is kept. Denials beyond the
// limits in denials.go are counted, and the counts are written as [Dropped] records: one for each identity and reason
// with repeated denials, and one for the rest.
func (j *Journal) Note(r *Record) {
	if err := r.check(); err != nil {
		j.log.Error("journal: a record was rejected", "cause", err.Error())
		return
	}
	if err := j.enqueue(entry{record: *r}); err != nil {
		j.log.Error("journal: a record is lost", "kind", string(r.Kind), "cause", err.Error())
	}
}

var errClosed = errors.New("the journal is closed")

func (j *Journal) enqueue(e entry) error {
	j.privacy.apply(&e.record)
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.closing:
		return errClosed
	case e.wait != nil && j.broken != nil:
		return j.broken
	case e.wait == nil && e.record.unsigned():
		full, counted := false, false
		if j.notes < maxNotes {
			full, counted = j.denials.admit(&e.record)
		}
		if !full {
			j.metrics.dropped.Inc()
			if !counted {
				j.dropped++
			}
			return nil
		}
	}
	if e.wait == nil {
		j.notes++
	}
	j.waiting = append(j.waiting, e)
	j.wakeUp()
	return nil
}

func (j *Journal) wakeUp() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// write is the one goroutine that writes. It takes the waiting records, commits them as one group and wakes their
// callers. While a group is written, the next one forms (group commit). After a failure the first repair is immediate.
// Later ones wait, also if a repair succeeds and the next group fails again: a store that accepts small records but no
// large ones must not cause a busy loop.
func (j *Journal) write() {
	defer close(j.ended)
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	failures := 0 // failures since the last group that was committed
	last := false // the journal closes, and there is one more attempt
	failed := func() (retry bool) {
		failures++
		if failures == 1 || j.pause(min(maxRepair, minRepair<<min(failures-1, 10))) {
			return true
		}
		retry, last = !last, true
		return retry
	}
	for {
		if j.cause() != "" {
			if !j.repair() && !failed() {
				j.abandon()
				return
			}
			continue
		}
		if j.queued() > 0 {
			j.collect()
		}
		all, closing := j.take()
		switch {
		case len(all) > 0:
			if j.commitAndWake(all) {
				failures = 0
			} else if !failed() {
				j.abandon()
				return
			}
			clear(all)
			j.spare = all
		case closing:
			return
		default:
			select {
			case <-j.wake:
			case <-check.C:
				j.checkIdle()
			}
		}
	}
}

// checkIdle detects changes by other processes while there is nothing to write.
func (j *Journal) checkIdle() {
	if j.file == nil {
		return
	}
	if err := j.file.check(); err != nil {
		j.file.unverified = true
		j.fail(err, nil)
	}
}

// reportChange reports, once for each change, that another process changed a file of the journal.
func (j *Journal) reportChange(what string) {
	j.mu.Lock()
	again := j.changedFile == what
	j.changedFile = what
	j.mu.Unlock()
	if again {
		return
	}
	j.log.Error("journal: another process changed the journal while it was in use", "what", what)
	if j.changed != nil {
		j.changed(what)
	}
}

// take returns all waiting records, and whether the journal closes.
func (j *Journal) take() (all []entry, closing bool) {
	j.measure()
	j.mu.Lock()
	defer j.mu.Unlock()
	all, j.waiting, j.spare, j.notes = j.waiting, j.spare[:0], nil, 0
	now := time.Now()
	counted, rest := j.denials.summaries(now, j.closing)
	j.dropped += rest
	every := reportDropped
	if j.denials.tight {
		every = reportTight
	}
	if j.dropped > 0 && (j.closing || now.Sub(j.reportedAt) >= every) {
		counted = append(counted, entry{record: Record{Kind: Dropped, Count: j.dropped}})
		j.dropped, j.reportedAt = 0, now
	}
	// Inserted at the front, because the stop record must be the last one.
	return slices.Insert(all, 0, counted...), j.closing
}

// measure checks whether the disk is nearly full. The rest of such a disk is reserved for certificates.
func (j *Journal) measure() {
	if j.file == nil || time.Since(j.measured) < measureEvery {
		return
	}
	j.measured = time.Now()
	free, size, known := j.free(filepath.Dir(j.file.path))
	tight := known && free < min(maxReserve, size/20)
	j.mu.Lock()
	was := j.denials.tight
	j.denials.tight = tight
	j.mu.Unlock()
	switch {
	case tight && !was:
		j.log.Error("journal: the disk is nearly full: denials are only counted, and the remaining space is kept for "+
			"certificates", "free_bytes", free)
	case was && !tight:
		j.log.Info("journal: the disk has space again: denials are written")
	}
}

// commitAndWake commits a group and wakes the callers that wait for it. It returns false if the group does not count.
func (j *Journal) commitAndWake(all []entry) bool {
	j.lastGroup = len(all)
	err := j.commit(all)
	if err != nil {
		j.fail(err, all)
		return false
	}
	for _, e := range all {
		if e.wait != nil {
			e.wait.finish(nil)
		}
	}
	return true
}

// commit chains the records of a group and makes them durable.
func (j *Journal) commit(all []entry) error {
	began := time.Now()
	next, now := j.chain, j.now()
	j.lines = j.lines[:0]
	for i := range all {
		j.lines = next.appendRecord(j.lines, &all[i].record, now)
	}
	j.busy.Store(began.UnixNano())
	defer j.busy.Store(0)
	err := j.store.commit(group{lines: j.lines, entries: all, end: next})
	if err != nil {
		if j.file == nil {
			j.chain = next // the group may have arrived at a receiver: its numbers must not be used again
		}
		return err
	}
	j.chain = next
	j.metrics.committed(all, time.Since(began))
	if j.copies != nil {
		j.copies.Advance(next.seq)
	}
	if cap(j.lines) > maxLine {
		j.lines = nil
	}
	return nil
}

// fail stops the journal: no record is acknowledged until a repair has succeeded. Callers that wait get the error.
// Records without a waiting caller are kept and written after the repair.
func (j *Journal) fail(err error, group []entry) {
	j.log.Error("journal: the journal cannot be written; no certificates are issued until it can", "cause", err.Error())
	j.metrics.failures.Inc()
	var foreign *changedError
	if errors.As(err, &foreign) {
		j.reportChange(foreign.what)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken, j.since = err, j.now()
	var kept []entry
	for _, e := range slices.Concat(group, j.waiting) {
		switch {
		case e.wait == nil:
			kept = append(kept, e)
		case e.record.Kind == Stop:
			kept = append(kept, e) // one more attempt, then abandon
		case !e.wait.refuse(err) && e.record.Signatures > 0:
			// The caller has given up and the client got an error, but the journal must show that the key signed.
			e.wait, e.record.Result, e.record.Reason = nil, Failed, string(fault.JournalUnavailable)
			kept = append(kept, e)
		}
	}
	j.waiting, j.notes = kept, len(kept)
}

// repair repairs the store and writes a [Recovered] record. Only then does the journal accept records again.
func (j *Journal) repair() bool {
	cause := j.cause()
	cut, err := j.store.repair()
	var foreign *changedError
	if errors.As(err, &foreign) {
		j.reportChange(foreign.what)
	}
	if err == nil {
		text := "the journal could not be written: " + cause + "; no record was acknowledged in the meantime"
		if cut != "" {
			text += "; " + cut
		}
		err = j.commit([]entry{{record: Record{Kind: Recovered, Text: text}}})
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		if cause != err.Error() {
			j.log.Error("journal: the journal still cannot be written", "cause", err.Error())
		}
		j.broken = err
		return false
	}
	j.log.Info("journal: the journal can be written again", "after", j.now().Sub(j.since))
	j.broken, j.since = nil, j.now()
	if j.changed != nil {
		j.changedFile = "" // so that the next change is reported, even if it is the same
	}
	return true
}

// pause waits before the next repair. It returns false if the journal closes: then no repair follows.
func (j *Journal) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-j.stopping:
		return false
	}
}

// abandon sends the error to the callers that still wait when the journal closes without a repair.
func (j *Journal) abandon() {
	j.mu.Lock()
	defer j.mu.Unlock()
	lost := 0
	for _, e := range j.waiting {
		if e.wait != nil {
			e.wait.finish(j.broken)
		} else {
			lost++
		}
	}
	if j.waiting = nil; lost > 0 {
		j.log.Error("journal: records without a waiting request are lost", "count", lost)
	}
}

func (j *Journal) cause() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken == nil {
		return ""
	}
	return j.broken.Error()
}

// Health describes whether the journal can be written.
type Health struct {
	OK      bool
	Warning string // a problem although OK, such as a copy that is behind; empty if there is none
	Cause   string // why OK is false
}

// Health returns at once.
func (j *Journal) Health() Health {
	if cause := j.cause(); cause != "" {
		return Health{Cause: cause}
	}
	if since := j.busy.Load(); since != 0 && time.Since(time.Unix(0, since)) > hung {
		return Health{Cause: "the disk has not answered for " +
			time.Since(time.Unix(0, since)).Truncate(time.Second).String()}
	}
	h := Health{OK: true}
	j.mu.Lock()
	if j.denials.tight {
		h.Warning = "the disk of the journal is nearly full: denials are only counted; when the disk is full, no " +
			"certificates are issued"
	}
	if j.changedFile != "" && j.changed == nil {
		h.Warning = "the journal was changed while it was in use: " + j.changedFile
	}
	j.mu.Unlock()
	if j.copies != nil && h.Warning == "" {
		h.Warning = j.copies.Warning()
	}
	return h
}

// Close writes the records that wait and the stop record, with the number of signatures since the start, and closes the
// file. Copies continue to catch up until ctx ends, and again after the next start. Append and Note MUST NOT be called
// after Close.
func (j *Journal) Close(ctx context.Context, signatures int) error {
	w := newWaiter()
	j.mu.Lock()
	if j.closing {
		j.mu.Unlock()
		return errClosed
	}
	j.waiting = append(j.waiting, entry{Record{Kind: Stop, Signatures: signatures}, w})
	j.closing = true
	j.wakeUp()
	j.mu.Unlock()
	close(j.stopping)
	<-j.ended
	err := <-w.done
	if err != nil {
		err = fmt.Errorf("audit: the stop record was not written: %w", err)
	}
	if j.copies != nil {
		j.copies.Stop(ctx)
	}
	j.store.close()
	return err
}

// Collectors returns the metrics of the journal.
func (j *Journal) Collectors() []prometheus.Collector { return j.metrics.collectors() }
