//go:build !linux

package tsa

import "time"

// elapsed returns the time since the process was started. On some systems the time in which the machine was suspended
// is missing, so that a suspension looks like a clock that was set forward.
func elapsed() time.Duration { return time.Since(started) }

var started = time.Now()
