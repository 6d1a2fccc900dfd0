//go:build unix

package ctlog

import (
	"errors"
	"net"
	"syscall"
)

// silent reports whether c is open and has nothing to read.
func silent(c net.Conn) bool {
	withRaw, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := withRaw.SyscallConn()
	if err != nil {
		return false
	}
	var got error
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, got = syscall.Read(int(fd), b[:])
		return true // do not wait
	})
	return err == nil && (errors.Is(got, syscall.EAGAIN) || errors.Is(got, syscall.EWOULDBLOCK))
}
