package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/server/admission"
)

// handshakes bounds the TLS handshakes that compute at once: as many as there are processors. Others wait, and the
// sources take turns: a source that opens many connections delays its own handshakes, and those of another source by
// one handshake of each source. A handshake computes from the client's hello to the answer of the server, which costs a
// key exchange and a signature; it does not count while the server waits for the client.
type handshakes struct {
	admission *admission.Controller
	refused   atomic.Uint64
}

// How many handshakes wait, and how long: no longer than a client waits.
const (
	handshakesWaiting = 4096
	handshakeWait     = 3 * time.Second
)

func newHandshakes() *handshakes {
	return &handshakes{admission: admission.New(admission.Options{
		Requests: handshakesWaiting, MaxWait: handshakeWait,
	})}
}

// The states of the handshake of a connection.
const (
	notComputing int32 = iota
	computing          // it has a place among those that compute
	retrying           // the server has asked for another hello
)

// bound returns the TLS configuration c with the bound of h.
func (h *handshakes) bound(c *tls.Config) *tls.Config {
	next := c.GetConfigForClient
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if one, ok := hello.Conn.(*conn); ok {
			if err := h.begin(hello.Context(), one); err != nil {
				return nil, err
			}
		}
		return next(hello)
	}
	return c
}

// sourceContext is a context for the limits of a source.
func sourceContext(ctx context.Context, source admission.Source) context.Context {
	return context.WithValue(ctx, admission.ContextKey{}, &source)
}

// begin waits until the handshake of a connection may compute. Its place is given back by the next call of a method of
// the connection.
func (h *handshakes) begin(ctx context.Context, c *conn) error {
	ctx, cancel := context.WithTimeout(sourceContext(ctx, c.source), headerTimeout)
	defer cancel()
	if err := h.admission.Acquire(ctx); err != nil {
		h.refused.Add(1)
		return err
	}
	c.handshakes = h
	c.handshake.Store(computing)
	return nil
}

// endHandshake gives back the place of a handshake that computes. next is the state that follows.
func (c *conn) endHandshake(next int32) {
	if c.handshake.CompareAndSwap(computing, next) {
		c.handshakes.admission.Release(sourceContext(context.Background(), c.source))
	}
}

// resumeHandshake waits until a handshake that has received another hello may compute again.
func (c *conn) resumeHandshake() error {
	if !c.handshake.CompareAndSwap(retrying, notComputing) {
		return nil
	}
	return c.handshakes.begin(context.Background(), c)
}

// helloRetry is the random value by which a client recognizes a HelloRetryRequest (RFC 8446 §4.1.3).
var helloRetry = []byte{
	0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
	0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
}

// isHelloRetry reports whether records begin with a HelloRetryRequest: a record with a header of 5 bytes, and in it a
// handshake message with a header of 4 bytes, a version of 2 and the random value.
func isHelloRetry(records []byte) bool {
	const at = 5 + 4 + 2
	return len(records) >= at+len(helloRetry) && bytes.Equal(records[at:at+len(helloRetry)], helloRetry)
}
