package admission

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/internal/rate"
)

// Limiter bounds how often something may happen for one key, with a rate and a burst. Its memory is bounded, and new
// keys never displace a key whose burst is not complete: an attacker with many keys cannot make the limiter forget one.
// While the limiter is full, further keys are limited too: each shares the limit of one of 1024 groups with the other
// keys of the group. It is safe for concurrent use.
type Limiter[K comparable] struct {
	keys int
	seed maphash.Seed

	used   atomic.Bool // false while there is no key
	mu     sync.Mutex
	by     map[K]int64 // when the burst of a key is complete again; see [rate.Config.Take]
	groups [groups]int64
	swept  time.Time
}

const groups = 1024

// NewLimiter returns a limiter that stores as many keys and has counted nothing.
func NewLimiter[K comparable](keys int) *Limiter[K] {
	return &Limiter[K]{keys: keys, seed: maphash.MakeSeed(), by: map[K]int64{}}
}

// Used reports whether the limiter stores any key. While it is false, no key is over its limit, so that callers need
// not compute theirs.
func (l *Limiter[K]) Used() bool { return l.used.Load() }

// Over reports whether key is over the limit r, and for how long. Over does not count an event.
func (l *Limiter[K]) Over(key K, r rate.Config, now time.Time) (wait time.Duration, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next, stored := l.by[key]
	if !stored && len(l.by) < l.keys {
		return 0, false
	}
	if !stored {
		next = *l.group(key)
	}
	after, wait := r.Take(next, now.UnixNano())
	switch {
	case wait == 0:
	case stored:
		l.by[key] = after // next, unless the clock was set back
	default:
		*l.group(key) = after
	}
	return wait, wait > 0
}

// Take counts an event of key if key is not over the limit r. Otherwise it returns how long key will be over the limit.
func (l *Limiter[K]) Take(key K, r rate.Config, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next, stored := l.by[key]
	if !stored && len(l.by) >= l.keys {
		l.sweep(now)
	}
	if !stored && len(l.by) >= l.keys {
		at := l.group(key)
		*at, wait = r.Take(*at, now.UnixNano())
		return wait
	}
	l.by[key], wait = r.Take(next, now.UnixNano())
	l.used.Store(true)
	return wait
}

func (l *Limiter[K]) group(key K) *int64 { return &l.groups[maphash.Comparable(l.seed, key)%groups] }

// sweep drops the keys whose burst is complete, at most once a second: otherwise each of many new keys would cause a
// scan of all keys. The caller holds mu.
func (l *Limiter[K]) sweep(now time.Time) {
	if since := now.Sub(l.swept); since >= 0 && since < time.Second {
		return
	}
	l.swept = now
	for key, next := range l.by {
		if next <= now.UnixNano() {
			delete(l.by, key)
		}
	}
}

// Len returns the number of stored keys.
func (l *Limiter[K]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.by)
}
