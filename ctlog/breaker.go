package ctlog

import (
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/tbs"
)

const (
	// tripAfter failures in a row set a log aside.
	tripAfter = 5
	// coolDown is how long a log that was set aside is left alone before one request may try it, while other logs can
	// take its place. It bounds the attempts at a dead log, and how long it takes to notice that the log is back.
	coolDown = time.Second
	// firstProbe is the same time where no other log is left. It doubles with each failure, up to coolDown.
	firstProbe = 250 * time.Millisecond
	// probePoll is how often a request that waits for the probe of another request looks whether that has ended.
	probePoll = 100 * time.Millisecond
	// worksFor is how long after an SCT a log is not set aside because it gave no sign of life to the background work.
	worksFor = 5 * time.Second
	// maxHold is the longest time that a log may make us wait by Retry-After, for this request or for others.
	maxHold = 5 * time.Second
)

// breaker keeps requests away from a log that fails. It is closed (every request passes), open (none passes), or half
// open (one passes, whose result decides). Only a proof closes it, an SCT or a head that verifies: the passing of time
// does not.
type breaker struct {
	mu       sync.Mutex
	failures int  // in a row
	unheard  int  // attempts in a row that were given up because other logs were faster
	open     bool // until a proof
	probing  bool // the one attempt of the half-open state, or the one that waits for an unheard log, is under way
	probes   int  // that failed since the last success
	retryAt  time.Time
	held     time.Time // the log asked to be left alone until then
	cause    string
	result   Result    // of the last failure
	since    time.Time // of the present state
	failed   time.Time // the last failure
	worked   time.Time // the last proof

	foreign bool   // the newest head of the log is not signed with the pinned key
	proven  bool   // an SCT or a head of the log has verified since it last gave one that did not
	waits   bool   // the log does not count before it is proven
	lacks   string // why no head could be read to prove the log; "" where one can be, or where nobody has looked

	last *question // the last submission that failed: what the background work may try again
}

// pass is the leave to make one attempt. Each MUST end in succeed, fail or abandon.
type pass struct {
	granted bool
	// linger: the attempt goes on to its end even if nobody needs its SCT any more, as its result says whether the log lives.
	linger bool
}

// closed reports whether every request passes.
func (b *breaker) closed(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.isClosed(now)
}

func (b *breaker) isClosed(now time.Time) bool { return !b.open && !now.Before(b.held) }

// allow says whether an attempt may start. Needed means that no other log can take the place of this one.
func (b *breaker) allow(now time.Time, needed bool) pass {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.isClosed(now) && (b.unheard < tripAfter || b.probing):
		return pass{granted: true}
	case b.probing || b.pause(now, needed) > 0:
		return pass{}
	}
	b.probing = true
	return pass{granted: true, linger: true}
}

// doubtful reports whether nothing was heard of the log for some attempts, and one is under way that will tell.
func (b *breaker) doubtful() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.probing && b.unheard >= tripAfter
}

// ready reports whether allow would say yes now or once the log may be asked again by its own words, and takes nothing.
func (b *breaker) ready(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.open || !b.probing && !now.Before(b.retryAt)
}

// succeed closes the breaker after an SCT that verified, and reports whether it was open.
func (b *breaker) succeed(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last, b.held = nil, time.Time{}
	return b.close(now)
}

func (b *breaker) close(now time.Time) bool {
	was := b.open || b.waits && !b.proven
	if was {
		b.since = now
	}
	b.open, b.probing, b.failures, b.unheard, b.probes, b.cause, b.result = false, false, 0, 0, 0, "", ""
	b.worked, b.proven, b.foreign = now, true, false
	return was
}

// fail counts a failed attempt and reports whether it opened the breaker. One by the clock or by the key opens it at
// once: it would come again.
func (b *breaker) fail(now time.Time, f *Failure, p pass) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures += 1 + b.unheard // it was silent before
	b.unheard = 0
	b.cause, b.result, b.failed = f.Error(), f.Result, now
	if p.linger {
		b.probing = false
		b.probes++
	}
	if f.Result == Unverified {
		b.proven = false
	}
	if f.RetryAfter > 0 {
		b.held = now.Add(min(f.RetryAfter, maxHold))
	}
	if !b.open && f.Result != Skewed && f.Result != Unverified && b.failures < tripAfter {
		return false
	}
	return b.trip(now)
}

// keep remembers a submission that failed.
func (b *breaker) keep(q question) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = &q
}

// silent is told that a log gave no sign of life outside a request, or a head that does not verify (then with the
// result Unverified). It opens the breaker unless the log worked of late, and reports whether it did.
func (b *breaker) silent(now time.Time, f *Failure) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.Result == Unverified {
		b.proven, b.foreign = false, true
	} else if !b.open && !b.worked.IsZero() && now.Sub(b.worked) < worksFor {
		return false
	}
	b.cause, b.result, b.failed = f.Error(), f.Result, now
	if b.open {
		return false // and do not put off the next try of a request
	}
	return b.trip(now)
}

func (b *breaker) trip(now time.Time) bool {
	was := b.open
	b.open, b.retryAt = true, now.Add(coolDown)
	if !was {
		b.since = now
	}
	return !was
}

// read is told what the background work could read of the log: a head that verifies (lacks is ""), or why there is no
// head to read. It reports whether that closed the breaker. It does not where a submission failed that can still be
// tried again: then only an SCT shows that the log takes precertificates.
func (b *breaker) read(now time.Time, lacks string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lacks, b.foreign = lacks, false
	switch {
	case b.open && b.last != nil && b.last.alive(now):
		return false
	case lacks == "":
		return b.close(now)
	case b.open && b.result != Unverified: // it answers again, and nothing of its key speaks against it
		was := b.proven
		closed := b.close(now)
		b.proven = was
		return closed
	}
	return false
}

// again returns the submission that the background work should try now, and the leave to do so.
func (b *breaker) again(now time.Time) (question, pass, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wait := coolDown
	if !b.result.transient() { // it may make another entry each time
		wait = 4 * coolDown
	}
	if !b.open || b.probing || b.foreign || b.last == nil || !b.last.alive(now) || now.Before(b.failed.Add(wait)) ||
		now.Before(b.held) {
		return question{}, pass{}, false
	}
	b.probing = true
	return *b.last, pass{granted: true, linger: true}, true
}

// abandon takes an attempt back that says nothing about the log.
func (b *breaker) abandon(p pass) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = b.probing && !p.linger
}

// overtaken takes an attempt back that was given up because other logs were faster. Some of these in a row, and one attempt is
// made to the end: a log that hangs would never be found out where others always answer first.
func (b *breaker) overtaken() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unheard++
}

// forgive closes a breaker that the clock has opened.
func (b *breaker) forgive(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open && b.result == Skewed {
		proven, worked := b.proven, b.worked
		b.close(now)
		b.proven, b.worked = proven, worked
	}
}

// await says that the log counts only once it is proven.
func (b *breaker) await() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waits = true
}

// unproven reports whether the background work should look for a proof: there is none, and a head may be read.
func (b *breaker) unproven() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waits && !b.proven && b.lacks == ""
}

// wait is how long the log is still left alone. Needed means that no other log can take the place of this one.
func (b *breaker) wait(now time.Time, needed bool) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if needed && b.probing && !b.isClosed(now) {
		return probePoll
	}
	return b.pause(now, needed)
}

func (b *breaker) pause(now time.Time, needed bool) time.Duration {
	if b.isClosed(now) {
		return 0
	}
	if needed {
		return max(0, b.failed.Add(min(firstProbe<<min(b.probes, 8), coolDown)).Sub(now))
	}
	wait := max(0, b.held.Sub(now))
	if b.open {
		wait = max(wait, b.retryAt.Sub(now))
	}
	return wait
}

// hopeless reports whether it is set aside for what no retry makes good, and was so a moment ago, at a time after
// since.
func (b *breaker) hopeless(since time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open && !b.probing && !b.result.transient() && b.failed.After(since)
}

// workedSince reports whether the log gave a proof after a time.
func (b *breaker) workedSince(t time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.worked.After(t)
}

// lastResult is that of the last failure; "" is none since the last proof.
func (b *breaker) lastResult() Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.result
}

func (b *breaker) isOpen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

// state returns whether the log counts as usable, why not, and since when.
func (b *breaker) state() (ok bool, cause string, since time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.open:
		return false, b.cause, b.since
	case b.waits && !b.proven && b.lacks == "":
		cause = "nothing that its pinned key signed has come yet"
		if b.cause != "" {
			cause += ": " + b.cause
		}
		return false, cause, b.since
	}
	return true, "", b.since
}

// warning is what may fail although the log counts; "" is nothing.
func (b *breaker) warning() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waits && !b.proven && b.lacks != "" {
		return b.lacks
	}
	return ""
}

// takeOver takes what is known of the same log from a set that went out of use. An attempt that is under way there is
// not one here.
func (b *breaker) takeOver(old *breaker) {
	old.mu.Lock()
	defer old.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.unheard, b.open, b.probes, b.retryAt, b.held = old.failures, old.unheard, old.open, old.probes,
		old.retryAt, old.held
	b.cause, b.result, b.since, b.failed, b.worked = old.cause, old.result, old.since, old.failed, old.worked
	b.foreign, b.proven, b.lacks, b.last = old.foreign, old.proven, old.lacks, old.last
}

// question is what a log is asked; start is when the request began.
type question struct {
	p     *tbs.Precertificate
	start time.Time
}

// alive reports whether the precertificate of the question may still be logged.
func (q question) alive(now time.Time) bool { return now.Before(q.p.NotAfter) }
