package server

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
)

// waitBudget bounds how many requests wait for identity providers before their tokens are verified: in total, by source
// address, and by entry of the configuration, so that neither one source nor one provider that hangs takes all of the
// places.
type waitBudget struct {
	most, share int

	mu      sync.Mutex
	n       int
	sources tally[netip.Addr]
	entries tally[string]
	refused uint64
}

// tally counts by key; a key whose count is zero has no entry.
type tally[K comparable] map[K]int

func (t tally[K]) add(key K) { t[key]++ }

func (t tally[K]) remove(key K) {
	if t[key]--; t[key] <= 0 {
		delete(t, key)
	}
}

// minProviderWaits is the smallest budget, whatever limits.requests says.
const minProviderWaits = 16

func newWaitBudget(most int) *waitBudget {
	return &waitBudget{most: most, share: max(1, most/2), sources: tally[netip.Addr]{}, entries: tally[string]{}}
}

// take takes a place, or says why there is none.
func (b *waitBudget) take(key netip.Addr, entry string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	switch {
	case b.n >= b.most:
		err = fmt.Errorf("%d requests wait for identity providers already", b.n)
	case b.sources[key] >= b.share:
		err = fmt.Errorf("%d requests of this source wait for identity providers already", b.sources[key])
	case b.entries[entry] >= b.share:
		err = fmt.Errorf("%d requests wait for the identity provider of this entry already", b.entries[entry])
	}
	if err != nil {
		b.refused++
		return err
	}
	b.n++
	b.sources.add(key)
	b.entries.add(entry)
	return nil
}

func (b *waitBudget) give(key netip.Addr, entry string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n--
	b.sources.remove(key)
	b.entries.remove(entry)
}

func (b *waitBudget) taken() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

func (b *waitBudget) refusals() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refused
}

// sourceBudget bounds something in total and by source address.
type sourceBudget struct {
	most, share int

	mu      sync.Mutex
	n       int
	sources tally[netip.Addr]
	refused uint64
}

func newSourceBudget(most, share int) *sourceBudget {
	return &sourceBudget{most: most, share: min(most, share), sources: tally[netip.Addr]{}}
}

// take reports whether there was a place.
func (b *sourceBudget) take(key netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n >= b.most || b.sources[key] >= b.share {
		b.refused++
		return false
	}
	b.n++
	b.sources.add(key)
	return true
}

// full reports whether there is no place, and counts that as a refusal.
func (b *sourceBudget) full(key netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n < b.most && b.sources[key] < b.share {
		return false
	}
	b.refused++
	return true
}

func (b *sourceBudget) give(key netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n--
	b.sources.remove(key)
}

func (b *sourceBudget) taken() (n int, refused uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n, b.refused
}

// sourceIn is the source address that the limits of a request count for; the zero address where none is known.
func sourceIn(ctx context.Context) netip.Addr {
	if v := visitIn(ctx); v != nil {
		return v.key
	}
	return netip.Addr{}
}
