package client

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// Error is a refusal by the server.
type Error struct {
	Code       codes.Code
	HTTPStatus int // 0 over gRPC
	Message    string
	Reason     string            // from ErrorInfo; "" from a server that does not give one
	Metadata   map[string]string // from ErrorInfo
	RequestID  string
	RetryAfter time.Duration // 0: not said
}

// Error gives code, message and reason on one line.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %s", e.Code, e.Message)
	if e.Reason != "" {
		text += " (" + e.Reason + ")"
	}
	return text
}

// Explain says for a human what went wrong and what to do. It is err's text for errors that are no [Error].
func Explain(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	var b strings.Builder
	b.WriteString(e.Message)
	if hint := e.hint(); hint != "" {
		b.WriteString(": " + hint)
	}
	if e.Reason != "" {
		b.WriteString("\n  reason      " + e.Reason)
	}
	if e.RequestID != "" {
		b.WriteString("\n  request id  " + e.RequestID)
	}
	if e.RetryAfter > 0 {
		b.WriteString("\n  retry after " + e.RetryAfter.String())
	}
	return b.String()
}

// hint is what to do, by reason. Quotes are the server's words about our own request.
func (e *Error) hint() string {
	m := func(key string) string { return fmt.Sprintf("%q", e.Metadata[key]) }
	switch e.Reason {
	case "TOKEN_MISSING":
		return "no token was sent"
	case "TOKEN_MALFORMED":
		return "the token is not a signed JWT in compact form; is the file the right one?"
	case "TOKEN_TOO_LARGE":
		return "the token is larger than the server reads"
	case "ISSUER_NOT_TRUSTED":
		return "the server does not accept tokens of " + m("issuer")
	case "AUDIENCE_MISMATCH":
		return "the token is for " + m("got") + "; get one for the audience " + m("want")
	case "TOKEN_EXPIRED":
		return "the token expired " + e.Metadata["seconds"] + " s ago; get a new one"
	case "TOKEN_NOT_YET_VALID":
		return "the token is valid in " + e.Metadata["seconds"] + " s only; are the clocks right?"
	case "TOKEN_TOO_LONG_LIVED":
		return "the token lives longer than " + e.Metadata["max"] + "; get a shorter one"
	case "ALGORITHM_NOT_ALLOWED":
		return "tokens of this issuer are not signed with " + m("alg")
	case "KEY_ID_UNKNOWN", "SIGNATURE_INVALID":
		return "the token is not signed by its issuer"
	case "CLAIM_MISSING":
		return "the token has no claim " + m("claim")
	case "CLAIM_INVALID":
		return "the claim " + m("claim") + " cannot be certified"
	case "EMAIL_UNVERIFIED":
		return "the identity provider has not verified the e-mail address"
	case "KEY_WEAK", "KEY_ALGORITHM_NOT_ALLOWED":
		return "use another key, such as ECDSA P-256"
	case "PROOF_INVALID":
		return "the signature must be over the claim " + m("claim")
	case "NOT_READY":
		return e.Metadata["cause"]
	case "PROVIDER_UNAVAILABLE":
		return "the server cannot reach " + m("issuer")
	}
	return ""
}
