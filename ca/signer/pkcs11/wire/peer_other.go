//go:build !linux

package wire

import (
	"errors"
	"net"
)

func peerOf(*net.UnixConn) (Peer, error) {
	return Peer{}, errors.New("the peer of a Unix socket can be identified on Linux only; run the CA on Linux")
}
