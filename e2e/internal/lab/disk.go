package lab

import (
	"os/exec"
	"testing"
)

// SmallDisk mounts a file system in memory of the given size ("4m") in a folder of the lab, and returns its path. The
// test is skipped where mounting is not permitted.
func (l *Lab) SmallDisk(name, size string) string {
	l.Helper()
	dir := l.Mkdir(name)
	if out, err := exec.CommandContext(l.Context(), "mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs",
		dir).CombinedOutput(); err != nil {
		if t, ok := l.TB.(*testing.T); ok {
			t.Skipf("a small disk needs the right to mount: %v: %s", err, out)
		}
		l.Fatalf("mounting a tmpfs of %s: %v: %s", size, err, out)
	}
	l.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil { //nolint:noctx // the test's context is over
			l.Errorf("umount %s: %v: %s", dir, err, out)
		}
	})
	return dir
}
