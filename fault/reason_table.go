package fault

import (
	"iter"
	"maps"
	"slices"
)

// Reason is a stable, machine-readable cause. Clients find it in google.rpc.ErrorInfo (domain "mayfly").
type Reason string

// The closed set of reasons. docs/errors.md has an entry for each.
const (
	TokenMissing        Reason = "TOKEN_MISSING"
	TokenMalformed      Reason = "TOKEN_MALFORMED"
	TokenTooLarge       Reason = "TOKEN_TOO_LARGE"
	IssuerNotTrusted    Reason = "ISSUER_NOT_TRUSTED"
	AudienceMismatch    Reason = "AUDIENCE_MISMATCH"
	TokenExpired        Reason = "TOKEN_EXPIRED"
	TokenNotYetValid    Reason = "TOKEN_NOT_YET_VALID"
	TokenTooLongLived   Reason = "TOKEN_TOO_LONG_LIVED"
	AlgorithmNotAllowed Reason = "ALGORITHM_NOT_ALLOWED"
	KeyIDUnknown        Reason = "KEY_ID_UNKNOWN"
	SignatureInvalid    Reason = "SIGNATURE_INVALID"
	ClaimMissing        Reason = "CLAIM_MISSING"
	ClaimInvalid        Reason = "CLAIM_INVALID"
	EmailUnverified     Reason = "EMAIL_UNVERIFIED"
	IdentityNotAllowed  Reason = "IDENTITY_NOT_ALLOWED"
	PolicyDenied        Reason = "POLICY_DENIED"
	TokenReplayed       Reason = "TOKEN_REPLAYED"

	KeyMissing             Reason = "KEY_MISSING"
	KeyMalformed           Reason = "KEY_MALFORMED"
	KeyWeak                Reason = "KEY_WEAK"
	KeyAlgorithmNotAllowed Reason = "KEY_ALGORITHM_NOT_ALLOWED"
	CSRMalformed           Reason = "CSR_MALFORMED"
	ProofInvalid           Reason = "PROOF_INVALID"

	EntryMalformed           Reason = "ENTRY_MALFORMED"
	EntryAlgorithmNotAllowed Reason = "ENTRY_ALGORITHM_NOT_ALLOWED"
	EntrySignatureInvalid    Reason = "ENTRY_SIGNATURE_INVALID"
	EntryNotAdmitted         Reason = "ENTRY_NOT_ADMITTED"
	EntryExists              Reason = "ENTRY_EXISTS"
	EntryNotLogged           Reason = "ENTRY_NOT_LOGGED"

	PathUnknown      Reason = "PATH_UNKNOWN"
	MethodNotAllowed Reason = "METHOD_NOT_ALLOWED"
	RequestMalformed Reason = "REQUEST_MALFORMED"
	RequestTooLarge  Reason = "REQUEST_TOO_LARGE"
	RateLimited      Reason = "RATE_LIMITED"

	ProviderUnavailable  Reason = "PROVIDER_UNAVAILABLE"
	ProviderKeysUnusable Reason = "PROVIDER_KEYS_UNUSABLE"
	LogUnavailable       Reason = "LOG_UNAVAILABLE"
	SignerUnavailable    Reason = "SIGNER_UNAVAILABLE"
	JournalUnavailable   Reason = "JOURNAL_UNAVAILABLE"
	BudgetUnavailable    Reason = "BUDGET_UNAVAILABLE"
	NotReady             Reason = "NOT_READY"

	CallerCanceled Reason = "CANCELED"
	CallerDeadline Reason = "DEADLINE_EXCEEDED"
	InternalError  Reason = "INTERNAL"
)

// The messages that Fulcio's clients know.
const (
	msgToken    = "There was an error processing the identity token"
	msgKey      = "The public key supplied in the request could not be parsed"
	msgWeak     = "The public key supplied in the request is insecure"
	msgCSR      = "The certificate signing request could not be parsed"
	msgProof    = "The signature supplied in the request could not be verified"
	msgLog      = "Error entering certificate in CTL"
	msgCA       = "error communicating with CA backend"
	msgInternal = "internal error; the operator can find the cause in the log by this request ID"
	msgProvider = "the keys of the identity provider cannot be fetched now; try again"
	msgUnusable = "the identity provider publishes no key that this certificate authority accepts; the provider's " +
		"operator must replace its keys"
	msgJournal   = "the journal cannot be written; try again later"
	msgReplayed  = "this token has been used as often as this certificate authority allows; get a new token"
	msgBudget    = "the use of this token cannot be counted now; try again later"
	msgNotReady  = "the certificate authority is not ready; try again"
	msgTooLarge  = "the request is too large"
	msgRate      = "too many requests; try again later"
	msgPolicy    = "the policy of this certificate authority does not allow a certificate for this identity"
	msgAlgorithm = "signing algorithm not permitted"
	msgMalformed = "the request could not be parsed"
	msgEntry     = "invalid entry"
	msgNotOurs   = "this log only accepts entries with a certificate of its own certificate authority"
	msgExists    = "an equivalent entry already exists in the transparency log"
	msgNotLogged = "failed to integrate entry; try again"
	msgPath      = "Not Found"
	msgMethod    = "Method Not Allowed"
	msgCanceled  = "context canceled"
	msgDeadline  = "context deadline exceeded"
)

type reason struct {
	kind    Kind
	message string
	keys    []string
	party   Party
}

func (r reason) declares(key string) bool { return slices.Contains(r.keys, key) }

func row(k Kind, message string, keys ...string) reason { return reason{k, message, keys, partyOf(k)} }

var reasons = map[Reason]reason{
	TokenMissing:        row(Invalid, msgToken),
	TokenMalformed:      row(Invalid, msgToken),
	TokenTooLarge:       row(Invalid, msgToken, "max"),
	IssuerNotTrusted:    row(Invalid, msgToken, "issuer"),
	AudienceMismatch:    row(Invalid, msgToken, "want", "got"),
	TokenExpired:        row(Invalid, msgToken, "seconds"),
	TokenNotYetValid:    row(Invalid, msgToken, "seconds"),
	TokenTooLongLived:   row(Invalid, msgToken, "max"),
	AlgorithmNotAllowed: row(Invalid, msgToken, "alg"),
	KeyIDUnknown:        row(Invalid, msgToken, "kid"),
	SignatureInvalid:    row(Invalid, msgToken),
	ClaimMissing:        row(Invalid, msgToken, "claim"),
	ClaimInvalid:        row(Invalid, msgToken, "claim"),
	EmailUnverified:     row(Invalid, msgToken),
	IdentityNotAllowed:  row(Invalid, msgToken, "claim"),
	PolicyDenied:        row(Denied, msgPolicy, "rule"),
	// Denied and not Exhausted: the token never gets a certificate again, and clients such as sigstore-go repeat a
	// request that was answered with 429.
	TokenReplayed: row(Denied, msgReplayed, "limit"),

	KeyMissing:             row(Invalid, msgKey),
	KeyMalformed:           row(Invalid, msgKey),
	KeyWeak:                row(Invalid, msgWeak),
	KeyAlgorithmNotAllowed: row(Invalid, msgAlgorithm, "algorithm", "hint"),
	CSRMalformed:           row(Invalid, msgCSR),
	ProofInvalid:           row(Invalid, msgProof, "claim"),

	EntryMalformed:           row(Invalid, msgEntry, "problem"),
	EntryAlgorithmNotAllowed: row(Invalid, msgEntry, "algorithm", "problem"),
	EntrySignatureInvalid:    row(Invalid, msgEntry, "problem"),
	EntryNotAdmitted:         row(Denied, msgNotOurs),
	EntryExists:              row(Exists, msgExists, "index"),
	EntryNotLogged:           row(Unavailable, msgNotLogged).by(PartyLog),

	PathUnknown:      row(Invalid, msgPath, "path"),
	MethodNotAllowed: row(Invalid, msgMethod, "method"),
	RequestMalformed: row(Invalid, msgMalformed),
	RequestTooLarge:  row(Exhausted, msgTooLarge, "max"),
	RateLimited:      row(Exhausted, msgRate, "limit"),

	ProviderUnavailable:  row(Unavailable, msgProvider, "issuer").by(PartyProvider),
	ProviderKeysUnusable: row(Invalid, msgUnusable, "issuer").by(PartyProvider),
	LogUnavailable:       row(Unavailable, msgLog, "cause").by(PartyLog),
	SignerUnavailable:    row(Unavailable, msgCA).by(PartySigner),
	JournalUnavailable:   row(Unavailable, msgJournal).by(PartyJournal),
	BudgetUnavailable:    row(Unavailable, msgBudget).by(PartyStore),
	NotReady:             row(Unavailable, msgNotReady, "cause").by(PartyUs),

	CallerCanceled: row(Canceled, msgCanceled),
	CallerDeadline: row(DeadlineExceeded, msgDeadline),
	InternalError:  row(Internal, msgInternal),
}

// Reasons yields every reason, sorted.
func Reasons() iter.Seq[Reason] { return slices.Values(slices.Sorted(maps.Keys(reasons))) }

// Kind returns the class of failures that r belongs to.
func (r Reason) Kind() Kind { return reasons[r].kind }

// Message returns the text that a client reads for r.
func (r Reason) Message() string { return reasons[r].message }

// Keys returns the metadata keys that r declares.
func (r Reason) Keys() []string { return slices.Clone(reasons[r].keys) }
