package monitor

import "errors"

// Violations of RFC 6962 by a log. Each needs the attention of an operator: a retry does not help.
var (
	// ErrBadHead reports a head that the pinned key did not sign, or a head of another log.
	ErrBadHead = errors.New("the log's head is not believed")
	// ErrShrunk reports a head that was signed later than another one and covers fewer entries.
	ErrShrunk = errors.New("the log shrank")
	// ErrFork reports a head that is not consistent with an earlier one: the log presented two histories.
	ErrFork = errors.New("the log forked")
	// ErrMismatch reports an entry that differs from the one in the log's tree.
	ErrMismatch = errors.New("the log serves entries that are not those of its tree")
)

// ErrStale reports a head that is older than one seen before and consistent with it, as a lagging replica serves. A retry may help.
var ErrStale = errors.New("the log serves an older head than before")

// Convicts reports whether err proves a violation by the log, as opposed to a failure to read the log.
func Convicts(err error) bool {
	for _, one := range []error{ErrBadHead, ErrShrunk, ErrFork, ErrMismatch} {
		if errors.Is(err, one) {
			return true
		}
	}
	return false
}
