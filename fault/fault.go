// Package fault has the typed errors of this module: whose fault a failure is, and what a client may learn about it.
//
// Every failure that may reach a client is an [Error] with a [Reason] from the closed table in reason_table.go. The
// reason determines the kind (and with it the gRPC code and the HTTP status), the party whose fault it is, and the
// message for the client.
//
// Two rules keep causes private. Err MUST only be logged; no part of it may reach a client. No error type of this
// module may have a GRPCStatus method, because grpc-go would send the text of a wrapped one to the client.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind is the class of a failure, which the server maps to a gRPC code and an HTTP status.
type Kind uint8

// The kinds, with their gRPC codes and HTTP statuses.
const (
	Internal         Kind = iota // INTERNAL, 500: every error without a reason
	Invalid                      // INVALID_ARGUMENT, 400: token, key, CSR or proof is wrong
	Denied                       // PERMISSION_DENIED, 403: the operator's policy denies the request
	Exhausted                    // RESOURCE_EXHAUSTED, 429: rate limit or budget
	Unavailable                  // UNAVAILABLE, 503: a dependency failed, or the server is not ready
	Canceled                     // CANCELED, 499: the caller cancelled the request
	DeadlineExceeded             // DEADLINE_EXCEEDED, 504: the caller's deadline passed
	Exists                       // ALREADY_EXISTS, 409: what the request would make exists already
)

// Error is a failure with its reason, its text for the client, and its private cause.
type Error struct {
	Kind   Kind
	Reason Reason
	Party  Party
	// Public is the message for the client.
	Public string
	// Meta holds facts that the client already knows, such as the issuer or the audience of its token, under the keys
	// that the reason declares.
	Meta map[string]string
	// RetryAfter is the delay after which a retry may succeed. With zero, the server chooses the delay.
	RetryAfter time.Duration
	// Err is the cause. It goes to the log and never to a client.
	Err error
}

// New returns an error with the kind and message of r, a private cause (may be nil) and facts for the client, as
// alternating keys and values. A key that r does not declare is dropped, so that a mistake in a caller cannot disclose
// more to a client. [Reason.Keys] returns the declared keys.
func New(r Reason, cause error, meta ...string) *Error {
	row, ok := reasons[r]
	if !ok {
		r, row = InternalError, reasons[InternalError]
	}
	e := &Error{Kind: row.kind, Reason: r, Party: row.party, Public: row.message, Err: cause}
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

// WithPublic replaces the message for the client and returns e. It is for the few messages that Fulcio builds from the
// request.
func (e *Error) WithPublic(format string, args ...any) *Error {
	e.Public = fmt.Sprintf(format, args...)
	return e
}

// WithRetryAfter sets the delay after which a retry may succeed, and returns e.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// Error returns the reason and the private cause, for the log.
func (e *Error) Error() string {
	if e.Err == nil {
		return string(e.Reason)
	}
	return string(e.Reason) + ": " + e.Err.Error()
}

// Unwrap returns the private cause.
func (e *Error) Unwrap() error { return e.Err }

// From returns the first [Error] in err's chain. Any other error becomes an internal error with err as its cause, so
// that its text cannot reach a client. From(nil) is nil.
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

// maxMeta is the largest length of one metadata value, in bytes, as values can come from the caller.
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
