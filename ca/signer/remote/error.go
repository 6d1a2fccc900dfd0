package remote

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind is what an operator has to know about a failure first.
type Kind uint8

const (
	// Failed is any other failure, one that does not pass by itself: a key that is disabled, a request that is refused.
	Failed Kind = iota
	// Denied is a missing permission, or credentials that are not accepted.
	Denied
	// Throttled is a refusal because of too many calls.
	Throttled
	// Unavailable is a service that cannot be reached or does not work.
	Unavailable
	// WrongKey is a signature by another key or another version of the key, or a damaged one.
	WrongKey
	// TimedOut is a call without an answer in time.
	TimedOut
	// Busy is a call that was not made, because too many run and wait.
	Busy
)

var kinds = [...]struct{ label, text string }{
	Failed:      {"failed", ""},
	Denied:      {"denied", "permission missing"},
	Throttled:   {"throttled", "the service throttles: too many calls"},
	Unavailable: {"unavailable", "the service does not work or cannot be reached"},
	WrongKey:    {"wrong_key", "not the key of the chain"},
	TimedOut:    {"timeout", "timed out"},
	Busy:        {"busy", "too many calls at once"},
}

// String returns the name of the kind in metrics.
func (k Kind) String() string { return kinds[k].label }

// passes reports whether a failure of this kind may be gone at the next attempt. A signature that does not verify is
// not asked for again: an operator must learn of it.
func (k Kind) passes() bool { return k == Throttled || k == Unavailable || k == TimedOut }

// Error is a failed call of a key service. It has no secret.
type Error struct {
	Kind Kind
	// Permission is what the caller lacks if Kind is Denied, in the provider's words, such as "kms:Sign on the key". It
	// may be empty if the service does not accept the credentials at all.
	Permission string
	// After is when the service wants the next attempt. 0: it does not say.
	After time.Duration
	// Err is the cause, in the words of the service.
	Err error

	key, operation string // set by the guard
}

// Error returns operation, key, kind, permission and cause on one line.
func (e *Error) Error() string {
	var b strings.Builder
	if e.operation != "" {
		fmt.Fprintf(&b, "%s with the key %s: ", e.operation, e.key)
	}
	switch text := kinds[e.Kind].text; {
	case e.Kind == Denied && e.Permission != "":
		fmt.Fprintf(&b, "%s: grant %s", text, e.Permission)
	case text != "":
		b.WriteString(text)
	}
	if e.Err != nil {
		if kinds[e.Kind].text != "" {
			b.WriteString(": ")
		}
		b.WriteString(short(e.Err.Error()))
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// kindOf returns the kind of err. That of an error of another type is Failed.
func kindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Failed
}

// vague reports whether an error of this kind may be what a client makes of the end of its context.
func (k Kind) vague() bool { return k == Failed || k == Unavailable || k == TimedOut }

// maxText bounds the text of a cause, which a service chooses.
const maxText = 500

func short(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
