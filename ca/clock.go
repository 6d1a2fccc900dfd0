package ca

import (
	"fmt"
	"sync"
	"time"
)

// maxStep is how far the wall clock may go back: what time services do while they keep a clock right.
const maxStep = 2 * time.Second

// Clock notices that the wall clock went back: a certificate would begin before one that was issued earlier (G7). It has no end of
// its own: issuance goes on once the wall clock has caught up with the latest certificate. Keep one for the life of a process; it
// may be used by several goroutines.
type Clock struct {
	monotonic func() time.Duration

	mu     sync.Mutex
	latest time.Time     // the latest time at which something was issued, of the wall clock
	at     time.Duration // the monotonic clock then
}

// NewClock returns a Clock that has seen nothing yet. monotonic is a clock that is never set; nil is that of the process.
func NewClock(monotonic func() time.Duration) *Clock {
	if monotonic == nil {
		start := time.Now()
		monotonic = func() time.Duration { return time.Since(start) }
	}
	return &Clock{monotonic: monotonic}
}

// Check returns why nothing may be issued at wall, or nil. The text is for callers, too.
func (c *Clock) Check(wall time.Time) error {
	wall = wall.Round(0) // the monotonic reading in it would hide the step
	c.mu.Lock()
	defer c.mu.Unlock()
	behind := c.latest.Sub(wall)
	if c.latest.IsZero() || behind <= maxStep {
		return nil
	}
	step := behind + c.monotonic() - c.at
	return fmt.Errorf("this machine's clock went back by %d s; certificates are issued again when it has passed %s, in %d s (or after a restart, if that time was wrong)",
		int(step.Seconds()+.5), c.latest.UTC().Format(time.RFC3339), int(behind.Seconds()+.5))
}

// Issued takes down that something was issued at wall.
func (c *Clock) Issued(wall time.Time) {
	wall = wall.Round(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	if wall.After(c.latest) {
		c.latest, c.at = wall, c.monotonic()
	}
}
