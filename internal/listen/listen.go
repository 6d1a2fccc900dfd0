// Package listen opens TCP listeners. Its errors say why an address cannot be listened on, and what to do.
package listen

import (
	"errors"
	"net"
	"syscall"
)

// Error is an address on which a listener cannot be opened.
type Error struct {
	Address string
	err     error
}

// Open listens on HOST:PORT. Its error is an [*Error].
func Open(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address) //nolint:noctx // listening does not block
	if err != nil {
		return nil, &Error{address, err}
	}
	return l, nil
}

// Error returns the cause.
func (e *Error) Error() string {
	var dns *net.DNSError
	switch {
	case errors.Is(e.err, syscall.EADDRINUSE):
		return e.Address + " is used by another program"
	case errors.Is(e.err, syscall.EACCES):
		return "no permission to listen on " + e.Address + " (ports below 1024 need a privilege)"
	case errors.Is(e.err, syscall.EADDRNOTAVAIL):
		return "this machine does not have the address " + e.Address
	case errors.As(e.err, &dns):
		return "the host of " + e.Address + " is unknown"
	}
	return e.err.Error()
}

// Unwrap returns the error of the operating system.
func (e *Error) Unwrap() error { return e.err }

// Fix returns what to do.
func (e *Error) Fix() string {
	switch {
	case errors.Is(e.err, syscall.EADDRINUSE):
		return "stop that program, or write another address"
	case errors.Is(e.err, syscall.EACCES):
		return "write a port from 1024 on, or give the process the privilege (systemd: " +
			"AmbientCapabilities=CAP_NET_BIND_SERVICE)"
	}
	return "write an address that this machine has, or 0.0.0.0 for all of them"
}
