package provider

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/span"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// How long keys are used, and how often they are fetched (E4 to E7).
const (
	freshFor        = 5 * time.Minute
	usableFor       = 24 * time.Hour
	unknownKeyEvery = 5 * time.Second // mean time between fetches that unknown keys cause
	unknownKeyBurst = 3
	minBackoff      = time.Second
	maxBackoff      = 30 * time.Second
	checkEvery      = time.Second // how often the age of the keys of exact issuers is checked
)

// source returns the keys of one issuer: [remote] or [static].
type source interface {
	// fetch returns the keys. It returns an error when ctx ends.
	fetch(ctx context.Context, now time.Time) (*Keyring, error)
	// wait returns how long a request waits for a fetch.
	wait() time.Duration
	// timeout returns how long a fetch may take.
	timeout(c class) time.Duration
}

// provider caches the keys of one issuer.
type provider struct {
	issuer  string
	entry   string // key of the entry: a metric label, and the entry to which limits on fetches apply
	pattern bool   // the entry is a pattern
	host    string // to which limits on fetches apply
	source  source
	files   bool          // the source reads files: only in the background, never for a request
	fresh   time.Duration // age after which keys are fetched again in the background
	usable  time.Duration // age after which keys are no longer used
	now     func() time.Time
	fetched func(*Keyring) // called after each successful fetch, without a lock
	metrics *metrics
	slots   *slots
	pause   func(ctx context.Context, entry string) (resume func(), err error)
	running *sync.WaitGroup // results of fetches
	ctx     context.Context //nolint:containedctx // ends background fetches, which outlive requests

	keyring  atomic.Pointer[Keyring]
	restored atomic.Bool // the keys come from a state file: this process has not fetched any yet
	unknown  *rate.Limiter

	mu       sync.Mutex
	current  *fetch // the running or queued fetch; nil: none
	failures int    // consecutive failures
	retryAt  time.Time
	cause    error
	since    time.Time
}

// fetch is one fetch of the keys.
type fetch struct {
	slot *slot         // nil if the source needs no slot
	done chan struct{} // closed at the end of the fetch
	err  error         // valid after done is closed
}

// verify verifies a token of the issuer and returns the thumbprint of the key. client is the address of the request.
func (p *provider) verify(ctx context.Context, client netip.Addr, t *token.Token) (thumbprint string, err error) {
	keys, keyring, err := p.keys(ctx, client, t)
	if err != nil {
		return "", err
	}
	thumbprint, err = verifyWith(t, keys)
	if err == nil || fault.From(err).Reason != fault.SignatureInvalid {
		return thumbprint, err
	}
	// the provider may have replaced the key and kept its ID
	if newer := p.newerThan(ctx, client, keyring); newer != nil {
		return newer.Verify(t)
	}
	return "", err
}

// keys returns the keys that may verify a token, and the keyring that contains them.
func (p *provider) keys(ctx context.Context, client netip.Addr, t *token.Token) ([]publicKey, *Keyring, error) {
	now := p.now()
	keyring := p.keyring.Load()
	switch {
	case p.files && keyring.age(now) > p.usable:
		cause := errors.New("the files with its keys have been unreadable for too long")
		return nil, nil, fault.New(fault.ProviderUnavailable, cause, "issuer", p.issuer).WithRetryAfter(staticEvery)
	case keyring == nil || keyring.age(now) > p.usable:
		if err := p.await(ctx, client); err != nil {
			return nil, nil, err
		}
		keyring = p.keyring.Load()
	case keyring.age(now) > p.fresh && !p.files:
		p.refreshInBackground()
	}
	keys, err := keyring.find(p.issuer, t.Algorithm, t.KeyID)
	if err == nil {
		return keys, keyring, nil
	}
	// the provider may by now have a newer key, under another ID or the same one, or announce another algorithm
	if newer := p.newerThan(ctx, client, keyring); newer != nil {
		keyring = newer
		keys, err = keyring.find(p.issuer, t.Algorithm, t.KeyID)
	}
	return keys, keyring, err
}

// newerThan returns keys that are newer than those that did not verify a token; nil if there are none. Anyone can send
// tokens that no key verifies, so the rate of these fetches is limited, and all waiting requests share one fetch. If
// the provider does not answer, only requests with such tokens wait.
func (p *provider) newerThan(ctx context.Context, client netip.Addr, have *Keyring) *Keyring {
	if keyring := p.keyring.Load(); keyring != have {
		return keyring
	}
	if p.files || !p.fetching() && !p.unknown.AllowN(p.now(), 1) {
		return nil
	}
	if p.await(ctx, client) != nil { // the cached keys are valid: the token is at fault, not the provider
		return nil
	}
	if keyring := p.keyring.Load(); keyring != have {
		return keyring
	}
	return nil
}

func (p *provider) fetching() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current != nil
}

var errSlow = errors.New("the provider has not answered yet; its keys are still being fetched")

// await waits for a fetch on behalf of a request: for a limited time, and only if not too many requests wait already.
func (p *provider) await(ctx context.Context, client netip.Addr) (err error) {
	ctx, step := span.Start(ctx, "provider wait")
	step.Set(span.Entry, p.entry)
	defer step.Done(&err)
	resume, err := p.pause(ctx, p.entry)
	if err != nil {
		return fault.New(fault.ProviderUnavailable, err, "issuer", p.issuer).WithRetryAfter(retrySoon())
	}
	defer resume()
	bounded, cancel := context.WithTimeoutCause(ctx, p.source.wait(), errSlow)
	defer cancel()
	err = p.refresh(bounded, caller{request: true, client: client, step: step})
	if errors.Is(err, errSlow) {
		return fault.New(fault.ProviderUnavailable, err, "issuer", p.issuer).WithRetryAfter(retrySoon())
	}
	return err
}

// retrySoon returns the Retry-After for a request that was not allowed to wait. The jitter spreads the retries of
// clients that were refused at the same time.
func retrySoon() time.Duration {
	return time.Second + rand.N(2*time.Second) //nolint:gosec // jitter, no secret
}

// refresh waits for one fetch that all callers share. The fetch does not end with a caller's ctx. During the back-off
// after failures refresh returns the last error at once.
func (p *provider) refresh(ctx context.Context, c caller) error {
	p.mu.Lock()
	switch now := p.now(); {
	case p.current != nil:
		if c.request && p.current.slot != nil {
			p.current.slot.prioritize()
		}
	case now.Before(p.retryAt):
		err := p.unavailable(p.retryAt.Sub(now))
		p.mu.Unlock()
		return err
	default:
		if err := p.start(c); err != nil {
			p.mu.Unlock()
			return fault.New(fault.ProviderUnavailable, err, "issuer", p.issuer).WithRetryAfter(retrySoon())
		}
	}
	f := p.current
	p.mu.Unlock()
	select {
	case <-f.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if errors.Is(f.err, errNoSlot) {
		return fault.New(fault.ProviderUnavailable, f.err, "issuer", p.issuer).WithRetryAfter(retrySoon())
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

// unavailable returns the error of requests after a failed fetch. The caller holds mu.
func (p *provider) unavailable(after time.Duration) error {
	if _, unusable := errors.AsType[unusableError](p.cause); unusable { // a retry does not help
		return fault.New(fault.ProviderKeysUnusable, p.cause, "issuer", p.issuer)
	}
	return fault.New(fault.ProviderUnavailable, p.cause, "issuer", p.issuer).WithRetryAfter(max(after, minBackoff))
}

// refreshInBackground starts a fetch that no caller waits for.
func (p *provider) refreshInBackground() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil && !p.now().Before(p.retryAt) {
		_ = p.start(caller{}) // the next request tries again
	}
}

// class returns the class of a fetch that starts now. The caller holds mu.
func (p *provider) class() class {
	known := p.keyring.Load() != nil
	switch {
	case !known && p.pattern:
		return unproven
	case p.failures > 0:
		return failing
	case known && !p.restored.Load():
		return knownGood
	}
	return configured
}

// start starts a fetch, or queues it in its class. The caller holds mu.
func (p *provider) start(by caller) error {
	c := p.class()
	f := &fetch{done: make(chan struct{})}
	if !p.files {
		var err error
		if f.slot, err = p.slots.reserve(c, scope{entry: p.entry, host: p.host}, by); err != nil {
			return err
		}
	}
	p.current = f
	p.running.Go(func() {
		keyring, err := p.run(f.slot, c, by.step)
		p.finish(f, keyring, err)
		if err == nil {
			p.fetched(keyring)
		}
	})
	return nil
}

// run waits for the slot and fetches the keys.
func (p *provider) run(s *slot, c class, step span.Span) (_ *Keyring, err error) {
	own, step := step.Call(p.ctx, "provider fetch") // other requests may wait for it, too
	step.Set(span.Entry, p.entry)
	defer step.Done(&err)
	if s != nil {
		ctx := p.ctx
		if c == unproven { // no request waits longer than this
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(p.ctx, p.source.wait())
			defer cancel()
		}
		if err := s.wait(ctx); err != nil {
			return nil, err
		}
		defer s.release()
	}
	timeout := p.source.timeout(c)
	ctx, cancel := context.WithTimeoutCause(own, timeout, fmt.Errorf("no complete answer within %s", timeout))
	defer cancel()
	return p.source.fetch(ctx, p.now())
}

// finish records the result of a fetch. A fetch that got no slot shows nothing about the provider.
func (p *provider) finish(f *fetch, keyring *Keyring, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(f.done)
	p.current, f.err = nil, err
	if errors.Is(err, errNoSlot) {
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
	p.keyring.Store(keyring)
	p.restored.Store(false)
}

// setRoute replaces the route by that of a newer configuration with the same digest.
func (p *provider) setRoute(r *route) {
	if s, ok := p.source.(*remote); ok && s.route.Load() != r {
		s.route.Store(r)
	}
}

// Status tells whether the keys of an exact issuer are available.
type Status struct {
	Issuer  string
	OK      bool   // the last fetch succeeded, or there was none and keys are cached
	Cause   string // why OK is false
	Warning string // which keys verify tokens although OK is false
	Since   time.Time
	Fetched time.Time // of the cached keys; zero if there are none
}

func (p *provider) status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	keyring := p.keyring.Load()
	s := Status{Issuer: p.issuer, OK: p.cause == nil && keyring != nil, Since: p.since}
	switch {
	case p.cause != nil:
		s.Cause = p.cause.Error()
	case !s.OK:
		s.Cause = "its keys have not been fetched yet"
	}
	if keyring == nil {
		return s
	}
	s.Fetched = keyring.fetched
	at := keyring.fetched.UTC().Format(time.RFC3339)
	until := keyring.fetched.Add(p.usable).UTC().Format(time.RFC3339)
	switch {
	case keyring.age(p.now()) > p.usable:
		s.OK = false
		s.Warning = "tokens are refused: the newest keys of the issuer were fetched at " + at
	case p.restored.Load():
		s.Warning = "tokens are verified with keys that were fetched at " + at +
			" and stored in state_dir; they are used until " +
			until
	case p.cause != nil:
		s.Warning = "tokens are verified with keys that were fetched at " + at + "; they are used until " + until
	}
	return s
}
