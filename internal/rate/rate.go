// Package rate limits how often something is allowed, with a burst: the settings, and the arithmetic of the generic
// cell rate algorithm (GCRA, ITU-T I.371), which needs one number for each thing that is limited. It stores nothing.
package rate

import (
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// Config is a rate and a burst.
type Config struct {
	// Rate is how many requests are allowed a second, on average; 0.01 is 36 an hour.
	Rate float64 `yaml:"rate"`
	// Burst is how many requests are allowed at once.
	Burst int `yaml:"burst"`
}

const (
	mostRate    = 1e6
	mostBurst   = 1e6
	longestFill = 7 * 24 * time.Hour // of a burst
)

// Check finds what is wrong with c. A nil Config is no limit. Its errors are [fault.Setting] values.
func (c *Config) Check() error {
	if c == nil {
		return nil
	}
	var errs []error
	if !(c.Rate > 0 && c.Rate <= mostRate) {
		errs = append(errs, fault.BadSetting("is not a rate per second above 0",
			fmt.Sprintf("write a number up to %d, such as 5; 0.01 is 36 an hour", int(mostRate)), "rate"))
	}
	if c.Burst < 1 || c.Burst > mostBurst {
		errs = append(errs, fault.BadSetting("is not a number of requests at once",
			fmt.Sprintf("write a number from 1 to %d", int(mostBurst)), "burst"))
	}
	if len(errs) == 0 && float64(c.Burst)/c.Rate > longestFill.Seconds() {
		errs = append(errs, fault.BadSetting("a burst that is used up takes more than a week to be complete again",
			"write a higher rate or a smaller burst"))
	}
	return errors.Join(errs...)
}

// Interval returns the time between two events at the rate.
func (c Config) Interval() time.Duration { return max(1, time.Duration(float64(time.Second)/c.Rate)) }

// Tolerance returns the time after which a burst that is used up is complete again.
func (c Config) Tolerance() time.Duration { return time.Duration(c.Burst) * c.Interval() }

// Take returns what to store after an event at the time now, if next is what was stored before: the time at which the
// burst is complete again. 0 was never stored. If the event is not allowed, wait is the time after which it will be,
// and next is as before. A clock that was set back counts as a burst that is used up, so that nobody waits until it has
// caught up. All times are in nanoseconds of one clock.
func (c Config) Take(next, now int64) (after int64, wait time.Duration) {
	next = min(next, now+int64(c.Tolerance()))
	after = max(next, now) + int64(c.Interval())
	if over := after - now - int64(c.Tolerance()); over > 0 {
		return next, time.Duration(over)
	}
	return after, 0
}
