// Package provider verifies the signatures of tokens with the keys that identity providers publish.
//
// A [Pool] fetches and caches keys: discovery document, key set, back-off, state files, and limits that a flood of
// invalid tokens or of invented issuers cannot exceed. A [Set] is the part of a pool that belongs to one configuration;
// [Set.Verify] takes a token and an entry and returns the thumbprint of the key that verified the token. The keys MUST
// be those of the token's own issuer, fetched as the settings of the entry say: keys that were fetched under other
// settings are never used. A request MUST NOT wait for files, nor longer than a few seconds for a provider.
package provider

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// Options for [NewPool].
type Options struct {
	Now       func() time.Time // nil: time.Now
	Logger    *slog.Logger     // nil: no log
	StateDir  string           // directory of the files with the last good keys; empty: they are not stored
	UserAgent string
	// Answered is called with the Date header of each answer of the provider of an entry (a key of the configuration),
	// and with the time at which the request was sent. Optional.
	Answered func(entry string, date, sent time.Time)
	// Pause is called when a request begins to wait for the provider of an entry (a key of the configuration), before
	// its token is verified; resume is called when the request continues. An error means that too many requests already
	// wait: the request then does not wait. Optional.
	Pause func(ctx context.Context, entry string) (resume func(), err error)
	// ServiceAccountDir has ca.crt and token of the pod that this process runs in; empty means the path at which
	// Kubernetes mounts them.
	ServiceAccountDir string
}

// Pool holds the providers of successive configurations: a reload keeps the keys of issuers whose settings did not
// change. Its mutex is held for look-ups only, never while something is read, parsed or sent.
type Pool struct {
	o       Options
	metrics *metrics
	slots   *slots
	fetches sync.WaitGroup  // of fetches and other background work
	saves   sync.WaitGroup  // of writes of state files
	ctx     context.Context //nolint:containedctx // ends background fetches, which outlive requests
	cancel  context.CancelFunc
	started sync.Once

	mu      sync.Mutex
	current *Set                   // the set that was started last
	exact   map[string]*exactEntry // by digest; providers with static keys by a number
	// number of providers with static keys so far: each configuration reads them again
	statics  int
	patterns map[string]*patternCache // by digest
	bytes    int                      // bytes of the key sets in all pattern caches
}

// exactEntry is the provider of an exact issuer with the end of its background work.
type exactEntry struct {
	*provider
	cancel context.CancelFunc // nil: not started
}

// NewPool returns an empty pool.
func NewPool(o Options) *Pool {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Pause == nil {
		o.Pause = func(context.Context, string) (func(), error) { return func() {}, nil }
	}
	p := &Pool{
		o: o, metrics: newMetrics(), slots: newSlots(o.Now), exact: map[string]*exactEntry{},
		patterns: map[string]*patternCache{},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Set is the providers of one configuration. It is safe for concurrent use.
type Set struct {
	pool    *Pool
	entries []Entry
	routes  map[string]*route    // by the key of the entry
	exact   map[string]*provider // by issuer
}

// Set returns the providers of the entries of a configuration. It reads the files that the entries name and fetches
// nothing; see [Set.Start]. Its errors are [fault.Setting] values.
func (p *Pool) Set(entries []Entry) (*Set, error) {
	s := &Set{pool: p, entries: entries, routes: map[string]*route{}, exact: map[string]*provider{}}
	pools := newCAPools()
	for _, e := range entries {
		r, err := newRoute(e, p.o, pools)
		if err != nil {
			return nil, fault.Under(err, e.section(), e.Key)
		}
		s.routes[e.Key] = r
	}
	for _, e := range entries {
		if e.Pattern {
			continue
		}
		one, err := p.exactProvider(e, s.routes[e.Key])
		if err != nil {
			return nil, fault.Under(err, e.section(), e.Key)
		}
		s.exact[e.Key] = one
	}
	return s, nil
}

// Close ends the background work of the pool and does not wait for it.
func (p *Pool) Close() { p.cancel() }

// maxSaving is how long [Pool.Wait] waits for the disk.
const maxSaving = 5 * time.Second

// Wait ends the background work of the pool and waits for it.
func (p *Pool) Wait() {
	p.cancel()
	p.fetches.Wait()
	saved := make(chan struct{})
	go func() { // closed when the disk has answered
		defer close(saved)
		p.saves.Wait()
	}()
	select {
	case <-saved:
	case <-time.After(maxSaving):
		p.o.Logger.Warn("state_dir does not answer: the newest keys of identity providers may not be stored")
	}
}

// Fetches is the state of the fetches, by class of provider.
func (p *Pool) Fetches() []ClassStatus { return p.slots.status() }

// Verify verifies the signature of a token with the keys of its issuer and returns the thumbprint of the key. entry is
// the key of the entry that applies to the issuer; client is the address of the request, to which limits on fetches
// apply. Errors are [fault.Error] values.
func (s *Set) Verify(ctx context.Context, client netip.Addr, entry string,
	t *token.Token,
) (thumbprint string, err error) {
	one, ok := s.exact[entry]
	if !ok {
		issuer, err := t.Claims.Text("iss")
		if err != nil {
			return "", err
		}
		if one, err = s.pool.patternProvider(entry, issuer, s.routes[entry]); err != nil {
			return "", fault.New(fault.ProviderUnavailable, err, "issuer", issuer)
		}
	}
	return one.verify(ctx, client, t)
}

// Status returns the status of the exact issuers, sorted.
func (s *Set) Status() []Status {
	var out []Status
	for _, issuer := range slices.Sorted(maps.Keys(s.exact)) {
		out = append(out, s.exact[issuer].status())
	}
	return out
}

// Probe fetches the keys of every exact issuer once and returns the results, sorted.
func (s *Set) Probe(ctx context.Context) []Status {
	for _, r := range s.routes {
		r.readSecrets()
	}
	var all sync.WaitGroup
	limit := make(chan struct{}, 8)
	for _, one := range s.exact {
		all.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			_ = one.refresh(ctx, caller{request: true}) // its error is reported by Status
		})
	}
	all.Wait()
	return s.Status()
}

// Start keeps the keys of the exact issuers fresh until ctx ends, and ends the work for issuers that no longer have an
// entry. It does not wait for a fetch. All sets of a pool are started with the ctx of the first one.
func (s *Set) Start(ctx context.Context) {
	p := s.pool
	needed := map[*provider]bool{}
	for _, one := range s.exact {
		needed[one] = true
	}
	p.started.Do(func() {
		context.AfterFunc(ctx, p.cancel)
		if p.o.StateDir != "" {
			p.saves.Go(func() { sweepState(p.o.StateDir, p.o.Now()) })
		}
		p.fetches.Go(func() { p.rereadSecrets(ctx) })
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != nil {
		for key, r := range p.current.routes {
			if s.routes[key] == nil {
				p.metrics.forget(key)
			}
			r.closeIdleConnections() // the others are closed after their fetch
		}
	}
	p.current = s
	digests := map[string]bool{}
	for key, r := range s.routes {
		digests[r.digest] = true
		if one := s.exact[key]; one != nil {
			one.setRoute(r)
		}
	}
	for digest, c := range p.patterns {
		if !digests[digest] {
			p.bytes -= c.bytes
			delete(p.patterns, digest)
		}
	}
	for key, e := range p.exact {
		switch {
		case !needed[e.provider]:
			if e.cancel != nil {
				e.cancel()
			}
			delete(p.exact, key)
		case e.cancel == nil:
			own, cancel := context.WithCancel(ctx)
			e.cancel = cancel
			p.fetches.Go(func() { p.keepFresh(own, e.provider) })
		}
	}
}

// exactProvider returns the provider of an exact issuer: that of an earlier configuration if the digest is the same.
func (p *Pool) exactProvider(e Entry, r *route) (*provider, error) {
	key := r.digest
	p.mu.Lock()
	if e.StaticKeys != nil {
		p.statics++
		key = fmt.Sprint("static ", p.statics)
	}
	known, ok := p.exact[key]
	p.mu.Unlock()
	if ok {
		return known.provider, nil
	}
	created, err := p.newExactProvider(e, r)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.exact[key]; ok { // a concurrent call has created it
		return known.provider, nil
	}
	p.exact[key] = &exactEntry{provider: created}
	return created, nil
}

// newProvider makes a provider without I/O.
func (p *Pool) newProvider(entry, issuer string, r *route) *provider {
	return &provider{
		issuer: issuer, entry: entry, pattern: r.pattern, host: r.host(issuer), source: newRemote(issuer, r),
		fresh: freshFor, usable: usableFor, now: p.o.Now, fetched: func(*Keyring) {},
		metrics: p.metrics, slots: p.slots, pause: p.o.Pause, running: &p.fetches, ctx: p.ctx,
		unknown: rate.NewLimiter(rate.Every(unknownKeyEvery), unknownKeyBurst),
	}
}

// newExactProvider reads the static keys of an entry, or the keys that an earlier process stored.
func (p *Pool) newExactProvider(e Entry, r *route) (*provider, error) {
	out := p.newProvider(e.Key, e.Key, r)
	if c := e.StaticKeys; c != nil {
		s := static{config: *c}
		keyring, err := s.fetch(p.ctx, p.o.Now())
		if err == nil {
			err = keyring.requireKeys()
		}
		if err != nil {
			return nil, c.setting(err)
		}
		out.source, out.files, out.fresh = s, true, staticEvery
		out.keyring.Store(keyring)
		return out, nil
	}
	if p.o.StateDir == "" {
		return out, nil
	}
	file := stateFile{dir: p.o.StateDir, issuer: e.Key, digest: r.digest, log: p.o.Logger}
	if keyring := file.load(p.o.Now()); keyring != nil {
		out.keyring.Store(keyring)
		out.restored.Store(true)
	}
	out.fetched = p.saver(out, file)
	return out, nil
}

// saver returns a function that stores the newest keys in the background, so that neither a request nor the next fetch
// waits for the disk.
func (p *Pool) saver(one *provider, file stateFile) func(*Keyring) {
	var saving atomic.Bool
	return func(*Keyring) {
		if !saving.CompareAndSwap(false, true) {
			return // the disk is slow; the next fetch tries again
		}
		p.saves.Go(func() {
			defer saving.Store(false)
			file.save(one.keyring.Load())
		})
	}
}

// rereadSecrets periodically reads the secrets of the configuration in force.
func (p *Pool) rereadSecrets(ctx context.Context) {
	tick := time.NewTicker(secretsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		routes := p.current.routes
		p.mu.Unlock()
		for _, r := range routes {
			r.readSecrets()
		}
	}
}

// keepFresh fetches the keys of a provider before they become stale. After failures it uses the back-off of the
// provider. Keys from a state file are replaced at once.
func (p *Pool) keepFresh(ctx context.Context, one *provider) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	logged := ""
	for {
		due := one.fresh - min(10*time.Second, one.fresh/2)
		if keyring := one.keyring.Load(); keyring == nil || one.restored.Load() || keyring.age(p.o.Now()) > due ||
			one.status().Cause != "" {
			_ = one.refresh(ctx, caller{}) // its error is reported by Status
		}
		if s := one.status(); s.Cause != logged && ctx.Err() == nil {
			if logged = s.Cause; logged != "" {
				p.o.Logger.Warn("the keys of an identity provider cannot be fetched", "issuer",
					s.Issuer, "cause", logged)
			} else {
				p.o.Logger.Info("the keys of an identity provider can be fetched again", "issuer", s.Issuer)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
