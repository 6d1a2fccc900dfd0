package ca

import (
	"fmt"
	"sync"
	"time"
)

// maxStep is how far the wall clock may go back: time services make such small corrections.
const maxStep = 2 * time.Second

// Clock detects that the wall clock went back: a certificate could then begin before one that was issued earlier (G7).
// Issuance continues when the wall clock has passed the time of the latest certificate. A process has one Clock. It is
// safe for concurrent use.
type Clock struct {
	monotonic func() time.Duration

	mu     sync.Mutex
	latest time.Time     // when the latest certificate was issued, by the wall clock
	at     time.Duration // the same time by the monotonic clock
}

// NewClock returns a Clock before the first certificate. monotonic is a clock that is never set; nil: that of the
// process.
func NewClock(monotonic func() time.Duration) *Clock {
	if monotonic == nil {
		start := time.Now()
		monotonic = func() time.Duration { return time.Since(start) }
	}
	return &Clock{monotonic: monotonic}
}

// Check returns an error if no certificate may be issued at the time wall. Clients get its text.
func (c *Clock) Check(wall time.Time) error {
	wall = wall.Round(0) // a monotonic reading would hide the step
	c.mu.Lock()
	defer c.mu.Unlock()
	behind := c.latest.Sub(wall)
	if c.latest.IsZero() || behind <= maxStep {
		return nil
	}
	step := behind + c.monotonic() - c.at
	return fmt.Errorf("this machine's clock went back by %d s; certificates are issued again when the clock has "+
		"passed %s, in %d s (or after a restart, if that time was wrong)",
		int(step.Seconds()+.5), c.latest.UTC().Format(time.RFC3339), int(behind.Seconds()+.5))
}

// Issued records that a certificate was issued at the time wall.
func (c *Clock) Issued(wall time.Time) {
	wall = wall.Round(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	if wall.After(c.latest) {
		c.latest, c.at = wall, c.monotonic()
	}
}
