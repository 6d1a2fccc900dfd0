package monitor

import "errors"

// What a log can be convicted of. Each is for an operator to look at: no retry makes it good.
var (
	// ErrBadHead is a head that the pinned key did not sign, or of another log.
	ErrBadHead = errors.New("the log's head is not believed")
	// ErrShrunk is a head that was signed later than another one and covers fewer entries.
	ErrShrunk = errors.New("the log shrank")
	// ErrFork is a head that does not continue one seen before: the log showed two histories.
	ErrFork = errors.New("the log forked")
	// ErrMismatch is an entry that is not the one in the log's own tree.
	ErrMismatch = errors.New("the log serves entries that are not those of its tree")
)

// ErrStale is a head that is older than one seen before and says nothing against it, as a replica that lags behind gives. It
// is worth another try.
var ErrStale = errors.New("the log serves an older head than before")

// Convicts reports whether err proves that a log broke its promises, as opposed to one that could not be read.
func Convicts(err error) bool {
	for _, one := range []error{ErrBadHead, ErrShrunk, ErrFork, ErrMismatch} {
		if errors.Is(err, one) {
			return true
		}
	}
	return false
}
