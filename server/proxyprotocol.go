package server

import (
	"bufio"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/mayfly-ca/mayfly/server/admission"
)

// proxyListener reads the PROXY protocol header (version 1 or 2) with which a trusted proxy begins each connection. The
// address of the connection is then the one that the header has. Connections of other addresses have no header: what
// looks like one is data of a client.
type proxyListener struct {
	net.Listener
	trust admission.Proxies
	log   *slog.Logger

	accepted chan acceptedConn
	closed   chan struct{} // closed when no more connections are accepted
	slots    chan struct{}
	begin    sync.Once
	end      sync.Once
}

// acceptedConn is the result of one call of Accept.
type acceptedConn struct {
	net.Conn
	err error
}

// maxHeaders is the number of connections whose header is awaited at once. Their proxy is trusted, and sends the header
// at once.
const maxHeaders = 256

func newProxyListener(l net.Listener, trust admission.Proxies, log *slog.Logger) *proxyListener {
	return &proxyListener{
		Listener: l, trust: trust, log: log, accepted: make(chan acceptedConn), closed: make(chan struct{}),
		slots: make(chan struct{}, maxHeaders),
	}
}

// Accept implements [net.Listener]. A connection whose header has not arrived delays no other one.
func (l *proxyListener) Accept() (net.Conn, error) {
	l.begin.Do(func() { go l.run() })
	select {
	case c := <-l.accepted:
		return c.Conn, c.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *proxyListener) Close() error {
	l.end.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// run accepts connections until the listener is closed.
func (l *proxyListener) run() {
	for {
		raw, err := l.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			l.end.Do(func() { close(l.closed) })
			return
		case err != nil: // such as too many open files: the caller waits before it asks again
			l.pass(acceptedConn{err: err})
		case !l.trust.Has(admission.AddressOf(raw.RemoteAddr())):
			l.pass(acceptedConn{Conn: raw})
		default:
			l.slots <- struct{}{} // each is free again after headerTimeout at the latest
			go l.admit(raw)
		}
	}
}

// pass gives a connection to the next call of Accept.
func (l *proxyListener) pass(c acceptedConn) {
	select {
	case l.accepted <- c:
	case <-l.closed:
		if c.Conn != nil {
			_ = c.Close() // nothing was read
		}
	}
}

// admit reads the header of a connection, and passes the connection on.
func (l *proxyListener) admit(raw net.Conn) {
	c, err := readHeader(raw)
	<-l.slots
	if err != nil {
		l.log.Warn("a connection of a trusted proxy was closed, because it does not begin with a PROXY protocol header",
			"source", raw.RemoteAddr().String(), "cause", err.Error())
		_ = raw.Close() // nothing was sent
		return
	}
	l.pass(acceptedConn{Conn: c})
}

// readHeader reads the header of a connection.
func readHeader(raw net.Conn) (net.Conn, error) {
	if err := raw.SetReadDeadline(time.Now().Add(headerTimeout)); err != nil {
		return nil, err
	}
	in := bufio.NewReader(raw)
	header, err := proxyproto.Read(in)
	if err != nil {
		return nil, err
	}
	if err := raw.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	c := &proxiedConn{Conn: raw, in: in, remote: raw.RemoteAddr()}
	if !header.Command.IsLocal() { // a check of the proxy itself has no other address
		if header.SourceAddr == nil {
			return nil, errors.New("the header has no address of a client")
		}
		c.remote = header.SourceAddr
	}
	return c, nil
}

// proxiedConn is a connection after its header.
type proxiedConn struct {
	net.Conn
	in     *bufio.Reader // has what was read together with the header
	remote net.Addr
}

// Read implements [net.Conn].
func (c *proxiedConn) Read(p []byte) (int, error) { return c.in.Read(p) }

// RemoteAddr implements [net.Conn].
func (c *proxiedConn) RemoteAddr() net.Addr { return c.remote }
