package remote

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind classifies a failure for the operator.
type Kind uint8

const (
	// Failed is any other permanent failure, such as a disabled key or a refused request.
	Failed Kind = iota
	// Denied is a missing permission, or credentials that the service does not accept.
	Denied
	// Throttled is a refusal because of too many calls.
	Throttled
	// Unavailable is a service that cannot be reached or has an internal error.
	Unavailable
	// WrongKey is a signature by another key or another version of the key, or a damaged one.
	WrongKey
	// TimedOut is a call without an answer in time.
	TimedOut
	// Busy is a call that was not made, because too many calls run or wait.
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

// passes reports whether another attempt may succeed after a failure of this kind. A signature that does not verify is
// not requested again, because an operator must look into the cause.
func (k Kind) passes() bool { return k == Throttled || k == Unavailable || k == TimedOut }

// Error is a failed call of a key service. It has no secret.
type Error struct {
	Kind Kind
	// Permission is the missing permission if Kind is Denied, in the provider's terms, such as "kms:Sign on the key".
	// It is empty if the service does not accept the credentials at all.
	Permission string
	// After is the wait before the next attempt that the service asks for. 0: the service does not ask for one.
	After time.Duration
	// Err is the cause, as the service reported it.
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

// kindOf returns the kind of err, or Failed for an error of another type.
func kindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Failed
}

// vague reports whether an error of this kind may be only a client's report that its context has ended.
func (k Kind) vague() bool { return k == Failed || k == Unavailable || k == TimedOut }

// maxText bounds the text of a cause, which comes from the service, in bytes.
const maxText = 500

func short(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
