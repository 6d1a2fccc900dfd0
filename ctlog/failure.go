package ctlog

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Result says how one attempt at a log ended. It is a closed set: a metric label.
type Result string

// The results of an attempt.
const (
	Accepted    Result = "accepted"    // an SCT came back and verified
	Refused     Result = "refused"     // the log said no, or sent us elsewhere: asking again would not help
	Busy        Result = "busy"        // 408, 429 or 503: asking later may help
	Broken      Result = "broken"      // another 5xx
	Unreachable Result = "unreachable" // no connection, or it broke off
	TimedOut    Result = "timed_out"   // no answer in time
	Garbled     Result = "garbled"     // the answer is no SCT
	Unverified  Result = "unverified"  // the SCT is not one of this log for this precertificate
	Skewed      Result = "skewed"      // the SCT verifies but for its timestamp: the log's clock or ours is wrong
	Failed      Result = "failed"      // anything else
	Abandoned   Result = "abandoned"   // the caller left, or other logs were faster
	Dropped     Result = "dropped"     // not attempted: a submission in the background for which there was no room or no log
)

// Failure is why an attempt at a log gave no SCT. Its text is for the operator: it may quote the log.
type Failure struct {
	Result Result
	// Status is the HTTP status, 0 if there was none.
	Status int
	// RetryAfter is what the log asked for; 0 is nothing.
	RetryAfter time.Duration
	Err        error
}

// Error gives result and cause.
func (f *Failure) Error() string { return fmt.Sprintf("%s: %v", f.Result, f.Err) }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// transient reports whether the same log may well take the same precertificate in a moment.
func (f *Failure) transient() bool { return f.Result.transient() }

func (r Result) transient() bool { return r == Busy || r == Broken || r == Unreachable }

// repeatable reports whether the log may be asked for the same precertificate again when no other log is left: an
// answer that was wrong once, or did not come, may be right the next time. A log that says that the request is bad (RFC
// 6962 §4: 400), or that the caller may not ask, says so again.
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

// silent reports whether the log gave no sign of life. A status 5xx is one: the log may still take precertificates.
func (f *Failure) silent() bool { return f.Result == Unreachable || f.Result == TimedOut }

// public says what happened in words for a client of the CA. It quotes nothing of the log.
func (r Result) public() string {
	switch r {
	case Refused:
		return "a log refuses the precertificate"
	case Busy:
		return "a log is busy"
	case Broken:
		return "a log answers with an error of its own"
	case Unreachable:
		return "a log cannot be reached"
	case TimedOut:
		return "a log does not answer in time"
	case Garbled:
		return "a log answers with something that is not an SCT"
	case Unverified:
		return "a log answers with an SCT that does not verify with the key that is configured for the log"
	case Skewed:
		return "a log answers with an SCT of another time"
	default:
		return "a log cannot be used"
	}
}

// failureOf returns err as a Failure.
func failureOf(err error) *Failure {
	var f *Failure
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, context.DeadlineExceeded):
		return &Failure{Result: TimedOut, Err: err}
	}
	return &Failure{Result: Failed, Err: err}
}
