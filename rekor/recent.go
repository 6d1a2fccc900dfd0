package rekor

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/mayfly-ca/mayfly/fault"
)

// maxRecent is how many of the last entries are known, so that the same entry is not logged twice. An entry that is
// older, or was logged before a restart, may be logged again, which costs space and nothing else.
const maxRecent = 1 << 14

// recent finds entries that are logged, or are being logged, by the SHA-256 of their bytes.
type recent struct {
	mu sync.Mutex
	// by digest; an entry that is being logged is in both
	entries *simplelru.LRU[[32]byte, *attempt]
	running map[[32]byte]*attempt
}

// attempt is the logging of one entry.
type attempt struct {
	ended chan struct{} // closed when index is set, or the attempt has failed
	index uint64
}

func newRecent() *recent {
	entries, _ := simplelru.NewLRU[[32]byte, *attempt](maxRecent, nil) // an error needs a size below 1
	return &recent{entries: entries, running: map[[32]byte]*attempt{}}
}

// duplicateError is an entry that is in the log already.
type duplicateError struct{ index uint64 }

func (e *duplicateError) Error() string {
	return fmt.Sprintf("an equivalent entry already exists in the transparency log with index %d", e.index)
}

func (e *duplicateError) text() string { return strconv.FormatUint(e.index, 10) }

// begin returns a function to call with the place of the entry when it is logged, or with nil; or ENTRY_EXISTS, with a
// [*duplicateError], if the log has the entry. While the same entry is being logged for another request, begin waits.
func (r *recent) begin(ctx context.Context, entry []byte) (done func(*Inclusion), err error) {
	for leaf := sha256.Sum256(entry); ; {
		r.mu.Lock()
		if old, known := r.entries.Get(leaf); known {
			r.mu.Unlock()
			again := &duplicateError{old.index}
			return nil, fault.New(fault.EntryExists, again, "index", again.text()).WithPublic("%s", again.Error())
		}
		one := r.running[leaf]
		if one == nil {
			one = &attempt{ended: make(chan struct{})}
			r.running[leaf] = one
			r.mu.Unlock()
			return func(at *Inclusion) { r.end(leaf, one, at) }, nil
		}
		r.mu.Unlock()
		select {
		case <-one.ended:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (r *recent) end(leaf [32]byte, one *attempt, at *Inclusion) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, leaf)
	if at != nil {
		one.index = at.Index
		r.entries.Add(leaf, one)
	}
	close(one.ended)
}
