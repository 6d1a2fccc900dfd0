package admission

import (
	"fmt"
	"sync"
)

// tally counts by key. A key whose count is zero has no entry.
type tally[K comparable] map[K]int

func (t tally[K]) add(key K) { t[key]++ }

func (t tally[K]) remove(key K) {
	if t[key]--; t[key] <= 0 {
		delete(t, key)
	}
}

// Budget bounds how many places are taken at once, in total and by key. It is safe for concurrent use.
type Budget[K comparable] struct {
	total, share int

	mu      sync.Mutex
	n       int
	keys    tally[K]
	refused uint64
}

// NewBudget returns a budget with a number of places, of which one key may use at most share.
func NewBudget[K comparable](total, share int) *Budget[K] {
	return &Budget[K]{total: total, share: min(total, share), keys: tally[K]{}}
}

// Take takes a place for key and reports whether there was one. After true the caller MUST call [Budget.Give].
func (b *Budget[K]) Take(key K) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.room(key) {
		return false
	}
	b.n++
	b.keys.add(key)
	return true
}

// Full reports whether there is no place for key, and counts a refusal if there is none.
func (b *Budget[K]) Full(key K) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.room(key)
}

// room reports whether key may take a place. The caller holds mu.
func (b *Budget[K]) room(key K) bool {
	if b.n < b.total && b.keys[key] < b.share {
		return true
	}
	b.refused++
	return false
}

// Exhausted reports whether no key could take a place now.
func (b *Budget[K]) Exhausted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n >= b.total
}

// Give gives back a place of key.
func (b *Budget[K]) Give(key K) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n--
	b.keys.remove(key)
}

// Taken returns how many places are taken now, and how many requests were refused.
func (b *Budget[K]) Taken() (n int, refused uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n, b.refused
}

// providerBudget bounds how many requests wait for identity providers before their tokens are verified: in total, by
// source, and by entry of the configuration, so that neither one source nor one provider that hangs takes all places.
type providerBudget struct {
	sources *Budget[Source]
	entries *Budget[string]
}

// minProviderWaits is the smallest budget, for any limits.requests.
const minProviderWaits = 16

func newProviderBudget(total int) *providerBudget {
	share := max(1, total/2)
	return &providerBudget{NewBudget[Source](total, share), NewBudget[string](total, share)}
}

// take takes a place. Its error is for the log.
func (b *providerBudget) take(source Source, entry string) error {
	if !b.sources.Take(source) {
		n, _ := b.sources.Taken()
		return fmt.Errorf("%d requests already wait for identity providers, or too many from this source", n)
	}
	if !b.entries.Take(entry) {
		b.sources.Give(source)
		return fmt.Errorf("too many requests already wait for the identity provider of this issuer entry")
	}
	return nil
}

func (b *providerBudget) give(source Source, entry string) {
	b.entries.Give(entry)
	b.sources.Give(source)
}

func (b *providerBudget) taken() (n int, refused uint64) {
	n, bySource := b.sources.Taken()
	_, byEntry := b.entries.Taken()
	return n, bySource + byEntry
}
