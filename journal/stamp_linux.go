package journal

import (
	"io/fs"
	"syscall"
)

// stamp tells whether a file is the one that it was: its place on the disk, its size, and the times of its last
// changes. The system alone sets the change time (ctime), so that nobody can change a file and keep its stamp, without
// setting the system's clock.
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
