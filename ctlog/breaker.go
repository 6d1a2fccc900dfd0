package ctlog

import (
	"sync"
	"time"
)

const (
	// tripAfter is how many failures in a row set a log aside.
	tripAfter = 5
	// coolDown is how long a log that was set aside is left alone before one submission may probe it, while other logs
	// can take its place. It bounds the attempts at a dead log, and the time until the recovery of the log is noticed.
	coolDown = time.Second
	// firstProbe is the cool-down if no other log is left. It doubles with each failure, up to coolDown.
	firstProbe = 250 * time.Millisecond
	// probePoll is how often a submission that waits for the probe of another one checks whether that probe has ended.
	probePoll = 100 * time.Millisecond
	// worksFor is how long after an SCT a log is not set aside for failures of the background work.
	worksFor = 5 * time.Second
	// maxHold is the longest Retry-After that is respected, for this submission and for others.
	maxHold = 5 * time.Second
)

// breaker keeps submissions away from a log that fails. It is closed (every submission passes), open (none passes), or
// half-open (one passes as a probe, whose result decides). Only a proof closes it: an SCT or a head that verifies. Time
// alone does not.
type breaker struct {
	mu        sync.Mutex
	failures  int  // in a row
	overtaken int  // attempts in a row that were abandoned because other logs were faster
	open      bool // until the next proof
	probing   bool // the probe of the half-open state, or of a log that was overtaken too often, is under way
	probes    int  // failed probes since the last proof
	retryAt   time.Time
	heldUntil time.Time // by the Retry-After of the log
	cause     string
	result    Result    // of the last failure
	since     time.Time // when the state last changed
	failedAt  time.Time // the last failure
	provenAt  time.Time // when the log last gave a proof

	wrongKey   bool   // the newest head of the log is not signed with the pinned key
	proven     bool   // an SCT or a head has verified since the last one that did not verify
	needsProof bool   // the log counts as usable only once it is proven
	noHead     string // why no head can be read to prove the log; empty if one can be read, or if none was tried

	lastFailed *request // the last precertificate that failed, for the background work to try again
}

// permit allows one attempt. Each permit MUST end in succeed, fail or abandon.
type permit struct {
	granted bool
	// probe means that the attempt is not canceled even if its SCT is no longer needed, because the result shows
	// whether the log works.
	probe bool
}

// closed reports whether every submission passes.
func (b *breaker) closed(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.isClosed(now)
}

func (b *breaker) isClosed(now time.Time) bool { return !b.open && !now.Before(b.heldUntil) }

// allow asks for a permit. needed means that no other log can take the place of this one.
func (b *breaker) allow(now time.Time, needed bool) permit {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.isClosed(now) && (b.overtaken < tripAfter || b.probing):
		return permit{granted: true}
	case b.probing || b.remaining(now, needed) > 0:
		return permit{}
	}
	b.probing = true
	return permit{granted: true, probe: true}
}

// underTest reports whether the log was overtaken in its last attempts, and a probe is under way that will show whether
// it works.
func (b *breaker) underTest() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.probing && b.overtaken >= tripAfter
}

// ready reports whether allow would grant a permit now, Retry-After aside. It changes nothing.
func (b *breaker) ready(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.open || !b.probing && !now.Before(b.retryAt)
}

// succeed closes the breaker after an SCT that verified, and reports whether the log was unusable before.
func (b *breaker) succeed(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastFailed, b.heldUntil = nil, time.Time{}
	return b.close(now)
}

func (b *breaker) close(now time.Time) bool {
	was := b.open || b.needsProof && !b.proven
	if was {
		b.since = now
	}
	b.open, b.probing, b.failures, b.overtaken, b.probes, b.cause, b.result = false, false, 0, 0, 0, "", ""
	b.provenAt, b.proven, b.wrongKey = now, true, false
	return was
}

// fail counts a failed attempt and reports whether it opened the breaker. A wrong timestamp or a wrong key opens it at
// once, because the next attempt would fail in the same way.
func (b *breaker) fail(now time.Time, f *Failure, p permit) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures += 1 + b.overtaken // the abandoned attempts would have failed as well
	b.overtaken = 0
	b.cause, b.result, b.failedAt = f.Error(), f.Result, now
	if p.probe {
		b.probing = false
		b.probes++
	}
	if f.Result == Unverified {
		b.proven = false
	}
	if f.RetryAfter > 0 {
		b.heldUntil = now.Add(min(f.RetryAfter, maxHold))
	}
	if !b.open && f.Result != Skewed && f.Result != Unverified && b.failures < tripAfter {
		return false
	}
	return b.trip(now)
}

// keep stores a request that failed.
func (b *breaker) keep(r request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastFailed = &r
}

// failInBackground records that a log did not answer outside a submission, or that its head does not verify
// (Unverified). It opens the breaker unless the log worked recently, and reports whether it did.
func (b *breaker) failInBackground(now time.Time, f *Failure) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.Result == Unverified {
		b.proven, b.wrongKey = false, true
	} else if !b.open && !b.provenAt.IsZero() && now.Sub(b.provenAt) < worksFor {
		return false
	}
	b.cause, b.result, b.failedAt = f.Error(), f.Result, now
	if b.open {
		return false // keeps the time of the next probe
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

// recordHead records that the background work has read a head that verifies (noHead is empty), or why there is no head
// to read. It reports whether that closed the breaker. It does not close the breaker while a failed request can still
// be tried again: then only an SCT shows that the log accepts precertificates.
func (b *breaker) recordHead(now time.Time, noHead string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.noHead, b.wrongKey = noHead, false
	switch {
	case b.open && b.lastFailed != nil && !b.lastFailed.expired(now):
		return false
	case noHead == "":
		return b.close(now)
	case b.open && b.result != Unverified: // the log answers again, and nothing contradicts its key
		was := b.proven
		closed := b.close(now)
		b.proven = was
		return closed
	}
	return false
}

// retry returns the failed request that the background work should try now, and the permit to do so.
func (b *breaker) retry(now time.Time) (request, permit, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wait := coolDown
	if !b.result.transient() { // limits further entries for the same precertificate
		wait = 4 * coolDown
	}
	if !b.open || b.probing || b.wrongKey || b.lastFailed == nil || b.lastFailed.expired(now) ||
		now.Before(b.failedAt.Add(wait)) || now.Before(b.heldUntil) {
		return request{}, permit{}, false
	}
	b.probing = true
	return *b.lastFailed, permit{granted: true, probe: true}, true
}

// abandon returns the permit of an attempt that ended without a result.
func (b *breaker) abandon(p permit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = b.probing && !p.probe
}

// countOvertaken counts an attempt that was abandoned because other logs were faster. After several of these in a row,
// the next attempt is a probe: a log that hangs would otherwise never be noticed where others always answer first.
func (b *breaker) countOvertaken() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.overtaken++
}

// resetSkew closes a breaker that a wrong timestamp has opened.
func (b *breaker) resetSkew(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open && b.result == Skewed {
		proven, provenAt := b.proven, b.provenAt
		b.close(now)
		b.proven, b.provenAt = proven, provenAt
	}
}

// requireProof makes the log count as usable only once it is proven.
func (b *breaker) requireProof() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.needsProof = true
}

// unproven reports whether the background work should look for a proof: there is none, and a head may be readable.
func (b *breaker) unproven() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.needsProof && !b.proven && b.noHead == ""
}

// wait returns how long the log is still left alone. needed means that no other log can take the place of this one.
func (b *breaker) wait(now time.Time, needed bool) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if needed && b.probing && !b.isClosed(now) {
		return probePoll
	}
	return b.remaining(now, needed)
}

func (b *breaker) remaining(now time.Time, needed bool) time.Duration {
	if b.isClosed(now) {
		return 0
	}
	if needed {
		return max(0, b.failedAt.Add(min(firstProbe<<min(b.probes, 8), coolDown)).Sub(now))
	}
	wait := max(0, b.heldUntil.Sub(now))
	if b.open {
		wait = max(wait, b.retryAt.Sub(now))
	}
	return wait
}

// hopeless reports whether the log is set aside for a failure that no retry repairs, and failed after t.
func (b *breaker) hopeless(since time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open && !b.probing && !b.result.transient() && b.failedAt.After(since)
}

// workedSince reports whether the log gave a proof after t.
func (b *breaker) workedSince(t time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.provenAt.After(t)
}

// lastResult returns the result of the last failure; empty if there was none since the last proof.
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
	case b.needsProof && !b.proven && b.noHead == "":
		cause = "nothing signed with its pinned key has been received yet"
		if b.cause != "" {
			cause += ": " + b.cause
		}
		return false, cause, b.since
	}
	return true, "", b.since
}

// warning returns what may fail although the log counts as usable.
func (b *breaker) warning() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.needsProof && !b.proven && b.noHead != "" {
		return b.noHead
	}
	return ""
}

// takeOver copies the state of the same log from a set that is no longer used. A probe that is under way there is not
// counted as one here.
func (b *breaker) takeOver(old *breaker) {
	old.mu.Lock()
	defer old.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.overtaken, b.open, b.probes = old.failures, old.overtaken, old.open, old.probes
	b.retryAt, b.heldUntil, b.failedAt, b.provenAt = old.retryAt, old.heldUntil, old.failedAt, old.provenAt
	b.cause, b.result, b.since, b.lastFailed = old.cause, old.result, old.since, old.lastFailed
	b.wrongKey, b.proven, b.noHead = old.wrongKey, old.proven, old.noHead
}
