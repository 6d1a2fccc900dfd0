package client

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

// Error is a refusal by the server.
type Error struct {
	Code       codes.Code
	HTTPStatus int // 0 over gRPC
	Message    string
	Reason     fault.Reason      // from ErrorInfo; "" from a server that does not give one
	Metadata   map[string]string // from ErrorInfo
	RequestID  string
	RetryAfter time.Duration // 0: not given
}

// Error returns code, message and reason on one line.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %s", e.Code, shown(e.Message))
	if e.Reason != "" {
		text += " (" + shown(string(e.Reason)) + ")"
	}
	return text
}

// Explain returns a text for people: what failed, and what to do. For an error that is not an [Error] it returns the
// text of the error.
func Explain(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return printable.Escape(err.Error())
	}
	var b strings.Builder
	b.WriteString(shown(e.Message))
	if hint := e.hint(); hint != "" {
		b.WriteString(": " + hint)
	}
	if e.Reason != "" {
		b.WriteString("\n  reason      " + shown(string(e.Reason)))
	}
	if e.RequestID != "" {
		b.WriteString("\n  request id  " + shown(e.RequestID))
	}
	if e.RetryAfter > 0 {
		b.WriteString("\n  retry after " + e.RetryAfter.String())
	}
	return b.String()
}

// maxShown is the size limit in bytes for printing a text of the server.
const maxShown = 1000

// shown returns a text of the server in a form that is safe for a terminal or a log: on one line and of limited length.
func shown(s string) string {
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return printable.Escape(s)
}

// hint returns what to do, by reason. Quoted parts are values from the response.
func (e *Error) hint() string {
	bare := func(key string) string { return shown(e.Metadata[key]) }
	m := func(key string) string { return `"` + bare(key) + `"` }
	switch e.Reason {
	case fault.TokenMissing:
		return "no token was sent"
	case fault.TokenMalformed:
		return "the token is not a signed JWT in compact form; check that the file holds the ID token"
	case fault.TokenTooLarge:
		return "the token exceeds the size limit of the server"
	case fault.IssuerNotTrusted:
		return "the server does not accept tokens of " + m("issuer")
	case fault.AudienceMismatch:
		return "the token is for " + m("got") + "; get one for the audience " + m("want")
	case fault.TokenExpired:
		return "the token expired " + bare("seconds") + " s ago; get a new one"
	case fault.TokenNotYetValid:
		return "the token becomes valid in " + bare("seconds") + " s; check the clocks"
	case fault.TokenTooLongLived:
		return "the token is valid for longer than " + bare("max") + "; get one with a shorter lifetime"
	case fault.AlgorithmNotAllowed:
		return "tokens of this issuer are not signed with " + m("alg")
	case fault.KeyIDUnknown, fault.SignatureInvalid:
		return "the token is not signed by its issuer"
	case fault.ClaimMissing:
		return "the token has no claim " + m("claim")
	case fault.ClaimInvalid:
		return "the claim " + m("claim") + " cannot be certified"
	case fault.EmailUnverified:
		return "the identity provider has not verified the e-mail address"
	case fault.IdentityNotAllowed:
		return "the issuer is not allowed to certify the identity in the claim " + m("claim")
	case fault.PolicyDenied:
		return "the operator's rule " + m("rule") + " denies the request"
	case fault.KeyMissing, fault.KeyMalformed:
		return "send the public key in PEM, or a certificate signing request"
	case fault.CSRMalformed:
		return "send one PEM block CERTIFICATE REQUEST, signed with the key in it"
	case fault.RequestMalformed, fault.PathUnknown, fault.MethodNotAllowed:
		return "check that the URL is that of a CA"
	case fault.RequestTooLarge:
		return "the server accepts at most " + bare("max") + " bytes"
	case fault.RateLimited:
		return "wait before the next request; one certificate can be used for all signatures of a job"
	case fault.TokenReplayed:
		if e.Metadata["limit"] == "" {
			return "the token was used before; get a new one"
		}
		return "a token of this issuer can be used for at most " + bare("limit") + " certificates; get a new one"
	case fault.BudgetUnavailable:
		return "the server cannot count the uses of this token now; try again"
	case fault.LogUnavailable:
		if cause := e.Metadata["cause"]; cause != "" {
			return "the certificate could not be submitted to enough Certificate Transparency logs (" +
				printable.Escape(cause) + "); nothing is wrong with the request"
		}
		return "the certificate could not be submitted to enough Certificate Transparency logs; nothing is " +
			"wrong with the request"
	case fault.SignerUnavailable, fault.JournalUnavailable:
		return "nothing is wrong with the request; the operator finds the cause in the log under the request id"
	case fault.CallerCanceled, fault.CallerDeadline:
		return "allow at least 20 s for the response"
	case fault.InternalError:
		return "report the request id to the operator"
	case fault.KeyWeak, fault.KeyAlgorithmNotAllowed:
		if hint := e.Metadata["hint"]; hint != "" {
			return printable.Escape(hint)
		}
		return "use another key, such as ECDSA P-256"
	case fault.ProofInvalid:
		return "the signature must be over the claim " + m("claim")
	case fault.NotReady:
		return bare("cause")
	case fault.ProviderKeysUnusable:
		return "the server cannot use a key of " + m("issuer") + "; report this to the operator of that provider"
	case fault.ProviderUnavailable:
		return "the server cannot reach " + m("issuer")
	case fault.EntryMalformed, fault.EntryAlgorithmNotAllowed, fault.EntrySignatureInvalid:
		if problem := e.Metadata["problem"]; problem != "" {
			return printable.Escape(problem)
		}
		return "check the signature, the key and the digest of the entry"
	case fault.EntryNotAdmitted:
		return "sign with a certificate of this CA"
	case fault.EntryExists:
		return "the log has the same entry at the index " + bare("index")
	case fault.EntryNotLogged:
		return "nothing is wrong with the entry; try again"
	}
	return ""
}
