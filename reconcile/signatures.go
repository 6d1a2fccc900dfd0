package reconcile

import (
	"context"

	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/rekor/entry"
)

// matchAll returns what an audit needs of an entry: one value for the entry of a certificate, and one for each
// certificate under an issuing key in the entry of a log of signatures.
func (c *correlation) matchAll(ctx context.Context, w *logState, log *monitor.Log, e *monitor.Entry) []matchedEntry {
	if log.Format() == monitor.Certificates {
		if m, ok := c.match(ctx, w, log, e); ok {
			return []matchedEntry{m}
		}
		return nil
	}
	var out []matchedEntry
	for _, one := range certificatesOf(e) {
		if m, ok := c.keys.match(&one); ok {
			out = append(out, m)
		}
	}
	return out
}

// certificatesOf returns the certificates in an entry of a log of signatures, each as the entry of a final certificate.
// Such a log has no times: the beginning of the certificate's validity stands for the time of the entry. A log of
// signatures that this process writes has no entry that cannot be parsed.
func certificatesOf(e *monitor.Entry) (out []monitor.Entry) {
	signed, err := entry.Parse(e.Content)
	if err != nil {
		return nil
	}
	for _, s := range signed.Signatures {
		if s.Certificate != nil {
			out = append(out, monitor.Entry{
				Index: e.Index, Timestamp: uint64(max(0, s.Certificate.NotBefore.UnixMilli())), //nolint:gosec // not negative
				Content: s.Certificate.Raw,
			})
		}
	}
	return out
}

// certificate returns the certificate with a TBS digest in an entry of a log of signatures as the entry of a final
// certificate, or the entry itself if it is of another log.
func (r *entryReader) certificate(log uint16, e *monitor.Entry, tbs [32]byte) *monitor.Entry {
	if f := r.follower(log); f == nil || f.Log().Format() == monitor.Certificates {
		return e
	}
	for _, one := range certificatesOf(e) {
		if tbsDigest(one.Content) == tbs {
			return &one
		}
	}
	return e
}
