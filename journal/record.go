package journal

import (
	"encoding/hex"
	"fmt"
	"time"
)

// Format is the version of the record format that this package writes. Every version up to it can be read. Version 1 is
// the version of records without the member "format"; otherwise it equals version 2. Version 3 adds the kind "rekor".
//
// In every version, "seq" and "format" are the first members, "prev" and "sum" the last ones, and the sum covers the
// part of the line before it, so that a reader can check the chain of records with a newer format.
const Format = 3

// Kind says what a record is about. It is a closed set.
type Kind string

// The kinds of records.
const (
	Start  Kind = "start"  // a process opened the journal; Version, Config
	Stop   Kind = "stop"   // the process closed the journal in order; Signatures since the start
	Reload Kind = "reload" // another configuration takes effect; Config, Signatures since the start
	// Trial: the CA key is about to sign a precertificate that is never submitted, or what Text says, such as a
	// precertificate signing certificate; Serial, TBS.
	Trial     Kind = "trial"
	Intent    Kind = "intent"    // a precertificate is about to be signed; identity, key, Serial, TBS
	Outcome   Kind = "outcome"   // the result of a request: all of the intent again, Result, SCTs
	Alarm     Kind = "alarm"     // a finding that needs an operator; Reason, Text
	Recovered Kind = "recovered" // the journal could not be written, or a torn end was set aside; Text
	// Repeated: a client that repeated its request got the certificate of an earlier outcome again; Serial, Certificate
	Repeated Kind = "repeated"
	Dropped  Kind = "dropped" // denials that were only counted; Count
	Event    Kind = "event"   // an event that operators should know of, such as a new shard; Reason, Text
	// Rekor: the result of a request to log a signature in the Rekor log of this process; Result, LogEntry, and the key
	// or certificate of the signature, if the signature is valid
	Rekor Kind = "rekor"
)

// Result is the result of a request. It is a closed set.
type Result string

// The results.
const (
	Issued Result = "issued" // the certificate was released
	Failed Result = "failed" // signed at least once, and no certificate was released
	Denied Result = "denied" // nothing was signed
	// Canary: a precertificate of the CA's own was signed and is in logs, and no certificate was made, on purpose.
	Canary Result = "canary"
	// Logged: the entry is in the Rekor log, and its proof was released. With Failed, the entry may be in the log.
	Logged Result = "logged"
)

// Record is one line of a journal: a JSON object with these members in this order, followed by a line feed. Empty
// members are omitted. Digests and serial numbers are lower-case hexadecimal.
type Record struct {
	Seq    uint64    `json:"seq"`              // 1 for the first record of a journal, then increasing by 1
	Format int       `json:"format,omitempty"` // version of the record format, see [Format]; 0 is version 1
	Time   time.Time `json:"time"`             // UTC, microseconds
	Kind   Kind      `json:"kind"`

	RequestID string `json:"request_id,omitempty"`
	Transport string `json:"transport,omitempty"` // grpc, rest or canary
	Source    string `json:"source,omitempty"`    // address of the client

	Issuer  string `json:"issuer,omitempty"`  // OIDC issuer
	Subject string `json:"subject,omitempty"` // or its salted digest, "hmac-sha256:…"
	SAN     string `json:"san,omitempty"`     // likewise
	// source-repository-uri of the identity, or its salted digest
	Repository string `json:"repository,omitempty"`
	Entry      string `json:"entry,omitempty"`  // of the issuer file
	Rule       string `json:"rule,omitempty"`   // of the policy, which decided
	Config     string `json:"config,omitempty"` // digest of the configuration in force

	// RFC 7638 thumbprint (SHA-256, base64url) of the key that verified the token
	ProviderKey string `json:"provider_key,omitempty"`
	Key         string `json:"key,omitempty"`        // SHA-256 of the certified SubjectPublicKeyInfo
	KeyType     string `json:"key_type,omitempty"`   // its algorithm, as in client_algorithms
	IssuerKey   string `json:"issuer_key,omitempty"` // SHA-256 of the issuing certificate's SubjectPublicKeyInfo
	Serial      string `json:"serial,omitempty"`     // of the certificate, 40 digits
	// SHA-256 of the TBSCertificate without poison and SCT list (RFC 6962 §3.2)
	TBS string `json:"tbs,omitempty"`

	Result      Result `json:"result,omitempty"`
	Reason      string `json:"reason,omitempty"`      // of package fault; of an alarm: its kind
	SCTs        []SCT  `json:"scts,omitempty"`        // in the certificate; of a canary: for the precertificate
	Certificate string `json:"certificate,omitempty"` // SHA-256 of its DER
	// of a record of kind rekor; its Issuer, SAN, Serial and Certificate are those of the certificate of the signature
	LogEntry LogEntry `json:"log_entry,omitzero"`
	// the certificate itself, base64 of its DER, and the digest of the token and the key that it was requested with.
	// Only with api.idempotent_retry.
	DER        string `json:"der,omitempty"`
	Retry      string `json:"retry,omitempty"`
	Signatures int    `json:"signatures,omitempty"` // by the CA key, for this request; see Stop and Reload
	Micros     int64  `json:"micros,omitempty"`     // microseconds from the decoded request to this record

	// In a start record: 26 random letters and digits, different for each process.
	Instance string `json:"instance,omitempty"`
	Version  string `json:"version,omitempty"` // version of mayfly
	Count    int    `json:"count,omitempty"`
	Text     string `json:"text,omitempty"` // for people

	Prev string `json:"prev"` // Sum of the record before; of the first record: 64 zeroes
	// SHA-256 (or HMAC-SHA256 under the journal's key) of the line up to and without `,"sum":`
	Sum string `json:"sum"`
}

// SCT is a signed certificate timestamp in a record, without its signature.
type SCT struct {
	Log        string `json:"log"`                  // log ID: SHA-256 of its key
	Timestamp  uint64 `json:"timestamp"`            // milliseconds since 1970
	Extensions string `json:"extensions,omitempty"` // of a static-ct log: they contain the leaf index
}

// LogEntry is an entry of the Rekor log in a record.
type LogEntry struct {
	Kind string `json:"kind"` // such as hashedrekord
	// that was signed: of the artifact, or of the encoding of an envelope (DSSE); sha256:…
	Digest string `json:"digest"`
	Leaf   string `json:"leaf"`  // Merkle leaf hash (RFC 6962 §2.1)
	Log    string `json:"log"`   // log ID; empty: the entry was not logged
	Index  uint64 `json:"index"` // of the entry, from 0
}

// unsigned reports whether r is about a request for which nothing was signed or logged. Any caller can cause any number
// of them.
func (r *Record) unsigned() bool {
	return r.Kind == Repeated || r.Kind == Outcome && r.Signatures == 0 || r.Kind == Rekor && r.Result != Logged
}

// unauthenticated reports whether no token of the request was verified.
func (r *Record) unauthenticated() bool { return r.ProviderKey == "" }

// check refuses a record that could not be written so that it reads back as the same record.
func (r *Record) check() error {
	if r.Signatures < 0 || r.Micros < 0 || r.Count < 0 {
		return fmt.Errorf("a %s record with a negative number", r.Kind)
	}
	n := 0
	for _, text := range [...]string{r.Issuer, r.Subject, r.SAN, r.Repository, r.Entry, r.Rule, r.Text} {
		n += len(text)
	}
	if n > maxText {
		return fmt.Errorf("a %s record with %d bytes of text; at most %d", r.Kind, n, maxText)
	}
	return nil
}

// ParseSerial reads the serial number of a record: 40 hexadecimal digits.
func ParseSerial(text string) (n [20]byte, err error) {
	if len(text) != 2*len(n) {
		return n, fmt.Errorf("%q is not a serial number of 40 hexadecimal digits", text)
	}
	if _, err := hex.Decode(n[:], []byte(text)); err != nil {
		return n, fmt.Errorf("%q is not a serial number of 40 hexadecimal digits", text)
	}
	return n, nil
}
