package oidc

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/fault"
)

// pool has the providers of a line of verifiers: a reload keeps the keys of issuers whose settings it did not change.
type pool struct {
	o       Options
	metrics *metrics
	wait    sync.WaitGroup
	root    context.Context //nolint:containedctx // the life of background fetches
	stop    context.CancelFunc
	stopped sync.Once
	busy    chan struct{} // fetches for issuers under patterns

	mu        sync.Mutex
	current   *table           // of the verifier that was started last
	exact     map[string]*kept // by issuer and settings
	tenants   tenants          // issuers under patterns whose keys were had once
	strangers tenants          // those that never answered: a flood of invented ones costs the others nothing (E8)
}

// kept is the provider of an exact issuer, and what keeps it fresh.
type kept struct {
	*provider
	cancel context.CancelFunc // nil: not started
}

// How many issuers under patterns are remembered, and how many fetched at once.
const (
	maxTenants = 1024
	maxBusy    = 16
)

func newPool(o Options) *pool {
	p := &pool{o: o, metrics: newMetrics(), exact: map[string]*kept{}, busy: make(chan struct{}, maxBusy), tenants: newTenants(), strangers: newTenants()}
	p.root, p.stop = context.WithCancel(context.Background())
	return p
}

// settings is everything that decides where an issuer's keys come from: providers with the same settings are the same.
func (r *row) settings(issuer string) (string, error) {
	c := r.config
	var keys string
	if c.StaticKeys != nil {
		keys = digestOf(c.StaticKeys.File)
	}
	data, err := json.Marshal(struct {
		Issuer, Discovery, CACert, Bundle, Keys string
		Wildcard, Insecure, Kubernetes          bool
		Static                                  *StaticKeysConfig
		Outbound                                OutboundConfig
	}{issuer, c.DiscoveryURL, c.CACert, digestOf(c.Outbound.CABundle), keys, r.wildcard, c.Insecure, c.Type == "kubernetes", c.StaticKeys, c.Outbound})
	return string(data), err
}

// digestOf is the digest of a file, or "" where it cannot be read.
func digestOf(name string) string {
	data, err := os.ReadFile(name)
	if name == "" || err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// provider returns the provider of an exact issuer, an old one if nothing about it has changed.
func (p *pool) provider(issuer string, r *row) (*provider, error) {
	key, err := r.settings(issuer)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if k, ok := p.exact[key]; ok {
		return k.provider, nil
	}
	fresh, err := p.newProvider(issuer, r)
	if err != nil {
		return nil, fault.Under(err, "oidc-issuers", r.key)
	}
	p.exact[key] = &kept{provider: fresh}
	return fresh, nil
}

func (p *pool) newProvider(issuer string, r *row) (*provider, error) {
	out := &provider{
		issuer: issuer, fresh: freshFor, usable: usableFor, now: p.o.Now, metrics: p.metrics, label: r.key,
		misses: rate.NewLimiter(rate.Every(missEvery), missBurst), wait: &p.wait, root: p.root, pause: p.o.Pause,
		save: func(*keyring) {},
	}
	if c := r.config.StaticKeys; c != nil {
		s := static{config: *c}
		out.source, out.fresh = s, staticEvery
		ring, err := s.fetch(p.root, p.o.Now())
		if err == nil && len(ring.keys) == 0 {
			err = errNoKey
		}
		if err != nil {
			return nil, staticProblem(*c, err)
		}
		out.ring.Store(ring)
		return out, nil
	}
	var err error
	if out.source, err = newRemote(issuer, r, p.o); err != nil {
		return nil, err
	}
	if r.wildcard { // the discovery of one tenant must not starve the others'
		out.slots = p.busy
	}
	if !r.wildcard && p.o.StateDir != "" {
		s := stateFile{dir: p.o.StateDir, issuer: issuer, log: p.o.Logger}
		if ring := s.load(); ring != nil {
			out.ring.Store(ring)
		}
		out.save = s.save
	}
	return out, nil
}

// start keeps the providers of v fresh until ctx ends, and lets go of those that no entry needs any more.
func (p *pool) start(ctx context.Context, v *Verifier) {
	needed := map[*provider]bool{}
	for _, one := range v.providers {
		needed[one] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped.Do(func() { context.AfterFunc(ctx, p.stop) })
	if p.current != nil {
		for _, r := range p.current.rows {
			if v.table.find(r.key) == nil && !v.table.has(r.key) {
				p.metrics.forget(r.key)
			}
		}
	}
	p.current = v.table
	for key, k := range p.exact {
		switch {
		case !needed[k.provider]:
			if k.cancel != nil {
				k.cancel()
			}
			delete(p.exact, key)
		case k.cancel == nil:
			own, cancel := context.WithCancel(ctx)
			k.cancel = cancel
			p.wait.Go(func() { p.keepFresh(own, k.provider) })
		}
	}
}

// keepFresh looks each second whether a provider needs a fetch; the back-off after failures is the provider's own.
func (p *pool) keepFresh(ctx context.Context, one *provider) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	defer one.source.close()
	told := ""
	for {
		if ring := one.ring.Load(); ring == nil || ring.age(p.o.Now()) > one.fresh-min(10*time.Second, one.fresh/2) || one.status().Cause != "" {
			_ = one.refresh(ctx) // its error is in the status
		}
		if s := one.status(); s.Cause != told && ctx.Err() == nil {
			if told = s.Cause; told != "" {
				p.o.Logger.Warn("identity provider does not answer", "issuer", s.Issuer, "cause", told)
			} else {
				p.o.Logger.Info("identity provider answers again", "issuer", s.Issuer)
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
	key, err := r.settings(iss)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if one := p.tenants.get(key); one != nil {
		return one, nil
	}
	one := p.strangers.get(key)
	if one == nil {
		if one, err = p.newProvider(iss, r); err != nil {
			return nil, err
		}
		p.strangers.put(key, one)
		return one, nil
	}
	if one.ring.Load() != nil {
		p.strangers.remove(key)
		p.tenants.put(key, one)
	}
	return one, nil
}

// tenants is a cache of providers; the least recently used one makes room.
type tenants struct {
	byKey  map[string]*list.Element
	recent *list.List
}

type tenant struct {
	key string
	*provider
}

func newTenants() tenants { return tenants{map[string]*list.Element{}, list.New()} }

func (t *tenants) get(key string) *provider {
	e, ok := t.byKey[key]
	if !ok {
		return nil
	}
	t.recent.MoveToFront(e)
	return e.Value.(tenant).provider //nolint:forcetypeassert // the list has nothing else
}

func (t *tenants) put(key string, p *provider) {
	if t.recent.Len() >= maxTenants {
		old := t.recent.Remove(t.recent.Back()).(tenant) //nolint:forcetypeassert // as above
		delete(t.byKey, old.key)
		old.source.close()
	}
	t.byKey[key] = t.recent.PushFront(tenant{key, p})
}

func (t *tenants) remove(key string) {
	t.recent.Remove(t.byKey[key])
	delete(t.byKey, key)
}
