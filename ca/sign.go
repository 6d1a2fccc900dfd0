package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // linked for the hashes below
	_ "crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// scheme is the signature scheme of a CA key.
type scheme struct {
	hash      crypto.Hash // 0: the signer hashes the message itself
	algorithm []byte      // DER AlgorithmIdentifier
	name      x509.SignatureAlgorithm
}

// schemeOf returns the scheme for a CA key (RFC 4055 §5, RFC 5758 §3.2, RFC 8410 §3).
func schemeOf(key crypto.PublicKey) (scheme, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return scheme{}, fmt.Errorf("an RSA key of %d bits is too short for a CA; use 3072 or more", k.N.BitLen())
		}
		return scheme{crypto.SHA256, []byte("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"), x509.SHA256WithRSA}, nil
	case *ecdsa.PublicKey:
		const prefix = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03"
		switch k.Curve {
		case elliptic.P256():
			return scheme{crypto.SHA256, []byte(prefix + "\x02"), x509.ECDSAWithSHA256}, nil
		case elliptic.P384():
			return scheme{crypto.SHA384, []byte(prefix + "\x03"), x509.ECDSAWithSHA384}, nil
		case elliptic.P521():
			return scheme{crypto.SHA512, []byte(prefix + "\x04"), x509.ECDSAWithSHA512}, nil
		}
		return scheme{}, fmt.Errorf("the curve %s is not allowed for a CA; use P-256, P-384 or P-521", k.Curve.Params().Name)
	case ed25519.PublicKey:
		return scheme{0, []byte("\x30\x05\x06\x03\x2b\x65\x70"), x509.PureEd25519}, nil
	}
	return scheme{}, fmt.Errorf("a key of type %T cannot sign certificates here; use ECDSA, RSA or Ed25519", key)
}

// boundedSigner is a signer with its signature scheme. Calls of a signer outside this process are bounded in number and
// time (C10).
type boundedSigner struct {
	scheme
	signer crypto.Signer
	// the key is in the memory of this process: signing is computation, which cannot hang
	local   bool
	pause   func() (resume func()) // around a call of a signer that is not local
	rand    io.Reader
	slots   chan struct{}
	timeout time.Duration
	metrics *metrics
	calls   *atomic.Int64 // of the signer
}

const (
	signSlots   = 64
	signTimeout = 4 * time.Second
)

var errSignerSlow = errors.New("the signer did not answer in time")

// inProcess reports whether a signer is a private key of the standard library. Its Sign only computes, so that it needs
// neither a time limit nor a goroutine. Every other signer may call a device or a service, and is bounded.
func inProcess(s crypto.Signer) bool {
	switch s.(type) {
	case *ecdsa.PrivateKey, *rsa.PrivateKey, ed25519.PrivateKey:
		return true
	}
	return false
}

// sign returns the signature over message, and adds the number of calls of the signer to n.
func (s *boundedSigner) sign(ctx context.Context, message []byte, n *int) ([]byte, error) {
	if !s.local {
		return s.signRemote(ctx, message, n)
	}
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	*n++
	s.calls.Add(1)
	signature, err := s.signDigest(message)
	if err != nil {
		return nil, s.failed(err)
	}
	return signature, nil
}

// signRemote is sign for a signer outside this process. A call that hangs keeps its slot until it returns, so that at
// most signSlots goroutines can hang.
func (s *boundedSigner) signRemote(ctx context.Context, message []byte, n *int) ([]byte, error) {
	defer s.pause()()
	timer := time.NewTimer(s.timeout)
	defer timer.Stop()
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, contextError(ctx)
	case <-timer.C:
		return nil, s.failed(errSignerSlow)
	}
	type answer struct {
		signature []byte
		err       error
	}
	done := make(chan answer, 1)
	*n++
	s.calls.Add(1)
	go func() {
		defer func() {
			if v := recover(); v != nil { // an unrecovered panic would end the process (F5)
				done <- answer{err: fmt.Errorf("panic: %v", v)}
			}
			<-s.slots
		}()
		signature, err := s.signDigest(message)
		done <- answer{signature, err}
	}()
	select {
	case a := <-done:
		if a.err != nil {
			return nil, s.failed(a.err)
		}
		return a.signature, nil
	case <-ctx.Done():
		return nil, contextError(ctx)
	case <-timer.C:
		return nil, s.failed(errSignerSlow)
	}
}

// signDigest hashes message as the scheme says and calls the signer.
func (s *boundedSigner) signDigest(message []byte) ([]byte, error) {
	digest := message
	if s.hash != 0 {
		h := s.hash.New()
		h.Write(message)
		digest = h.Sum(nil)
	}
	return s.signer.Sign(s.rand, digest, s.hash)
}

func (s *boundedSigner) failed(err error) error {
	s.metrics.signerFailures.Inc()
	return fault.New(fault.SignerUnavailable, fmt.Errorf("sign: %w", err))
}

// contextError is the error of a request whose context has ended: the cause that the server gave, or that of the
// caller.
func contextError(ctx context.Context) error {
	cause := context.Cause(ctx)
	var f *fault.Error
	switch {
	case errors.As(cause, &f):
		return f
	case errors.Is(cause, context.DeadlineExceeded):
		return fault.New(fault.CallerDeadline, cause)
	}
	return fault.New(fault.CallerCanceled, cause)
}
