package ctlog

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Result is how one attempt at a log ended. It is a closed set, and a metric label.
type Result string

// The results of an attempt.
const (
	Accepted    Result = "accepted"    // the log returned an SCT that verified
	Refused     Result = "refused"     // the log rejected the request or redirected it: trying again would not help
	Busy        Result = "busy"        // status 408, 429 or 503: trying later may help
	Broken      Result = "broken"      // another 5xx status
	Unreachable Result = "unreachable" // no connection, or the connection broke
	TimedOut    Result = "timed_out"   // no answer in time
	Garbled     Result = "garbled"     // the answer is not an SCT
	Unverified  Result = "unverified"  // the SCT is not one of this log for this precertificate
	Skewed      Result = "skewed"      // the SCT verifies except for its timestamp: the log's clock or ours is wrong
	Failed      Result = "failed"      // anything else
	Abandoned   Result = "abandoned"   // the caller left, or other logs were faster
	Dropped     Result = "dropped"     // not attempted: the background queue was full, or the log was set aside
)

// Failure is why an attempt at a log returned no SCT. Its text is for the operator: it may quote the log.
type Failure struct {
	Result Result
	// Status is the HTTP status; 0 if there was none.
	Status int
	// RetryAfter is the Retry-After of the log; 0 if there was none.
	RetryAfter time.Duration
	Err        error
}

// Error returns the result and the cause.
func (f *Failure) Error() string { return fmt.Sprintf("%s: %v", f.Result, f.Err) }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// transient reports whether the same log may accept the same precertificate soon.
func (f *Failure) transient() bool { return f.Result.transient() }

func (r Result) transient() bool { return r == Busy || r == Broken || r == Unreachable }

// repeatable reports whether the log may be tried again with the same precertificate when no other log is left: an
// answer that was wrong or missing once may be right the next time. A log that rejects the request as bad (RFC 6962 §4:
// 400), or the caller as unauthorized, would reject it again.
func (f *Failure) repeatable() bool {
	switch f.Result {
	case TimedOut, Garbled, Skewed, Unverified:
		return true
	case Refused:
		return f.Status < 400 || f.Status == http.StatusNotFound
	default:
		return f.transient()
	}
}

// unanswered reports whether there was no answer. A status 5xx is an answer: the log may still accept precertificates.
func (f *Failure) unanswered() bool { return f.Result == Unreachable || f.Result == TimedOut }

// public describes the result for a client of the CA. It quotes nothing of the log.
func (r Result) public() string {
	switch r {
	case Refused:
		return "a log refused the precertificate"
	case Busy:
		return "a log is busy"
	case Broken:
		return "a log answered with an internal error"
	case Unreachable:
		return "a log cannot be reached"
	case TimedOut:
		return "a log did not answer in time"
	case Garbled:
		return "a log returned something that is not an SCT"
	case Unverified:
		return "a log returned an SCT that does not verify with the configured key"
	case Skewed:
		return "a log returned an SCT with a wrong timestamp"
	default:
		return "a log cannot be used"
	}
}

// failureOf returns err as a Failure.
func failureOf(err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &Failure{Result: TimedOut, Err: err}
	}
	return &Failure{Result: Failed, Err: err}
}
