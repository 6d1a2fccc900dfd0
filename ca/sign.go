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

// scheme is how a CA key signs.
type scheme struct {
	hash      crypto.Hash // 0: the key takes the message itself
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

// press is a signer with its scheme, a bound on the calls under way and a time limit for each (C10).
type press struct {
	scheme
	signer  crypto.Signer
	local   bool                   // the key is in this process: a signature is computation, which cannot hang
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

// inProcess reports whether a signer is one of the standard library's private keys. Such a key waits for nobody: its Sign ends
// after some arithmetic, so that neither a time limit nor a goroutine that the caller could leave behind has a purpose. Every
// other signer may ask a device or a service, and is bounded.
func inProcess(s crypto.Signer) bool {
	switch s.(type) {
	case *ecdsa.PrivateKey, *rsa.PrivateKey, ed25519.PrivateKey:
		return true
	}
	return false
}

// sign returns the signature over message, and adds to n each time it asks the signer.
func (p *press) sign(ctx context.Context, message []byte, n *int) ([]byte, error) {
	if !p.local {
		return p.order(ctx, message, n)
	}
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	*n++
	p.calls.Add(1)
	signature, err := p.compute(message)
	if err != nil {
		return nil, p.failed(err)
	}
	return signature, nil
}

// order is sign for a signer outside this process. One that hangs keeps its slot until it answers, so that no more than signSlots
// goroutines can hang with it.
func (p *press) order(ctx context.Context, message []byte, n *int) ([]byte, error) {
	defer p.pause()()
	timer := time.NewTimer(p.timeout)
	defer timer.Stop()
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ended(ctx)
	case <-timer.C:
		return nil, p.failed(errSignerSlow)
	}
	type answer struct {
		signature []byte
		err       error
	}
	done := make(chan answer, 1)
	*n++
	p.calls.Add(1)
	go func() {
		defer func() {
			if v := recover(); v != nil { // nobody above us in this goroutine would: the process would end (F5)
				done <- answer{err: fmt.Errorf("panic: %v", v)}
			}
			<-p.slots
		}()
		signature, err := p.compute(message)
		done <- answer{signature, err}
	}()
	select {
	case a := <-done:
		if a.err != nil {
			return nil, p.failed(a.err)
		}
		return a.signature, nil
	case <-ctx.Done():
		return nil, ended(ctx)
	case <-timer.C:
		return nil, p.failed(errSignerSlow)
	}
}

// compute hashes message as the scheme says and has it signed.
func (p *press) compute(message []byte) ([]byte, error) {
	digest := message
	if p.hash != 0 {
		h := p.hash.New()
		h.Write(message)
		digest = h.Sum(nil)
	}
	return p.signer.Sign(p.rand, digest, p.hash)
}

func (p *press) failed(err error) error {
	p.metrics.signerFailures.Inc()
	return fault.New(fault.SignerUnavailable, fmt.Errorf("sign: %w", err))
}

// ended is the error of a context that is done: the caller's own, or the one that the server gave as its cause.
func ended(ctx context.Context) error {
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
