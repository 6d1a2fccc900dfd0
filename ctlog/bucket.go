package ctlog

import (
	"sync"
	"time"
)

// bucket is a token bucket: so many submissions a second, and as many at once as fit into one second. A nil bucket has no
// limit.
type bucket struct {
	rate, burst float64
	mu          sync.Mutex
	tokens      float64
	filled      time.Time // when tokens was right
}

// newBucket returns a full bucket; nil for rate 0.
func newBucket(rate float64, now time.Time) *bucket {
	if rate == 0 {
		return nil
	}
	burst := max(1, rate)
	return &bucket{rate: rate, burst: burst, tokens: burst, filled: now}
}

func (b *bucket) fill(now time.Time) {
	if passed := now.Sub(b.filled); passed > 0 {
		b.tokens, b.filled = min(b.burst, b.tokens+passed.Seconds()*b.rate), now
	}
}

// take takes a token, if there is one.
func (b *bucket) take(now time.Time) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill(now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// give puts a token back that was not used.
func (b *bucket) give() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(b.burst, b.tokens+1)
}

// wait is how long until there is a token.
func (b *bucket) wait(now time.Time) time.Duration {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill(now)
	if b.tokens >= 1 {
		return 0
	}
	seconds := (1 - b.tokens) / b.rate
	if seconds > 3600 { // no overflow, however small the rate
		return time.Hour
	}
	return time.Duration(seconds*float64(time.Second)) + time.Millisecond
}
