package provider

import "github.com/hashicorp/golang-lru/v2/simplelru"

// Limits on the cached providers of patterns.
const (
	maxPatternProviders = 1024     // providers of one pattern that have served keys
	maxUnproven         = 512      // providers of one pattern that have not; they are cached for their back-off
	maxPatternBytes     = 16 << 20 // bytes of the key sets of all patterns
)

// patternCache holds the providers of one pattern. A flood of invented issuers does not evict providers that have
// served keys, nor providers of other patterns (E8).
type patternCache struct {
	proven   *simplelru.LRU[string, *patternProvider] // by issuer
	unproven *simplelru.LRU[string, *patternProvider] // by issuer
	bytes    int                                      // bytes of the key sets of proven
}

type patternProvider struct {
	*provider
	size int // size as counted in bytes; guarded by the mutex of the pool
}

// patternProvider returns the provider of an issuer that matches the pattern of an entry.
func (p *Pool) patternProvider(entry, issuer string, r *route) (*provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.patterns[r.digest]
	if c == nil {
		var err error
		if c, err = p.newPatternCache(); err != nil {
			return nil, err
		}
		p.patterns[r.digest] = c
	}
	if one, ok := c.proven.Get(issuer); ok {
		one.setRoute(r)
		p.recount(c, one)
		return one.provider, nil
	}
	if one, ok := c.unproven.Get(issuer); ok {
		one.setRoute(r)
		return one.provider, nil
	}
	one := &patternProvider{provider: p.newProvider(entry, issuer, r)}
	one.fetched = func(*Keyring) { p.promote(c, one) }
	c.unproven.Add(issuer, one)
	return one.provider, nil
}

func (p *Pool) newPatternCache() (*patternCache, error) {
	c := new(patternCache)
	var err error
	c.proven, err = simplelru.NewLRU(maxPatternProviders, func(_ string, evicted *patternProvider) {
		c.bytes -= evicted.size
		p.bytes -= evicted.size
		evicted.size = 0
	})
	if err != nil {
		return nil, err
	}
	c.unproven, err = simplelru.NewLRU[string, *patternProvider](maxUnproven, nil)
	return c, err
}

// promote moves a provider that has served keys to the proven ones.
func (p *Pool) promote(c *patternCache, one *patternProvider) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.unproven.Remove(one.issuer)
	if have, ok := c.proven.Peek(one.issuer); ok && have != one {
		return // it was evicted and created again in the meantime
	}
	c.proven.Add(one.issuer, one)
	p.recount(c, one)
}

// recount updates the sums of bytes and evicts providers from the largest cache while there are too many. The caller
// holds mu.
func (p *Pool) recount(c *patternCache, one *patternProvider) {
	keyring := one.keyring.Load()
	if keyring == nil || keyring.size == one.size {
		return
	}
	delta := keyring.size - one.size
	one.size, c.bytes, p.bytes = keyring.size, c.bytes+delta, p.bytes+delta
	for p.bytes > maxPatternBytes {
		largest := c
		for _, other := range p.patterns {
			if other.bytes > largest.bytes {
				largest = other
			}
		}
		if _, _, ok := largest.proven.RemoveOldest(); !ok {
			return
		}
	}
}
