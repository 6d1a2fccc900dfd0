package oidc

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/fault"
)

// How old keys may be, and how often they are fetched (E4 to E7).
const (
	freshFor   = 5 * time.Minute
	usableFor  = 24 * time.Hour
	missEvery  = 5 * time.Second // fetches because of unknown key ids, on average
	missBurst  = 3
	minBackoff = time.Second
	busyRetry  = 2 * time.Second // for a request that may not wait because too many others do
	maxBackoff = 30 * time.Second
)

// source is where keys come from: [remote] or [static].
type source interface {
	// fetch gets the keys. It ends with ctx or a timeout of its own, whichever is first.
	fetch(ctx context.Context, now time.Time) (*keyring, error)
	close()
}

// provider holds the keys of one issuer.
type provider struct {
	issuer  string
	source  source
	fresh   time.Duration // then fetched again beside the traffic
	usable  time.Duration // then refused while the source is broken
	now     func() time.Time
	save    func(*keyring)
	metrics *metrics
	pause   func(context.Context, string) (resume func(), err error)
	label   string // in metrics: from the configuration, never from a token

	slots  chan struct{} // one is held during a fetch; nil: as many as there are
	ring   atomic.Pointer[keyring]
	misses *rate.Limiter

	mu       sync.Mutex
	flight   chan struct{} // closed when the fetch under way ends; nil: none
	failures int           // in a row
	retryAt  time.Time
	cause    error
	since    time.Time
	wait     *sync.WaitGroup
	root     context.Context //nolint:containedctx // the life of background fetches, not of a request
}

// key returns the keys that may verify a token with this key id; all of them when it names none.
func (p *provider) key(ctx context.Context, alg, kid string) ([]providerKey, error) {
	now := p.now()
	ring := p.ring.Load()
	if ring == nil || ring.age(now) > p.usable {
		if err := p.await(ctx); err != nil {
			return nil, err
		}
		ring = p.ring.Load()
	} else if ring.age(now) > p.fresh {
		p.background()
	}
	keys, err := ring.find(alg, kid)
	if !errors.Is(err, errUnknownKey) {
		return keys, err
	}
	if !p.misses.AllowN(now, 1) {
		return nil, fault.New(fault.KeyIDUnknown, err, "kid", kid)
	}
	if err := p.await(ctx); err != nil { // the keys in hand are good: the id is unknown, not the provider at fault
		return nil, fault.New(fault.KeyIDUnknown, err, "kid", kid)
	}
	if keys, err = p.ring.Load().find(alg, kid); errors.Is(err, errUnknownKey) {
		return nil, fault.New(fault.KeyIDUnknown, err, "kid", kid)
	}
	return keys, err
}

var errUnknownKey = errors.New("no such key id")

func (r *keyring) find(alg, kid string) ([]providerKey, error) {
	if !slices.Contains(r.algs, alg) {
		return nil, fault.New(fault.AlgorithmNotAllowed, nil, "alg", alg)
	}
	var out []providerKey
	known := false
	for _, k := range r.keys {
		if kid != "" && k.KeyID != kid {
			continue
		}
		known = true
		if fits(alg, k) {
			out = append(out, k)
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case known:
		return nil, fault.New(fault.AlgorithmNotAllowed, errors.New("the key is of another kind"), "alg", alg)
	}
	return nil, errUnknownKey
}

// await is refresh for a request.
func (p *provider) await(ctx context.Context) error {
	resume, err := p.pause(ctx, p.label)
	if err != nil {
		return fault.New(fault.ProviderUnavailable, err, "issuer", p.issuer).WithRetryAfter(busyRetry)
	}
	defer resume()
	return p.refresh(ctx)
}

// refresh waits for one fetch, which it shares with everybody who waits; the fetch itself belongs to nobody and goes on when
// a caller leaves. After failures it says no at once until the back-off ends.
func (p *provider) refresh(ctx context.Context) error {
	p.mu.Lock()
	if p.flight == nil {
		if now := p.now(); now.Before(p.retryAt) {
			err := p.unavailable(p.retryAt.Sub(now))
			p.mu.Unlock()
			return err
		}
		if !p.launch() {
			p.mu.Unlock()
			return fault.New(fault.ProviderUnavailable, errors.New("too many issuers are being discovered"), "issuer", p.issuer)
		}
	}
	flight := p.flight
	p.mu.Unlock()
	select {
	case <-flight:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cause != nil {
		return p.unavailable(time.Until(p.retryAt))
	}
	return nil
}

// unavailable needs mu.
func (p *provider) unavailable(after time.Duration) error {
	return fault.New(fault.ProviderUnavailable, p.cause, "issuer", p.issuer).WithRetryAfter(after)
}

// background starts a fetch that nobody waits for.
func (p *provider) background() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flight == nil && !p.now().Before(p.retryAt) {
		p.launch()
	}
}

// launch begins a fetch, if there is a slot for it. It needs mu.
func (p *provider) launch() bool {
	release := func() {}
	if p.slots != nil {
		select {
		case p.slots <- struct{}{}:
			release = func() { <-p.slots }
		default:
			return false
		}
	}
	flight := make(chan struct{})
	p.flight = flight
	p.wait.Go(func() {
		defer release()
		ring, err := p.source.fetch(p.root, p.now())
		p.mu.Lock()
		defer p.mu.Unlock()
		defer close(flight)
		p.flight = nil
		if (err == nil) != (p.cause == nil) || p.since.IsZero() {
			p.since = p.now()
		}
		p.cause = err
		if err != nil {
			p.failures++
			p.retryAt = p.now().Add(min(maxBackoff, minBackoff<<min(p.failures-1, 10)))
			p.metrics.fetches.WithLabelValues(p.label, "failure").Inc()
			return
		}
		p.failures, p.retryAt = 0, time.Time{}
		p.metrics.fetches.WithLabelValues(p.label, "success").Inc()
		p.ring.Store(ring)
		p.save(ring)
	})
	return true
}

// age is how long ago the keys were fetched. Keys from the future (the clock was wrong, then or now) are as old as can be.
func (r *keyring) age(now time.Time) time.Duration {
	if d := now.Sub(r.fetched); d > -time.Minute {
		return d
	}
	return math.MaxInt64
}

// status is the provider's line in the readiness report.
func (p *provider) status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{Issuer: p.issuer, OK: p.cause == nil && p.ring.Load() != nil, Since: p.since}
	switch {
	case p.cause != nil:
		s.Cause = p.cause.Error()
	case !s.OK:
		s.Cause = "its keys have not been fetched yet"
	}
	return s
}

// strong reports whether a key is one that may sign tokens (E10).
func strong(key any) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= 2048 && k.N.BitLen() <= 8192
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return len(k) == ed25519.PublicKeySize
	}
	return false
}

// curveAlgorithms are the algorithms that a curve is for (RFC 7518 §3.4).
var curveAlgorithms = map[elliptic.Curve]string{elliptic.P256(): "ES256", elliptic.P384(): "ES384", elliptic.P521(): "ES512"}

// fits reports whether a key is of the kind that alg needs, curve included (D2).
func fits(alg string, k providerKey) bool {
	if k.Algorithm != "" && k.Algorithm != alg {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		return alg == curveAlgorithms[key.Curve]
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

// verified is the key set that go-oidc is given: it knows one token, whose signature has been verified.
type verified struct {
	raw     string
	payload []byte
}

// VerifySignature implements the go-oidc key set.
func (v verified) VerifySignature(_ context.Context, raw string) ([]byte, error) {
	if raw != v.raw {
		return nil, errors.New("another token")
	}
	return v.payload, nil
}

// verify verifies the signature with the keys of a ring, and returns the thumbprint of the key that did.
func (t *token) verify(r *keyring) (key string, err error) {
	keys, err := r.find(t.alg, t.kid)
	if errors.Is(err, errUnknownKey) {
		err = fault.New(fault.KeyIDUnknown, err, "kid", t.kid)
	}
	if err != nil {
		return "", err
	}
	_, key, err = t.verifyWith(keys)
	return key, err
}

func (t *token) verifyWith(keys []providerKey) (payload []byte, key string, err error) {
	jws, err := jose.ParseSignedCompact(t.raw, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(t.alg)})
	if err != nil {
		return nil, "", fault.New(fault.TokenMalformed, errors.New("not a JWS"))
	}
	for _, k := range keys {
		if payload, err := jws.Verify(k.Key); err == nil {
			return payload, k.thumbprint, nil
		}
	}
	return nil, "", fault.New(fault.SignatureInvalid, fmt.Errorf("none of %d keys verifies it", len(keys)))
}
