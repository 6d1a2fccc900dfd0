package shadow

import "github.com/mayfly-ca/mayfly/fault"

// The rows of the table "What differs from Fulcio" in docs/compatibility.md, by their first column.
const (
	rowFails     = "a provider, a log or the signer fails"
	rowBearer    = "`Authorization: bearer` in lower case"
	rowSubjectID = "subject key identifier in the certificate"
	rowNotBefore = "NotBefore"
	rowChain     = "the certificates of the CA"
	rowSub       = "no `sub` in a token of the type `email` or `chainguard-identity`"
	rowTokens    = "tokens"
	rowSizes     = "sizes"
	rowBlocks    = "a second PEM block after the key"
	rowASCII     = "an email address with characters outside ASCII"
	rowTexts     = "texts of libraries, such as those about JSON or bytes of protobuf that cannot be decoded"
	rowAbsent    = "a claim that a template reads is absent or null"
	rowLists     = "a claim that is a list or an object"
	rowHash      = "`#`, `?`, `[` and `]` in the parts of a name"
	rowAdjacent  = "two adjacent claims in a name"
	rowUnsafe    = "structured identities with empty or unsafe parts (`//`, `..`, also percent-encoded), a user or " +
		"another port in a URI, a second spelling of a URI (`HTTPS://`, `%61`)"
	rowInvisible = "invisible characters (control, format, bidirectional, zero width)"
	rowDefaults  = "a claim with the name of an operator's default"
	rowDomain    = "whether issuer and subject domain belong together"
)

// refusalRows says which rows may explain that mayfly refuses, for the reasons for which there are any. A reason that
// only a configuration explains, such as ISSUER_NOT_TRUSTED, has none.
var refusalRows = map[fault.Reason][]string{
	fault.TokenMalformed:     {rowTokens},
	fault.TokenTooLarge:      {rowSizes},
	fault.TokenNotYetValid:   {rowTokens},
	fault.TokenTooLongLived:  {rowTokens},
	fault.ClaimMissing:       {rowAbsent},
	fault.ClaimInvalid:       {rowLists, rowUnsafe, rowInvisible, rowHash, rowAdjacent, rowDefaults, rowASCII},
	fault.IdentityNotAllowed: {rowDomain},
	fault.RequestTooLarge:    {rowSizes},
}
