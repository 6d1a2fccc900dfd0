package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/mayfly-ca/mayfly/monitor"
)

// Bounds of the CA certificates that are fetched from a log besides its entries.
const (
	maxMissingCAs = 1024 // certificates that the log did not serve and that are requested again
	maxCARetries  = 256  // of them in one audit
)

// match reports whether an entry is under an issuing key, see [issuerKeys.match]. A static-ct log names the CA
// certificates above an entry by their digests. Those that are not known yet are fetched first.
func (c *correlation) match(ctx context.Context, w *logState, log *monitor.Log, e *monitor.Entry) (matchedEntry, bool) {
	if len(e.Issuers) > 0 || len(e.Chain) == 0 {
		return c.keys.match(e)
	}
	chain := e.Chain
	direct := e.Precert && c.keys.hashes[e.IssuerKeyHash]
	if direct { // only the certificate directly above matters
		chain = chain[:1]
	}
	for i := len(chain) - 1; i >= 0; i-- {
		_, missing := w.missingCAs[chain[i]]
		if have, known := c.keys.caCerts[chain[i]]; known && (have.relation != unavailable || direct || missing) {
			continue
		}
		if len(w.missingCAs) < maxMissingCAs && c.fetchCA(ctx, log, chain[i]) == nil {
			continue
		}
		c.keys.cache(chain[i], caCert{relation: unavailable})
		if !direct {
			w.addMissingCA(chain[i], e.Index)
		}
	}
	return c.keys.match(e)
}

// fetchCA fetches a CA certificate from a log and classifies it.
func (c *correlation) fetchCA(ctx context.Context, log *monitor.Log, sum [32]byte) error {
	der, err := log.Issuer(ctx, sum)
	if err == nil {
		c.keys.cache(sum, c.keys.classify(der))
	}
	return err
}

// addMissingCA records a CA certificate that the log does not serve, and the entry that names it.
func (w *logState) addMissingCA(sum [32]byte, index uint64) {
	if w.missingCAs == nil {
		w.missingCAs = map[[32]byte]uint64{}
	}
	if _, known := w.missingCAs[sum]; !known && len(w.missingCAs) < maxMissingCAs {
		w.missingCAs[sum] = index
	}
}

// missingCAsText describes the CA certificates that the log does not serve; "" if it serves all.
func (w *logState) missingCAsText() string {
	if len(w.missingCAs) == 0 {
		return ""
	}
	first := uint64(0)
	for _, index := range w.missingCAs {
		if first == 0 || index < first {
			first = index
		}
	}
	return fmt.Sprintf("log %s does not serve %d of the CA certificates that its entries name, the first of them at "+
		"index %d: it is unknown whether these entries are below a CA that an issuing key certified",
		w.name, len(w.missingCAs), first)
}

// retryMissingCAs requests CA certificates again that a log did not serve. If one of them is a subordinate of an
// issuing key, the logs are read again.
func (c *correlation) retryMissingCAs(ctx context.Context, w *logState, log *monitor.Log) {
	requests := 0
	for sum := range w.missingCAs {
		if requests++; requests > maxCARetries || ctx.Err() != nil {
			return
		}
		err := c.fetchCA(ctx, log, sum)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return // the log is unreachable at the moment
		}
		if err == nil {
			delete(w.missingCAs, sum)
			c.rescan = c.rescan || c.keys.caCerts[sum].relation == subordinate
		}
	}
}

// entryReader reads single entries of logs again, for findings. It keeps the entries that came with the last one, and
// does not repeat a request that failed.
type entryReader struct {
	// follower returns the follower of the log with a number; nil if the log is not followed.
	follower func(uint16) *monitor.Follower

	current *monitor.Follower
	cached  []monitor.Entry // entries of the current log
	failed  error           // the last request to the current log
}

// read returns an entry of the log with the given number. The error is [fs.ErrNotExist] if the log has no such entry.
func (r *entryReader) read(ctx context.Context, log uint16, index uint64) (*monitor.Entry, error) {
	f := r.follower(log)
	if f == nil {
		return nil, fs.ErrNotExist
	}
	if r.current != f {
		r.current, r.cached, r.failed = f, nil, nil
	}
	for i := range r.cached {
		if r.cached[i].Index == index {
			return &r.cached[i], nil
		}
	}
	if r.failed != nil {
		return nil, r.failed
	}
	var err error
	if r.cached, err = f.Log().Around(ctx, index, f.State().Head.Size); err != nil {
		r.cached, r.failed = nil, err
		return nil, err
	}
	if first := r.cached[0].Index; index < first || index-first >= uint64(len(r.cached)) {
		return nil, fs.ErrNotExist
	}
	return &r.cached[index-r.cached[0].Index], nil
}
