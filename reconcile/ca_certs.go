package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/mayfly-ca/mayfly/monitor"
)

// Bounds of what is fetched of a log besides its entries.
const (
	mostUnread  = 1024 // CA certificates that a log does not serve and that are asked for again
	mostFetches = 256  // of them at once
)

// sight reports whether an entry is one of ours, see [keyring.sight]. A static-ct log names the certificates above an
// entry by their digests: those that are not known yet are read first.
func (a *account) sight(ctx context.Context, w *watched, log *monitor.Log, e *monitor.Entry) (sighting, bool) {
	if len(e.Issuers) > 0 || len(e.Chain) == 0 {
		return a.keys.sight(e)
	}
	chain := e.Chain
	direct := e.Precert && a.keys.hashes[e.IssuerKeyHash]
	if direct { // what stands further above changes nothing
		chain = chain[:1]
	}
	for i := len(chain) - 1; i >= 0; i-- {
		_, asked := w.unread[chain[i]]
		if have, known := a.keys.authorities[chain[i]]; known && (have.standing != unread || direct || asked) {
			continue
		}
		if len(w.unread) < mostUnread && a.fetch(ctx, log, chain[i]) == nil {
			continue
		}
		a.keys.remember(chain[i], authority{standing: unread})
		if !direct {
			w.missing(chain[i], e.Index)
		}
	}
	return a.keys.sight(e)
}

// fetch reads a CA certificate of a log, and finds out what it is to us.
func (a *account) fetch(ctx context.Context, log *monitor.Log, sum [32]byte) error {
	der, err := log.Issuer(ctx, sum)
	if err == nil {
		a.keys.remember(sum, a.keys.assess(der))
	}
	return err
}

// missing notes a CA certificate that the log does not serve.
func (w *watched) missing(sum [32]byte, index uint64) {
	if w.unread == nil {
		w.unread = map[[32]byte]uint64{}
	}
	if _, known := w.unread[sum]; !known && len(w.unread) < mostUnread {
		w.unread[sum] = index
	}
}

// blind says what cannot be seen in the log; "" is nothing.
func (w *watched) blind() string {
	if len(w.unread) == 0 {
		return ""
	}
	first := uint64(0)
	for _, index := range w.unread {
		if first == 0 || index < first {
			first = index
		}
	}
	return fmt.Sprintf("log %s does not serve %d of the CA certificates that its entries name, the first of them at "+
		"index %d: whether these entries "+
		"are under a CA that our key made is not known", w.name, len(w.unread), first)
}

// fetchMissing asks a log again for CA certificates that it did not serve. If one of them is of a CA that our key made,
// the log is read again.
func (a *account) fetchMissing(ctx context.Context, w *watched, log *monitor.Log) {
	asked := 0
	for sum := range w.unread {
		if asked++; asked > mostFetches || ctx.Err() != nil {
			return
		}
		err := a.fetch(ctx, log, sum)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return // it does not answer now
		}
		if err == nil {
			delete(w.unread, sum)
			a.told = a.told || a.keys.authorities[sum].standing == beneath
		}
	}
}

// reread returns a function that reads an entry of a log once more. It keeps the entries that came with the last one,
// and does not ask a log again that did not answer.
func reread(follower func(uint16) *monitor.Follower) func(context.Context, uint16, uint64) (*monitor.Entry, error) {
	var near []monitor.Entry
	var of *monitor.Follower
	var silent error
	return func(ctx context.Context, log uint16, index uint64) (*monitor.Entry, error) {
		f := follower(log)
		if f == nil {
			return nil, fs.ErrNotExist
		}
		if of != f {
			near, of, silent = nil, f, nil
		}
		for i := range near {
			if near[i].Index == index {
				return &near[i], nil
			}
		}
		if silent != nil {
			return nil, silent
		}
		var err error
		if near, err = f.Log().Around(ctx, index, f.State().Head.Size); err != nil {
			near, silent = nil, err
			return nil, err
		}
		if first := near[0].Index; index < first || index-first >= uint64(len(near)) {
			return nil, fs.ErrNotExist
		}
		return &near[index-near[0].Index], nil
	}
}
