package journal

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unsent is how many bytes the peer's kernel has not acknowledged yet (tcp(7), SIOCOUTQ). 0 where that cannot be told.
func unsent(c net.Conn) (n int, err error) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return 0, nil
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return 0, err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { n, inner = unix.IoctlGetInt(int(fd), syscall.TIOCOUTQ) }) //nolint:gosec // a file descriptor fits
	if err == nil {
		err = inner
	}
	return n, err
}
