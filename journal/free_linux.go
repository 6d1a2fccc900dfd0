package journal

import "syscall"

// freeOf returns how many bytes this process may still write to the disk of a directory, and how many it has.
func freeOf(dir string) (free, size uint64, known bool) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil || st.Bsize <= 0 {
		return 0, 0, false
	}
	block := uint64(st.Bsize)
	return st.Bavail * block, st.Blocks * block, true
}
