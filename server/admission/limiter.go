package admission

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limiter bounds how often something may happen for one key, with a rate and a burst. Its memory is bounded, and new
// keys never displace a key that is over its limit: an attacker with many keys cannot make the limiter forget one. Keys
// beyond the bound are not limited until the limiter has dropped others, whose burst is available in full again. It is
// safe for concurrent use.
type Limiter[K comparable] struct {
	rate  rate.Limit
	burst int
	keys  int

	used  atomic.Bool // false while there is no key
	mu    sync.Mutex
	by    map[K]*rate.Limiter
	swept time.Time
}

// LimiterOptions are for [NewLimiter].
type LimiterOptions struct {
	Rate  float64 // events per second
	Burst int     // events at once
	Keys  int     // number of keys that are stored
}

// NewLimiter returns a limiter that has counted nothing.
func NewLimiter[K comparable](o LimiterOptions) *Limiter[K] {
	return &Limiter[K]{rate: rate.Limit(o.Rate), burst: o.Burst, keys: o.Keys, by: map[K]*rate.Limiter{}}
}

// Used reports whether the limiter stores any key. While it is false, no key is over its limit, so that callers need
// not compute theirs.
func (l *Limiter[K]) Used() bool { return l.used.Load() }

// Over reports whether key is over its limit, and for how long. Over does not count an event.
func (l *Limiter[K]) Over(key K, now time.Time) (retry time.Duration, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.by[key]
	if one == nil {
		return 0, false
	}
	left := one.TokensAt(now)
	if left >= 1 {
		return 0, false
	}
	return time.Duration((1 - left) / float64(l.rate) * float64(time.Second)), true
}

// Count counts an event of key.
func (l *Limiter[K]) Count(key K, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.by[key]
	if one == nil {
		// At most once a second: otherwise each of many new keys would cause a scan of all keys.
		if len(l.by) >= l.keys && now.Sub(l.swept) >= time.Second {
			l.swept = now
			l.forget(now)
		}
		if len(l.by) >= l.keys {
			return
		}
		one = rate.NewLimiter(l.rate, l.burst)
		l.by[key] = one
		l.used.Store(true)
	}
	one.AllowN(now, 1)
}

// forget drops the keys whose burst is available in full. The caller holds mu.
func (l *Limiter[K]) forget(now time.Time) {
	for key, one := range l.by {
		if one.TokensAt(now) >= float64(l.burst) {
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
