package doctor

import "syscall"

// free returns how many bytes and inodes are free for this user in the file system of a directory. A file system
// without a fixed number of inodes has any number of them.
func free(dir string) (bytes, inodes uint64, known bool) {
	var st syscall.Statfs_t
	if syscall.Statfs(dir, &st) != nil {
		return 0, 0, false
	}
	inodes = st.Ffree
	if st.Files == 0 {
		inodes = 1 << 62
	}
	return st.Bavail * uint64(st.Bsize), inodes, true //nolint:gosec // a block size is positive
}
