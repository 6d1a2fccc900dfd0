package uses

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// Key identifies a token. It is a hash, from which nothing about the token can be learned.
type Key [32]byte

// Use is one use of a token for a certificate.
type Use struct {
	Key   Key
	Entry string // the entry of the issuer file, for metrics
	Most  int    // the highest number of uses
	// IssuedAt and Expires are the times of the token.
	IssuedAt, Expires time.Time
	// IssueUncounted says that the token is accepted even if it is not known how often it was used, or if its use
	// cannot be counted.
	IssueUncounted bool
}

// Result is what became of a use, for metrics.
type Result string

// The results.
const (
	Counted     Result = "counted"
	Replayed    Result = "replayed"    // refused: the token was used as often as allowed
	Unknown     Result = "unknown"     // refused: it is not known how often the token was used
	Unavailable Result = "unavailable" // refused: the use cannot be counted
	Uncounted   Result = "uncounted"   // accepted although the use could not be counted, or earlier uses are not known
)

// Results are all results.
func Results() []Result { return []Result{Counted, Replayed, Unknown, Unavailable, Uncounted} }

// Error is the refusal of a use: the error for the client, and the result for metrics.
type Error struct {
	Refusal *fault.Error
	Result  Result
}

// Error returns the reason and the cause, for the log.
func (e *Error) Error() string { return e.Refusal.Error() }

// Unwrap returns the error for the client.
func (e *Error) Unwrap() error { return e.Refusal }

// errUsed is the cause of a refusal for the log.
var errUsed = errors.New("the token was used as often as its issuer entry allows")

// Used returns the refusal of a token that was used as often as allowed.
func (u *Use) Used() *Error {
	return &Error{fault.New(fault.TokenReplayed, errUsed, "limit", strconv.Itoa(u.Most)), Replayed}
}

// Unknown returns the refusal of a token whose number of uses is not known. A new token helps and another attempt does
// not; therefore the reason is that of a token that was used.
func (u *Use) Unknown(cause error) *Error {
	f := fault.New(fault.TokenReplayed, cause, "limit", strconv.Itoa(u.Most)).
		WithPublic("this certificate authority cannot tell how often this token was used; get a new token")
	return &Error{f, Unknown}
}

// Unavailable returns the refusal of a use that cannot be counted now.
func (u *Use) Unavailable(cause error) *Error {
	return &Error{fault.New(fault.BudgetUnavailable, cause).By(fault.PartyUs).WithRetryAfter(retryAfter), Unavailable}
}

// retryAfter is the time after which another attempt may succeed.
const retryAfter = 2 * time.Second

// Before returns the cause of a refusal if the token was issued before uses were known, or nil. The claim iat has a
// resolution of a second, so a token of the same second counts as older.
func (u *Use) Before(born time.Time) error {
	if u.IssuedAt.Unix() > born.Unix() {
		return nil
	}
	return fmt.Errorf("the token was issued at %s, and uses of tokens are known only since %s",
		u.IssuedAt.UTC().Format(time.RFC3339), born.UTC().Format(time.RFC3339))
}
