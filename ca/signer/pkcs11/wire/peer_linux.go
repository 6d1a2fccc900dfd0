package wire

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerOf reads the peer from the kernel (SO_PEERCRED, unix(7)).
func peerOf(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var found *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		found, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return Peer{}, err
	}
	return Peer{UID: int(found.Uid), GID: int(found.Gid), PID: int(found.Pid)}, nil
}
