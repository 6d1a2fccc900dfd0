// Package owner says which user a file belongs to.
package owner

import (
	"io/fs"
	"syscall"
)

// Of returns the user ID of the owner of a file. known is false if info is nil or has no owner.
func Of(info fs.FileInfo) (uid int, known bool) {
	if info == nil {
		return -1, false
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1, false
	}
	return int(sys.Uid), true
}
