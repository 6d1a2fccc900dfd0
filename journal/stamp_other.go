//go:build !linux

package journal

import (
	"io/fs"
	"time"
)

// stamp tells whether a file is the one that it was, as far as it can be told here: by its size and the time of its
// last change.
type stamp struct {
	size     int64
	modified time.Time
}

func stampOf(st fs.FileInfo) stamp { return stamp{st.Size(), st.ModTime()} }
