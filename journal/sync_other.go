//go:build !linux

package journal

import "os"

// syncData waits for everything that belongs to f.
func syncData(f *os.File) error { return f.Sync() }
