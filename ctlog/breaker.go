package ctlog

import (
	"sync"
	"time"
)

const (
	// tripAfter failures in a row set a log aside.
	tripAfter = 5
	// coolDown is how long a log that was set aside is left alone before one request may try it. It bounds the attempts at a
	// dead log, and how long it takes to notice that it is back.
	coolDown = time.Second
	// settle is how long after its last failure a log that was set aside counts as down. Were it without end, a server that
	// gets no requests because it is not ready would never find out.
	settle = 5 * time.Second
	// maxHold is the longest that a log may make us wait by Retry-After, for this request or for others.
	maxHold = 5 * time.Second
)

// breaker keeps requests away from a log that fails. It is closed (every request passes), open (none passes), or half open
// (one passes, whose result decides).
type breaker struct {
	mu       sync.Mutex
	failures int  // in a row
	unheard  int  // attempts in a row that were given up because other logs were faster
	open     bool // until an attempt succeeds
	probing  bool // the one attempt of the half-open state, or the one that waits for an unheard log, is under way
	retryAt  time.Time
	held     time.Time // the log asked to be left alone until then
	cause    string
	skewed   bool      // cause is its clock, or ours
	since    time.Time // of the present state
	failed   time.Time // the last failure
	worked   time.Time // the last success
}

// pass is the leave to make one attempt. Each MUST end in succeed, fail or abandon.
type pass struct {
	granted bool
	// linger: the attempt goes on to its end even if nobody needs its SCT any more, as its result says whether the log lives.
	linger bool
}

// allow says whether an attempt may start.
func (b *breaker) allow(now time.Time) pass {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case now.Before(b.held):
		return pass{}
	case !b.open && (b.unheard < tripAfter || b.probing):
		return pass{granted: true}
	case b.probing || now.Before(b.retryAt):
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

// succeed closes the breaker and reports whether it was open.
func (b *breaker) succeed(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.open
	if was {
		b.since = now
	}
	b.open, b.probing, b.failures, b.unheard, b.cause, b.skewed, b.worked = false, false, 0, 0, "", false, now
	return was
}

// fail counts a failure and reports whether it opened the breaker. One by the clock opens it at once: it would come again.
func (b *breaker) fail(now time.Time, f *Failure) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures += 1 + b.unheard // it was silent before
	b.unheard = 0
	b.cause, b.skewed, b.failed, b.probing = f.Error(), f.Result == Skewed, now, false
	if f.RetryAfter > 0 {
		b.held = now.Add(min(f.RetryAfter, maxHold))
	}
	if !b.open && !b.skewed && b.failures < tripAfter {
		return false
	}
	return b.trip(now)
}

// silent is told that a log gave no sign of life outside a request. It opens the breaker unless the log worked of late, and
// reports whether it did.
func (b *breaker) silent(now time.Time, cause string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open && !b.worked.IsZero() && now.Sub(b.worked) < settle {
		return false
	}
	b.cause, b.skewed, b.failed = cause, false, now
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
	if b.open && b.skewed {
		b.open, b.probing, b.failures, b.cause, b.skewed, b.since = false, false, 0, "", false, now
	}
}

// wait is how long the log is still left alone.
func (b *breaker) wait(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	wait := max(0, b.held.Sub(now))
	if b.open {
		wait = max(wait, b.retryAt.Sub(now))
	}
	return wait
}

func (b *breaker) isOpen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

// state returns whether the log counts as usable, why not, and since when.
func (b *breaker) state(now time.Time) (ok bool, cause string, since time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.open:
		return true, "", b.since
	case now.Sub(b.failed) >= settle:
		return true, b.cause, b.failed.Add(settle)
	}
	return false, b.cause, b.since
}
