package journal

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// stamp identifies the state of a file: its device and inode, its size, and the times of its last changes. Only the
// system sets the change time (ctime), so a file cannot be changed and keep its stamp, unless the system clock is set
// back.
type stamp struct {
	device, inode    uint64
	size             int64
	modified, change syscall.Timespec
}

func stampOf(st fs.FileInfo) stamp {
	s := stamp{size: st.Size()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		s.device, s.inode, s.modified, s.change = uint64(sys.Dev), sys.Ino, sys.Mtim, sys.Ctim //nolint:unconvert // other widths elsewhere
	}
	return s
}

// freeOf returns how many bytes this process may still write to the file system of a directory, and its size.
func freeOf(dir string) (free, size uint64, known bool) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil || st.Bsize <= 0 {
		return 0, 0, false
	}
	block := uint64(st.Bsize)
	return st.Bavail * block, st.Blocks * block, true
}

// syncData is fdatasync(2), which also waits for the size of a file that has grown. Compared with fsync on ext4, a
// record takes 1.8 instead of 2.0 ms with one caller and 0.29 instead of 0.35 ms with eight (BenchmarkAppend).
func syncData(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd())) //nolint:gosec // a file descriptor fits
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
