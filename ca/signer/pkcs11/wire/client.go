package wire

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer/remote"
)

// Client makes calls to a signer. It keeps connections, and opens new ones after a restart of the signer. It is safe
// for concurrent use; the guard around it limits the number of concurrent calls.
type Client struct {
	// Path is the path of the socket.
	Path string
	// Allowed says which users may listen on the socket.
	Allowed Allowed
	// Program is the name and version of the client.
	Program string

	mu       sync.Mutex
	idle     []*connection
	closed   bool
	answered time.Time // the last answer of any kind
}

// connection is a connection after the exchange of "hello".
type connection struct {
	net.Conn
}

const (
	maxIdle = 64
	// again is the wait before another attempt if nobody listens, because the signer may be starting.
	again = 300 * time.Millisecond
)

// Close closes the idle connections. Running calls close theirs when they end.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.dropIdle()
	return nil
}

func (c *Client) dropIdle() {
	for _, conn := range c.idle {
		_ = conn.Close()
	}
	c.idle = nil
}

func (c *Client) take() *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.idle) == 0 {
		return nil
	}
	last := c.idle[len(c.idle)-1]
	c.idle = c.idle[:len(c.idle)-1]
	return last
}

func (c *Client) put(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle) >= maxIdle {
		_ = conn.Close()
		return
	}
	c.idle = append(c.idle, conn)
}

// Answered returns the time of the last answer of the signer; it is zero before the first answer.
func (c *Client) Answered() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answered
}

// Call sends one request and returns the answer. ctx MUST have a deadline. The error is a [remote.Error], also if the
// signer answered with an error.
func (c *Client) Call(ctx context.Context, r Request) (Answer, error) {
	if end, ok := ctx.Deadline(); ok {
		r.TimeoutMS = max(1, time.Until(end).Milliseconds())
	}
	for {
		conn := c.take()
		kept := conn != nil
		if !kept {
			var err error
			if conn, err = c.connect(ctx); err != nil {
				return Answer{}, err
			}
		}
		a, err := c.exchange(ctx, conn, r)
		switch {
		case err == nil:
			c.put(conn)
			if a.Error != nil {
				return Answer{}, a.Error.failure()
			}
			return a, nil
		case kept && ctx.Err() == nil && isGone(err):
			_ = conn.Close()
			c.mu.Lock()
			c.dropIdle() // the other idle connections are to the same ended process
			c.mu.Unlock()
			continue // the signature was not received, so that it is safe to request it again
		}
		_ = conn.Close()
		return Answer{}, transport(ctx, err)
	}
}

// isGone reports whether the signer has closed the connection.
func isGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// transport turns an error of a connection into a [remote.Error].
func transport(ctx context.Context, err error) error {
	var known *remote.Error
	switch {
	case errors.As(err, &known):
		return known
	case ctx.Err() != nil, isTimeout(err):
		return &remote.Error{Kind: remote.TimedOut, Err: errors.New("the signer does not answer")}
	case errors.Is(err, errFrame):
		return &remote.Error{Kind: remote.Failed, Err: err}
	}
	return &remote.Error{Kind: remote.Unavailable, After: again, Err: fmt.Errorf(
		"the signer ended before it answered: %w", err)}
}

// exchange writes a request and reads the answer.
func (c *Client) exchange(ctx context.Context, conn net.Conn, r Request) (a Answer, err error) {
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(defaultTimeout)
	}
	_ = conn.SetDeadline(end)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err = writeFrame(conn, r); err != nil {
		return Answer{}, err
	}
	if err = readFrame(conn, &a); err != nil {
		return Answer{}, err
	}
	c.mu.Lock()
	c.answered = time.Now()
	c.mu.Unlock()
	return a, nil
}

// connect opens a connection, checks which user listens, and agrees on the version.
func (c *Client) connect(ctx context.Context) (*connection, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "unix", c.Path)
	if err != nil {
		return nil, c.absent(ctx, err)
	}
	conn := &connection{raw}
	fail := func(kind remote.Kind, err error) (*connection, error) {
		_ = raw.Close()
		return nil, &remote.Error{Kind: kind, Err: err}
	}
	if err := c.Allowed.check(raw); err != nil {
		return fail(remote.Denied, fmt.Errorf("%s belongs to another program: %w", c.Path, err))
	}
	a, err := c.exchange(ctx, conn, Request{Op: OpHello, Versions: []int{Version}, Program: c.Program})
	switch {
	case err != nil && ctx.Err() == nil && isGone(err):
		return fail(remote.Unavailable, fmt.Errorf(
			"the signer at %s closed the connection: see its log (this user may not be allowed, or "+
				"the signer is stopping)", c.Path))
	case err != nil:
		_ = raw.Close()
		return nil, transport(ctx, err)
	case a.Error != nil:
		return fail(kindOf(a.Error.Kind), errors.New(a.Error.Text))
	case a.Version != Version:
		return fail(remote.Failed, fmt.Errorf(
			"the signer at %s speaks version %d of the protocol, and this program version %d; install "+
				"the same release of both",
			c.Path, a.Version, Version))
	}
	return conn, nil
}

// absent returns an error that says why there is no connection, and what to do.
func (c *Client) absent(ctx context.Context, err error) error {
	out := &remote.Error{Kind: remote.Unavailable, After: again}
	switch {
	case ctx.Err() != nil, isTimeout(err):
		return transport(ctx, err)
	case errors.Is(err, os.ErrNotExist):
		out.Err = fmt.Errorf("the socket %s does not exist: start mayfly-hsm", c.Path)
	case errors.Is(err, syscall.ECONNREFUSED):
		out.Err = fmt.Errorf("no process listens on %s: mayfly-hsm has ended; start it again", c.Path)
	case errors.Is(err, os.ErrPermission):
		*out = remote.Error{Kind: remote.Denied, Err: fmt.Errorf(
			"this user may not open the socket %s: start mayfly-hsm with --allow-group, and put "+
				"this user into the group",
			c.Path)}
	default:
		out.Err = err
	}
	return out
}

// Sign requests a signature with a key whose public key is known. It does not verify the signature; the guard does.
func (c *Client) Sign(ctx context.Context, key string, s ToSign) ([]byte, error) {
	r := Request{Op: OpSign, Key: key, Data: s.Digest}
	if err := r.describe(s.Public, s.Opts); err != nil {
		return nil, &remote.Error{Kind: remote.Failed, Err: err}
	}
	a, err := c.Call(ctx, r)
	if err != nil {
		return nil, err
	}
	if len(a.Signature) == 0 {
		return nil, &remote.Error{Kind: remote.Failed, Err: errors.New("the signer answers without a signature")}
	}
	return a.Signature, nil
}

// ToSign is the input of [Client.Sign].
type ToSign struct {
	Public crypto.PublicKey
	Digest []byte
	Opts   crypto.SignerOpts
}

// PublicKey requests the public key, and whether the private key can be exported.
func (c *Client) PublicKey(ctx context.Context, key string) (crypto.PublicKey, Answer, error) {
	a, err := c.Call(ctx, Request{Op: OpPublicKey, Key: key})
	if err != nil {
		return nil, Answer{}, err
	}
	public, err := x509.ParsePKIXPublicKey(a.PublicKey)
	if err != nil {
		return nil, Answer{}, &remote.Error{Kind: remote.Failed, Err: errors.New(
			"the signer answers without a public key in DER")}
	}
	return public, a, nil
}
