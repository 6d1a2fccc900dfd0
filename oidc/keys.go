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
	"math/rand/v2"
	"net/netip"
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
	maxBackoff = 30 * time.Second
)

// source is where keys come from: [remote] or [static].
type source interface {
	// fetch gets the keys. It ends with ctx.
	fetch(ctx context.Context, now time.Time) (*keyring, error)
	// wait is how long a request waits for a fetch.
	wait() time.Duration
	// timeout is how long a fetch may take.
	timeout(c class) time.Duration
}

// provider holds the keys of one issuer.
type provider struct {
	issuer  string
	entry   string // key of the entry: the label in metrics, and what a pattern's fetches count against
	pattern bool
	host    string // what fetches count against
	source  source
	files   bool          // the keys are in files: they are read beside the traffic only
	fresh   time.Duration // then fetched again beside the traffic
	usable  time.Duration // then refused while the source is broken
	now     func() time.Time
	keep    func(*keyring) // called after each fetch that succeeded, without a lock
	metrics *metrics
	slots   *slots
	pause   func(ctx context.Context, entry string) (resume func(), err error)

	ring   atomic.Pointer[keyring]
	kept   atomic.Bool // the keys are those that a file kept: this process has not fetched any yet
	misses *rate.Limiter

	mu       sync.Mutex
	flight   *flight // the fetch that runs or is queued; nil: none
	failures int     // in a row
	retryAt  time.Time
	cause    error
	since    time.Time
	wait     *sync.WaitGroup
	root     context.Context //nolint:containedctx // the life of background fetches, not of a request
}

// flight is one fetch.
type flight struct {
	turn *turn         // nil where the source needs no slot
	done chan struct{} // closed when the fetch has ended
	err  error         // once done is closed
}

// key returns the keys that may verify a token with this key id, all of them when it names none, and the ring that they
// are of. from is the address of the client.
func (p *provider) key(ctx context.Context, from netip.Addr, alg, kid string) ([]providerKey, *keyring, error) {
	now := p.now()
	ring := p.ring.Load()
	switch {
	case p.files && ring.age(now) > p.usable: // read beside the traffic: a request does not read files
		cause := errors.New("the files with its keys have been unreadable for too long")
		return nil, nil, fault.New(fault.ProviderUnavailable, cause, "issuer", p.issuer).WithRetryAfter(staticEvery)
	case ring == nil || ring.age(now) > p.usable:
		if err := p.await(ctx, from); err != nil {
			return nil, nil, err
		}
		ring = p.ring.Load()
	case ring.age(now) > p.fresh && !p.files:
		p.background()
	}
	keys, err := ring.find(p.issuer, alg, kid)
	if err == nil {
		return keys, ring, nil
	}
	// The provider may have a newer key, under another id or under the same one, or announce another algorithm by now.
	if newer := p.renew(ctx, from, ring); newer != nil {
		ring = newer
		keys, err = ring.find(p.issuer, alg, kid)
	}
	return keys, ring, err
}

// renew returns newer keys than those that did not verify a token, if there are some; else nil. Anybody can make tokens
// that no key verifies, so that this leads to a fetch now and then only, however many tokens come, and one fetch serves
// all who wait. While a fetch is under way its result is awaited; a provider that does not answer costs such a token
// its time, and no other token anything.
func (p *provider) renew(ctx context.Context, from netip.Addr, have *keyring) *keyring {
	if ring := p.ring.Load(); ring != have {
		return ring
	}
	if p.files || !p.flying() && !p.misses.AllowN(p.now(), 1) {
		return nil
	}
	if p.await(ctx, from) != nil { // the keys in hand are good: the token is at fault, not the provider
		return nil
	}
	if ring := p.ring.Load(); ring != have {
		return ring
	}
	return nil
}

func (p *provider) flying() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flight != nil
}

// maxTries is how many keys a token is tried with. A token that names no key could cost as many verifications as a set
// has keys.
const maxTries = 64

// find returns the keys for an algorithm and a key id ("": any). Its errors are [fault.Error] values.
func (r *keyring) find(issuer, alg, kid string) ([]providerKey, error) {
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
	why, unusable := r.unusable[kid]
	switch {
	case len(out) > maxTries:
		return nil, fault.New(fault.KeyIDUnknown,
			fmt.Errorf("%d keys fit; at most %d are tried", len(out), maxTries), "kid", kid)
	case len(out) > 0:
		return out, nil
	case known:
		return nil, fault.New(fault.AlgorithmNotAllowed, errors.New("the key is of another kind"), "alg", alg)
	case unusable && kid != "":
		return nil, fault.New(fault.ProviderKeysUnusable, fmt.Errorf("the key %.64q is %s", kid, why), "issuer", issuer)
	}
	return nil, fault.New(fault.KeyIDUnknown, errUnknownKey, "kid", kid)
}

var errUnknownKey = errors.New("no such key id")

var errSlow = errors.New("the provider has not answered yet; its keys are still being fetched")

// await is refresh for a request. It waits for a bounded time, in one of a bounded number of places.
func (p *provider) await(ctx context.Context, from netip.Addr) error {
	resume, err := p.pause(ctx, p.entry)
	if err != nil {
		return fault.New(fault.ProviderUnavailable, err, "issuer", p.issuer).WithRetryAfter(soon())
	}
	defer resume()
	patience, cancel := context.WithTimeoutCause(ctx, p.source.wait(), errSlow)
	defer cancel()
	err = p.refresh(patience, caller{request: true, source: from})
	if errors.Is(err, errSlow) {
		return fault.New(fault.ProviderUnavailable, err, "issuer", p.issuer).WithRetryAfter(soon())
	}
	return err
}

// soon is after how long a client whose request was not waited for is asked to try again. Clients that were refused
// together come back apart.
func soon() time.Duration { return time.Second + rand.N(2*time.Second) } //nolint:gosec // jitter, no secret

// refresh waits for one fetch, which it shares with everybody who waits; the fetch itself belongs to nobody and goes on when
// a caller leaves. After failures it says no at once until the back-off ends.
func (p *provider) refresh(ctx context.Context, who caller) error {
	p.mu.Lock()
	switch now := p.now(); {
	case p.flight != nil:
		if who.request && p.flight.turn != nil {
			p.flight.turn.hurry()
		}
	case now.Before(p.retryAt):
		err := p.unavailable(p.retryAt.Sub(now))
		p.mu.Unlock()
		return err
	default:
		if err := p.launch(who); err != nil {
			p.mu.Unlock()
			return fault.New(fault.ProviderUnavailable, err, "issuer", p.issuer).WithRetryAfter(soon())
		}
	}
	f := p.flight
	p.mu.Unlock()
	select {
	case <-f.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if errors.Is(f.err, errFull) {
		return fault.New(fault.ProviderUnavailable, f.err, "issuer", p.issuer).WithRetryAfter(soon())
	}
	if f.err == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cause == nil { // a later fetch has succeeded
		return nil
	}
	return p.unavailable(p.retryAt.Sub(p.now()))
}

// unavailable is the error of requests while the last fetch failed. It needs mu.
func (p *provider) unavailable(after time.Duration) error {
	if unusable := unusableError(""); errors.As(p.cause, &unusable) { // asking again does not help
		return fault.New(fault.ProviderKeysUnusable, p.cause, "issuer", p.issuer)
	}
	return fault.New(fault.ProviderUnavailable, p.cause, "issuer", p.issuer).WithRetryAfter(max(after, minBackoff))
}

// background starts a fetch that nobody waits for.
func (p *provider) background() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flight == nil && !p.now().Before(p.retryAt) {
		_ = p.launch(caller{}) // the next request tries again
	}
}

// class is on whose account a fetch is made now. It needs mu.
func (p *provider) class() class {
	known := p.ring.Load() != nil
	switch {
	case !known && p.pattern:
		return unproven
	case p.failures > 0:
		return failing
	case known && !p.kept.Load():
		return knownGood
	}
	return configured
}

// launch begins a fetch, or puts it into the queue of its class. It needs mu.
func (p *provider) launch(who caller) error {
	c := p.class()
	f := &flight{done: make(chan struct{})}
	if !p.files {
		var err error
		if f.turn, err = p.slots.apply(c, claim{entry: p.entry, host: p.host}, who); err != nil {
			return err
		}
	}
	p.flight = f
	p.wait.Go(func() {
		ring, err := p.fetch(f.turn, c)
		p.land(f, ring, err)
		if err == nil {
			p.keep(ring)
		}
	})
	return nil
}

// fetch waits for its turn and asks the source.
func (p *provider) fetch(t *turn, c class) (*keyring, error) {
	if t != nil {
		queued := p.root
		if c == unproven { // nobody waits for longer
			own, cancel := context.WithTimeout(p.root, p.source.wait())
			defer cancel()
			queued = own
		}
		if err := t.wait(queued); err != nil {
			return nil, err
		}
		defer t.done()
	}
	bound := p.source.timeout(c)
	ctx, cancel := context.WithTimeoutCause(p.root, bound, fmt.Errorf("no complete answer within %s", bound))
	defer cancel()
	return p.source.fetch(ctx, p.now())
}

// land takes in what a fetch came to. A fetch that found no slot says nothing about the provider.
func (p *provider) land(f *flight, ring *keyring, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(f.done)
	p.flight, f.err = nil, err
	if errors.Is(err, errFull) {
		return
	}
	if (err == nil) != (p.cause == nil) || p.since.IsZero() {
		p.since = p.now()
	}
	p.cause = err
	if err != nil {
		p.failures++
		p.retryAt = p.now().Add(min(maxBackoff, minBackoff<<min(p.failures-1, 10)))
		p.metrics.fetches.WithLabelValues(p.entry, "failure").Inc()
		return
	}
	p.failures, p.retryAt = 0, time.Time{}
	p.metrics.fetches.WithLabelValues(p.entry, "success").Inc()
	p.ring.Store(ring)
	p.kept.Store(false)
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
	ring := p.ring.Load()
	s := Status{Issuer: p.issuer, OK: p.cause == nil && ring != nil, Since: p.since}
	switch {
	case p.cause != nil:
		s.Cause = p.cause.Error()
	case !s.OK:
		s.Cause = "its keys have not been fetched yet"
	}
	if ring == nil {
		return s
	}
	s.Fetched = ring.fetched
	at, until := ring.fetched.UTC().Format(time.RFC3339), ring.fetched.Add(p.usable).UTC().Format(time.RFC3339)
	switch {
	case ring.age(p.now()) > p.usable:
		s.OK = false
		s.Warning = "tokens are refused: its newest keys are of " + at
	case p.kept.Load():
		s.Warning = "tokens are verified with keys of " + at + " that state_dir kept; they count until " + until
	case p.cause != nil:
		s.Warning = "tokens are verified with keys of " + at + "; they count until " + until
	}
	return s
}

// weakness is why a key may not sign tokens (E10); "" where it may.
func weakness(key any) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 8192 {
			return fmt.Sprintf("an RSA key of %d bits (2048 to 8192 are accepted)", n)
		}
		if k.E < 3 || k.E%2 == 0 {
			return fmt.Sprintf("an RSA key with the exponent %d", k.E)
		}
		return ""
	case *ecdsa.PublicKey:
		if curveAlgorithms[k.Curve] == "" {
			return "a key on a curve that is not accepted (P-256, P-384 and P-521 are)"
		}
		return ""
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return ""
		}
	}
	return "a key of a kind that is not accepted (RSA, ECDSA and Ed25519 are)"
}

// curveAlgorithms are the algorithms that a curve is for (RFC 7518 §3.4).
var curveAlgorithms = map[elliptic.Curve]string{elliptic.P256(): "ES256", elliptic.P384(): "ES384", elliptic.P521(): "ES512"}

// fits reports whether a key is of the kind that alg needs, curve included (D2).
func fits(alg string, k providerKey) bool {
	named := k.Algorithm
	if named == "Ed25519" { // the name that RFC 9864 §2.2 gives to EdDSA with this curve
		named = "EdDSA"
	}
	if named != "" && named != alg {
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
	iss, _ := t.claims["iss"].(string)
	keys, err := r.find(iss, t.alg, t.kid)
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
