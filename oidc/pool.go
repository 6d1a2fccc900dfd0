package oidc

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/fault"
)

// pool has the providers of a line of verifiers: a reload keeps the keys of issuers whose settings it did not change.
// Its mutex is held for look-ups only: nothing is read, parsed or sent meanwhile.
type pool struct {
	o       Options
	metrics *metrics
	slots   *slots
	wait    sync.WaitGroup
	saves   sync.WaitGroup
	root    context.Context //nolint:containedctx // the life of background fetches
	stop    context.CancelFunc
	stopped sync.Once

	mu       sync.Mutex
	current  *table                   // of the verifier that was started last
	exact    map[string]*exactEntry   // by the digest of what vouches for the keys; with static keys by a number
	statics  int                      // counts providers with static keys: each configuration reads them anew
	patterns map[string]*patternCache // by the same digest
	bytes    int                      // of the key sets in all caches of patterns
}

// exactEntry is the provider of an exact issuer, and what keeps it fresh.
type exactEntry struct {
	*provider
	cancel context.CancelFunc // nil: not started
}

// Bounds on what is remembered of providers under patterns.
const (
	maxPatternProviders = 1024     // of one pattern, whose keys were had once
	maxUnproven         = 512      // of one pattern, without keys: with the time when they may be asked again
	maxPatternBytes     = 16 << 20 // of the key sets of all of them
)

// patternCache has the providers under one pattern. A flood of invented ones costs the good ones nothing, and those of
// one pattern push out their own kind only (E8).
type patternCache struct {
	good     *simplelru.LRU[string, *patternProvider] // by issuer; its keys were had once
	unproven *simplelru.LRU[string, *patternProvider]
	bytes    int // of the key sets of good
}

type patternProvider struct {
	*provider
	size int // as counted in bytes; needs the mutex of the pool
}

func newPool(o Options) *pool {
	p := &pool{
		o: o, metrics: newMetrics(), slots: newSlots(o.Now), exact: map[string]*exactEntry{},
		patterns: map[string]*patternCache{},
	}
	p.root, p.stop = context.WithCancel(context.Background())
	return p
}

// provider returns the provider of an exact issuer: an old one if nothing that vouches for its keys has changed.
func (p *pool) provider(issuer string, r *row) (*provider, error) {
	key := r.route.trust
	p.mu.Lock()
	if r.config.StaticKeys != nil {
		p.statics++
		key = fmt.Sprint("static ", p.statics)
	}
	e, ok := p.exact[key]
	p.mu.Unlock()
	if ok {
		return e.provider, nil
	}
	fresh, err := p.newExact(issuer, r)
	if err != nil {
		return nil, fault.Under(err, "oidc-issuers", r.key)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.exact[key]; ok { // another configuration was faster
		return e.provider, nil
	}
	p.exact[key] = &exactEntry{provider: fresh}
	return fresh, nil
}

// newProvider does no I/O.
func (p *pool) newProvider(issuer string, r *row, s source) *provider {
	return &provider{
		issuer: issuer, entry: r.key, pattern: r.wildcard, host: r.route.host(issuer), source: s, fresh: freshFor,
		usable: usableFor, now: p.o.Now,
		metrics: p.metrics, slots: p.slots, misses: rate.NewLimiter(rate.Every(missEvery), missBurst),
		wait: &p.wait, root: p.root, pause: p.o.Pause, keep: func(*keyring) {},
	}
}

// newExact reads the static keys of an entry, or the keys that a former process kept.
func (p *pool) newExact(issuer string, r *row) (*provider, error) {
	if c := r.config.StaticKeys; c != nil {
		s := static{config: *c}
		ring, err := s.fetch(p.root, p.o.Now())
		if err == nil {
			err = ring.usable()
		}
		if err != nil {
			return nil, staticProblem(*c, err)
		}
		out := p.newProvider(issuer, r, s)
		out.files, out.fresh = true, staticEvery
		out.ring.Store(ring)
		return out, nil
	}
	out := p.newProvider(issuer, r, newRemote(issuer, r.route))
	if p.o.StateDir == "" {
		return out, nil
	}
	s := stateFile{dir: p.o.StateDir, issuer: issuer, trust: r.route.trust, log: p.o.Logger}
	if ring := s.load(p.o.Now()); ring != nil {
		out.ring.Store(ring)
		out.kept.Store(true)
	}
	out.keep = p.saver(out, s)
	return out, nil
}

// saver returns a function that has the newest keys written without waiting for the disk: neither a request nor the
// next fetch does.
func (p *pool) saver(one *provider, s stateFile) func(*keyring) {
	var saving atomic.Bool
	return func(*keyring) {
		if !saving.CompareAndSwap(false, true) {
			return // the disk is slow: the next fetch tries again
		}
		p.saves.Go(func() {
			defer saving.Store(false)
			s.save(one.ring.Load())
		})
	}
}

// maxSaving is how long the end of the process waits for the disk.
const maxSaving = 5 * time.Second

// end stops the background work and waits for it.
func (p *pool) end() {
	p.stop()
	p.wait.Wait()
	saved := make(chan struct{})
	go func() { // ends with the disk's answer
		defer close(saved)
		p.saves.Wait()
	}()
	select {
	case <-saved:
	case <-time.After(maxSaving):
		p.o.Logger.Warn("state_dir does not answer: the newest keys of identity providers may not be kept")
	}
}

// start keeps the providers of v fresh until ctx ends, and lets go of those that no entry needs any more.
func (p *pool) start(ctx context.Context, v *Verifier) {
	needed := map[*provider]bool{}
	for _, one := range v.providers {
		needed[one] = true
	}
	p.stopped.Do(func() {
		context.AfterFunc(ctx, p.stop)
		if p.o.StateDir != "" {
			p.saves.Go(func() { sweepState(p.o.StateDir, p.o.Now()) })
		}
		p.wait.Go(func() { p.keepSecrets(ctx) })
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != nil {
		for _, r := range p.current.rows {
			if !v.table.has(r.key) {
				p.metrics.forget(r.key)
			}
			r.route.close() // connections that are idle; those in use end with their fetch
		}
	}
	p.current = v.table
	rows := map[string]bool{}
	for _, r := range v.table.rows {
		rows[r.route.trust] = true
		if one := v.providers[r.key]; one != nil {
			one.adopt(r.route)
		}
	}
	for trust, c := range p.patterns {
		if !rows[trust] {
			p.bytes -= c.bytes
			delete(p.patterns, trust)
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
			p.wait.Go(func() { p.keepFresh(own, e.provider) })
		}
	}
}

// adopt has a provider reached as the newest configuration says. What vouches for its keys is the same.
func (p *provider) adopt(f *route) {
	if r, ok := p.source.(*remote); ok && r.route.Load() != f {
		r.route.Store(f)
	}
}

// secretsEvery is how often files with tokens and client certificates are read again.
const secretsEvery = 5 * time.Second

// keepSecrets reads what the configuration in force shows to providers again and again.
func (p *pool) keepSecrets(ctx context.Context) {
	tick := time.NewTicker(secretsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		rows := p.current.rows
		p.mu.Unlock()
		for _, r := range rows {
			r.route.readSecrets()
		}
	}
}

// keepFresh looks each second whether a provider needs a fetch; the back-off after failures is the provider's own. Keys
// that a file kept are fetched at once.
func (p *pool) keepFresh(ctx context.Context, one *provider) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	told := ""
	for {
		due := one.fresh - min(10*time.Second, one.fresh/2)
		if ring := one.ring.Load(); ring == nil || one.kept.Load() || ring.age(p.o.Now()) > due ||
			one.status().Cause != "" {
			_ = one.refresh(ctx, caller{}) // its error is in the status
		}
		if s := one.status(); s.Cause != told && ctx.Err() == nil {
			if told = s.Cause; told != "" {
				p.o.Logger.Warn("the keys of an identity provider cannot be fetched", "issuer", s.Issuer, "cause", told)
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

// tenantFor returns the provider of an issuer under a pattern.
func (p *pool) tenantFor(iss string, r *row) (*provider, error) {
	trust := ""
	if r.route != nil {
		trust = r.route.trust
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.patterns[trust]
	if c == nil {
		var err error
		if c, err = p.newPatternCache(); err != nil {
			return nil, err
		}
		p.patterns[trust] = c
	}
	if one, ok := c.good.Get(iss); ok {
		one.adopt(r.route)
		p.recount(c, one)
		return one.provider, nil
	}
	if one, ok := c.unproven.Get(iss); ok {
		one.adopt(r.route)
		return one.provider, nil
	}
	one := &patternProvider{provider: p.newProvider(iss, r, newRemote(iss, r.route))}
	one.keep = func(*keyring) { p.promote(c, one) }
	c.unproven.Add(iss, one)
	return one.provider, nil
}

func (p *pool) newPatternCache() (*patternCache, error) {
	c := new(patternCache)
	var err error
	c.good, err = simplelru.NewLRU(maxPatternProviders, func(_ string, gone *patternProvider) {
		c.bytes -= gone.size
		p.bytes -= gone.size
		gone.size = 0
	})
	if err != nil {
		return nil, err
	}
	c.unproven, err = simplelru.NewLRU[string, *patternProvider](maxUnproven, nil)
	return c, err
}

// promote remembers a provider that has served keys among the good ones.
func (p *pool) promote(c *patternCache, one *patternProvider) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.unproven.Remove(one.issuer)
	if have, ok := c.good.Peek(one.issuer); ok && have != one {
		return // it was forgotten and found again meanwhile
	}
	c.good.Add(one.issuer, one)
	p.recount(c, one)
}

// recount brings the sum of bytes up to date and makes room: in the cache that takes most. It needs mu.
func (p *pool) recount(c *patternCache, one *patternProvider) {
	ring := one.ring.Load()
	if ring == nil || ring.size == one.size {
		return
	}
	delta := ring.size - one.size
	one.size, c.bytes, p.bytes = ring.size, c.bytes+delta, p.bytes+delta
	for p.bytes > maxPatternBytes {
		largest := c
		for _, other := range p.patterns {
			if other.bytes > largest.bytes {
				largest = other
			}
		}
		if _, _, ok := largest.good.RemoveOldest(); !ok {
			return
		}
	}
}
