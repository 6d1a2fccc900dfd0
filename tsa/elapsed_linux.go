package tsa

import (
	"time"

	"golang.org/x/sys/unix"
)

// elapsed returns the time since the machine was started, including the time in which it was suspended
// (clock_gettime(2), CLOCK_BOOTTIME).
func elapsed() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return time.Since(started)
	}
	return time.Duration(t.Nano())
}

var started = time.Now()
