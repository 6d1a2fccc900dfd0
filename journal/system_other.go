//go:build !linux

package journal

import (
	"io/fs"
	"os"
	"time"
)

// stamp identifies the state of a file as far as this system allows: by its size and the time of its last change.
type stamp struct {
	size     int64
	modified time.Time
}

func stampOf(st fs.FileInfo) stamp { return stamp{st.Size(), st.ModTime()} }

// freeOf is not implemented for this system.
func freeOf(string) (free, size uint64, known bool) { return 0, 0, false }

// syncData waits until everything of f is on disk.
func syncData(f *os.File) error { return f.Sync() }
