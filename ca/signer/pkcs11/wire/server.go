package wire

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
)

// Key is a private key that a [Server] signs with. Its methods MUST be safe for concurrent use.
type Key interface {
	// Public returns the public key, or an error if it is not known yet.
	Public() (crypto.PublicKey, error)
	// Attest says whether the private key can be exported: Exportable, Reason and Evidence of [Answer].
	Attest(ctx context.Context) (Answer, error)
	// Sign makes one signature, as [crypto.Signer] does. Its signatures verify with the public key.
	Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
	// Health returns why the key cannot sign now. It does not sign.
	Health(ctx context.Context) error
}

// Server answers the requests of a CA. Its errors of type [remote.Error] reach the client with their kind.
type Server struct {
	// Program is the name and version of the program.
	Program string
	// Names are the names of the keys. Find returns the key that a client names in any form that the server accepts.
	// Find("") returns the only key, or false if there are several.
	Names []string
	Find  func(name string) (Key, bool)
	// Allowed says who may connect.
	Allowed Allowed
	// Connections is the maximum number of concurrent connections.
	Connections int
	Log         *slog.Logger
}

// How long a server waits for its client.
const (
	helloLimit = 5 * time.Second
	idleLimit  = 10 * time.Minute
	writeLimit = 5 * time.Second
	drainLimit = 5 * time.Second
)

// Serve answers requests until ctx ends. It returns when all running requests have ended, or after five seconds. It
// closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	places := make(chan struct{}, s.Connections)
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	var running sync.WaitGroup
	stop := context.AfterFunc(ctx, func() {
		_ = l.Close()
		mu.Lock()
		defer mu.Unlock()
		for c := range open { // running requests are answered; no further request is read
			_ = c.SetReadDeadline(time.Now())
		}
	})
	defer stop()
	var err error
	for {
		var c net.Conn
		if c, err = l.Accept(); err != nil {
			if ctx.Err() == nil && isTemporary(err) {
				s.Log.Error("a connection cannot be accepted", "error", err.Error())
				time.Sleep(50 * time.Millisecond)
				continue
			}
			break
		}
		select {
		case places <- struct{}{}:
		default:
			s.Log.Warn("a connection is refused: the limit of open connections is reached",
				"connections", s.Connections)
			_ = c.Close()
			continue
		}
		mu.Lock()
		open[c] = true
		if ctx.Err() != nil {
			_ = c.SetReadDeadline(time.Now())
		}
		mu.Unlock()
		running.Go(func() {
			defer func() {
				mu.Lock()
				delete(open, c)
				mu.Unlock()
				_ = c.Close()
				<-places
			}()
			s.converse(ctx, c)
		})
	}
	drained := make(chan struct{})
	go func() { running.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(drainLimit):
		return errors.New("requests are still running")
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func isTemporary(err error) bool {
	var n net.Error
	return errors.As(err, &n) && !errors.Is(err, net.ErrClosed)
}

// converse serves one connection.
func (s *Server) converse(ctx context.Context, c net.Conn) {
	if err := s.Allowed.check(c); err != nil {
		s.Log.Warn("a connection is refused", "reason", err.Error())
		return
	}
	greeted := false
	for ctx.Err() == nil {
		wait := idleLimit
		if !greeted {
			wait = helloLimit
		}
		_ = c.SetReadDeadline(time.Now().Add(wait))
		if ctx.Err() != nil {
			return
		}
		var r Request
		if err := readFrame(c, &r); err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil && !isTimeout(err) {
				s.Log.Warn("a connection ends", "reason", err.Error())
			}
			return
		}
		answer := s.answer(context.WithoutCancel(ctx), r, greeted)
		_ = c.SetWriteDeadline(time.Now().Add(writeLimit))
		if err := writeFrame(c, answer); err != nil {
			s.Log.Warn("a client does not read its response", "operation", r.Op, "reason", err.Error())
			return
		}
		greeted = greeted || r.Op == OpHello && answer.Error == nil
		if !greeted {
			return
		}
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// answer answers one request.
func (s *Server) answer(ctx context.Context, r Request, greeted bool) (a Answer) {
	a, err := s.result(ctx, r, greeted)
	if err != nil {
		return Answer{Error: errorOf(err)}
	}
	return a
}

func (s *Server) result(ctx context.Context, r Request, greeted bool) (Answer, error) {
	if r.Op == OpHello {
		return s.hello(r)
	}
	if !greeted {
		return Answer{}, malformed(errors.New("the first request must be hello"))
	}
	limit := milliseconds(r.TimeoutMS, maxTimeout)
	if limit == 0 {
		limit = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	switch r.Op {
	case OpPublicKey, OpSign, OpHealth:
	default:
		return Answer{}, malformed(fmt.Errorf("the operation %.20q is unknown", r.Op))
	}
	key, ok := s.Find(r.Key)
	switch {
	case !ok && r.Key == "":
		return Answer{}, &requestError{KindUnknownKey, "this signer has several keys; name one of " +
			strings.Join(s.Names, ", ")}
	case !ok:
		return Answer{}, &requestError{KindUnknownKey, fmt.Sprintf("this signer has no key %.100q; it has %s", r.Key,
			strings.Join(s.Names, ", "))}
	}
	switch r.Op {
	case OpPublicKey:
		public, err := key.Public()
		if err != nil {
			return Answer{}, err
		}
		a, err := key.Attest(ctx)
		if err != nil {
			return Answer{}, err
		}
		a.PublicKey, err = x509.MarshalPKIXPublicKey(public)
		return a, err
	case OpSign:
		opts, err := r.options()
		if err != nil {
			return Answer{}, malformed(err)
		}
		signature, err := key.Sign(ctx, r.Data, opts)
		return Answer{Signature: signature}, err
	default:
		return Answer{}, key.Health(ctx)
	}
}

func (s *Server) hello(r Request) (Answer, error) {
	for _, v := range r.Versions {
		if v == Version {
			return Answer{Version: Version, Program: s.Program, Keys: s.Names}, nil
		}
	}
	return Answer{}, &requestError{
		KindVersion,
		fmt.Sprintf("this signer speaks version %d of the protocol, and the client "+
			"does not; install the same release of both", Version),
	}
}
