package tsa

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// maxStep is the largest correction of the wall clock at once that passes for the work of a time service.
	maxStep = 500 * time.Millisecond
	// maxSlew is the largest share by which a time service makes the clock faster or slower (adjtimex(2)).
	maxSlew = 500e-6
	// maxReading is the longest time that a reading of both clocks may take. A reading that takes longer, because the
	// process was not running in between, is repeated.
	maxReading = 100 * time.Millisecond
	readings   = 10
)

// clock reads the wall clock, and detects that it was set: it compares the wall clock with one that is never set. After
// that, nothing says which of the two times was right, and no time is returned until [clock.confirm].
type clock struct {
	wall    func() time.Time
	elapsed func() time.Duration // a clock that is never set and does not stop while the machine is suspended

	mu     sync.Mutex
	begun  bool
	offset time.Duration // of the wall clock from elapsed, in Unix time, before the step
	at     time.Duration // elapsed at the last reading before the step
	step   time.Duration // by which the wall clock was set; 0: it was not
}

// stepError says that the wall clock was set.
type stepError struct{ by time.Duration }

func (e *stepError) Error() string {
	way := "forward"
	if e.by < 0 {
		way = "back"
	}
	return fmt.Sprintf("this machine's clock was set %s by %.1f s", way, e.by.Abs().Seconds())
}

var errBusy = errors.New("the machine is too busy to read its clock")

// now returns the time of the wall clock, or why the wall clock cannot be used.
func (c *clock) now() (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, elapsed, ok := c.read()
	if !ok {
		return time.Time{}, errBusy
	}
	c.compare(wall, elapsed)
	if c.step != 0 {
		return time.Time{}, &stepError{c.step}
	}
	return wall, nil
}

// read reads both clocks at the same time; false: it could not.
func (c *clock) read() (wall time.Time, elapsed time.Duration, ok bool) {
	for range readings {
		before := c.elapsed()
		wall = c.wall().Round(0) // without the monotonic reading
		if elapsed = c.elapsed(); elapsed-before <= maxReading {
			return wall, elapsed, true
		}
	}
	return wall, elapsed, false
}

// difference returns the difference of the two clocks now, which changes when the wall clock is set; false: they could
// not be read.
func (c *clock) difference() (time.Duration, bool) {
	wall, elapsed, ok := c.read()
	return time.Duration(wall.UnixNano()) - elapsed, ok
}

// compare updates offset and step from a reading of both clocks. A clock that was set and is set back to where it was
// counts as one that was not set.
func (c *clock) compare(wall time.Time, elapsed time.Duration) {
	offset := time.Duration(wall.UnixNano()) - elapsed
	if !c.begun {
		c.begun, c.offset, c.at = true, offset, elapsed
	}
	by := offset - c.offset
	slew := min(time.Duration(float64(elapsed-c.at)*maxSlew), maxStep)
	if by.Abs() > maxStep+slew {
		c.step = by
		return
	}
	c.step, c.at = 0, elapsed
	c.offset += min(max(by, -slew), slew)
}

// confirm records that the time of the wall clock was right at a difference of the two clocks.
func (c *clock) confirm(difference time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun, c.offset, c.at, c.step = true, difference, c.elapsed(), 0
}
