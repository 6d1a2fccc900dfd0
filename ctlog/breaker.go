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
)

// breaker keeps requests away from a log that fails. It is closed (every request passes), open (none passes), or half open
// (one passes, whose result decides).
type breaker struct {
	mu       sync.Mutex
	failures int  // in a row
	open     bool // until an attempt succeeds
	probing  bool // the one attempt of the half-open state is under way
	retryAt  time.Time
	cause    string
	since    time.Time // of the present state
	failed   time.Time // the last failure
	worked   time.Time // the last success
}

// allow reports whether an attempt may start. Each one allowed MUST end in succeed, fail or abandon.
func (b *breaker) allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return true
	}
	if b.probing || now.Before(b.retryAt) {
		return false
	}
	b.probing = true
	return true
}

// ready reports whether allow would say yes, and takes nothing.
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
	b.open, b.probing, b.failures, b.cause, b.worked = false, false, 0, "", now
	return was
}

// fail counts a failure and reports whether it opened the breaker.
func (b *breaker) fail(now time.Time, cause string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	b.cause, b.failed, b.probing = cause, now, false
	if !b.open && b.failures < tripAfter {
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
	b.cause, b.failed = cause, now
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
func (b *breaker) abandon() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
}

// wait is how long the log is still left alone.
func (b *breaker) wait(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return 0
	}
	return max(0, b.retryAt.Sub(now))
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
