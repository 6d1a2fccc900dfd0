// Package fault has the typed errors of this module: whose fault a failure is, and what a client may read about it.
//
// Every failure that may reach a client is an [Error] with a [Reason] from the closed table in reason_table.go. The reason
// determines the kind (whose fault it is, and with it the gRPC code and the HTTP status) and the message for the client.
//
// Two rules keep private causes private. Err MUST only be logged; nothing of it may reach a client. And no error type of
// this module may have a GRPCStatus method: grpc-go would send a wrapped one to the client as it is.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind is the class of a failure. The server maps it to a gRPC code and an HTTP status.
type Kind uint8

// The kinds, with the gRPC code and HTTP status that each becomes.
const (
	Internal         Kind = iota // INTERNAL, 500: anything untyped
	Invalid                      // INVALID_ARGUMENT, 400: token, key, CSR or proof is wrong
	Denied                       // PERMISSION_DENIED, 403: the operator's policy says no
	Exhausted                    // RESOURCE_EXHAUSTED, 429: rate limit or budget
	Unavailable                  // UNAVAILABLE, 503: a dependency, or we are not ready
	Canceled                     // CANCELED, 499: the caller left
	DeadlineExceeded             // DEADLINE_EXCEEDED, 504: the caller's own deadline
)

// Error is a failure with an owner.
type Error struct {
	Kind   Kind
	Reason Reason
	// Public is the text for the client.
	Public string
	// Meta holds facts that the caller already knows (its issuer, its audience), under the keys that the reason declares.
	Meta map[string]string
	// RetryAfter says when another try may help. Zero means that the server chooses.
	RetryAfter time.Duration
	// Err is the cause. It goes to the log and never to a client.
	Err error
}

// New returns an error with the kind and message that the table gives for r, a private cause (may be nil) and the facts
// that the client may read, as key, value, key, value. A key that r does not declare is dropped, so that a slip in a
// caller cannot widen what a client sees; [Reason.Keys] has the declared ones.
func New(r Reason, cause error, meta ...string) *Error {
	row, ok := reasons[r]
	if !ok {
		r, row = InternalError, reasons[InternalError]
	}
	e := &Error{Kind: row.kind, Reason: r, Public: row.message, Err: cause}
	for i := 0; i+1 < len(meta); i += 2 {
		if !row.declares(meta[i]) {
			continue
		}
		if e.Meta == nil {
			e.Meta = make(map[string]string, len(row.keys))
		}
		e.Meta[meta[i]] = clip(meta[i+1])
	}
	return e
}

// WithPublic replaces the text for the client and returns e. It is for the few messages that Fulcio builds from the request.
func (e *Error) WithPublic(format string, args ...any) *Error {
	e.Public = fmt.Sprintf(format, args...)
	return e
}

// WithRetryAfter sets when another try may help and returns e.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// Error gives the reason and the private cause: a text for the log.
func (e *Error) Error() string {
	if e.Err == nil {
		return string(e.Reason)
	}
	return string(e.Reason) + ": " + e.Err.Error()
}

// Unwrap returns the private cause.
func (e *Error) Unwrap() error { return e.Err }

// From returns the first [Error] in err's chain. An untyped error becomes an internal one with err as its cause, so that
// its text cannot reach a client. From(nil) is nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return New(InternalError, err)
}

// maxMeta caps one metadata value in bytes: the caller's own words are echoed, but not without end.
const maxMeta = 256

func clip(s string) string {
	if len(s) > maxMeta {
		s = s[:maxMeta]
	}
	clean := []rune(s)
	for i, r := range clean {
		if r < 0x20 || r == 0x7f || r == '\uFFFD' {
			clean[i] = '?'
		}
	}
	return string(clean)
}
