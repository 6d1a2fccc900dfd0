package journal

import (
	"errors"
	"os"
	"syscall"
)

// syncData is fdatasync(2): the size of a file that has grown belongs to what it waits for.
func syncData(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd())) //nolint:gosec // a file descriptor fits
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
