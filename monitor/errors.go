package monitor

import "errors"

// Errors that prove that a log misbehaved. Trying again does not help: an operator has to investigate.
var (
	// ErrBadHead is a head that is not signed with the pinned key, or is of another log.
	ErrBadHead = errors.New("the log's head does not verify")
	// ErrShrunk is a head that was signed later than another one and covers fewer entries.
	ErrShrunk = errors.New("the log has fewer entries than before")
	// ErrFork is a head that does not continue a previous one: the log has two histories.
	ErrFork = errors.New("the log forked")
	// ErrMismatch is an entry that is not the one in the log's tree.
	ErrMismatch = errors.New("the log serves entries that are not in its tree")
)

// ErrStale is a head that is older than a previous one and consistent with it, as from a replica that lags behind.
// Trying again may help.
var ErrStale = errors.New("the log serves an older head than before")

// Misbehaved reports whether err proves that the log misbehaved, as opposed to a log that could not be read.
func Misbehaved(err error) bool {
	for _, one := range []error{ErrBadHead, ErrShrunk, ErrFork, ErrMismatch} {
		if errors.Is(err, one) {
			return true
		}
	}
	return false
}
