package systemd

import (
	"golang.org/x/sys/unix"
)

// monotonic returns CLOCK_MONOTONIC in microseconds, by which systemd recognizes a reload.
func monotonic() (int64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0, err
	}
	return t.Nano() / 1000, nil
}
