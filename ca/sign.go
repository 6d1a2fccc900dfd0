package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rsa"
	_ "crypto/sha256" // linked for the hashes below
	_ "crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
)

// scheme is the signature scheme of a CA key.
type scheme struct {
	hash      crypto.Hash // 0: the signer hashes the message itself
	algorithm []byte      // DER AlgorithmIdentifier
	name      x509.SignatureAlgorithm
}

// schemeOf returns the scheme for a CA key (RFC 4055 §5, RFC 5758 §3.2, RFC 8410 §3, RFC 9881 §2).
func schemeOf(key crypto.PublicKey) (scheme, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return scheme{}, fmt.Errorf("an RSA key of %d bits is too short for a CA; use 3072 or more", k.N.BitLen())
		}
		return scheme{
			crypto.SHA256, []byte("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"),
			x509.SHA256WithRSA,
		}, nil
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
		return scheme{}, fmt.Errorf("the curve %s is not allowed for a CA; use P-256, P-384 or P-521",
			k.Curve.Params().Name)
	case ed25519.PublicKey:
		return scheme{0, []byte("\x30\x05\x06\x03\x2b\x65\x70"), x509.PureEd25519}, nil
	case *mldsa.PublicKey: // pure, with an empty context
		const prefix = "\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03"
		switch k.Parameters() {
		case mldsa.MLDSA44():
			return scheme{0, []byte(prefix + "\x11"), x509.MLDSA44}, nil
		case mldsa.MLDSA65():
			return scheme{0, []byte(prefix + "\x12"), x509.MLDSA65}, nil
		case mldsa.MLDSA87():
			return scheme{0, []byte(prefix + "\x13"), x509.MLDSA87}, nil
		}
	}
	return scheme{}, fmt.Errorf("a key of type %T is not supported for a CA; use ECDSA, RSA, Ed25519 or ML-DSA", key)
}

// certSigner is the CA's key with its signature scheme.
type certSigner struct {
	scheme
	// the key is in the memory of this process: signing is computation, which cannot hang
	local crypto.Signer
	// or the key is elsewhere: calls are bounded in number and time (C10), signatures verified
	remote  *remote.Signer
	pause   func() (resume func()) // called before a call of a remote key; its result is called after it
	rand    io.Reader
	metrics *metrics
	calls   *atomic.Int64 // calls of the signer
}

// newCertSigner returns a signer for the key of o. A private key of the standard library only computes, so that it
// needs no guard. Every other signer may call a device or a service, and gets one unless its backend made one.
func newCertSigner(o Options, m *metrics) (*certSigner, error) {
	scheme, err := schemeOf(o.Signer.Public())
	s := &certSigner{scheme: scheme, pause: o.Pause, rand: o.Rand, metrics: m, calls: o.Signatures}
	switch key := o.Signer.(type) {
	case *ecdsa.PrivateKey, *rsa.PrivateKey, ed25519.PrivateKey, *mldsa.PrivateKey:
		s.local = key
	case *remote.Signer:
		s.remote = key
	default:
		s.remote = remote.New(remote.Options{Key: "of the CA"}).Signer(unguarded{key, o.Rand})
	}
	return s, err
}

// unguarded is a signer of a type that the CA does not know.
type unguarded struct {
	crypto.Signer
	rand io.Reader
}

// Sign implements [remote.Raw]. A signer without a context is left behind by the guard if it hangs.
func (u unguarded) Sign(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return u.Signer.Sign(u.rand, digest, opts)
}

// sign returns the signature over message, and adds the number of calls of the signer to n.
func (s *certSigner) sign(ctx context.Context, message []byte, n *int) (signature []byte, err error) {
	if s.remote != nil {
		defer s.pause()()
	}
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	*n++
	s.calls.Add(1)
	digest := message
	if s.hash != 0 {
		h := s.hash.New()
		h.Write(message)
		digest = h.Sum(nil)
	}
	if s.remote != nil {
		signature, err = s.remote.SignContext(ctx, digest, s.hash)
	} else {
		signature, err = s.local.Sign(s.rand, digest, s.hash)
	}
	switch {
	case err == nil:
		return signature, nil
	case s.remote != nil && ctx.Err() != nil:
		return nil, contextError(ctx)
	}
	s.metrics.signerFailures.Inc()
	return nil, fault.New(fault.SignerUnavailable, fmt.Errorf("sign: %w", err))
}

// hung reports whether the key backend answers no call, so that no further call can begin.
func (s *certSigner) hung() bool { return s.remote != nil && s.remote.Hung() }

// contextError returns the error of a request whose context has ended: the cause that the server has set, or that of
// the caller.
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
