package journal

import "time"

// Kind says what a record is about. It is a closed set.
type Kind string

// The kinds of records.
const (
	Start     Kind = "start"     // a process took the journal; Version, Config
	Stop      Kind = "stop"      // it left the journal in order; Signatures since its start
	Reload    Kind = "reload"    // another configuration is in force; Config, Signatures since the start
	Trial     Kind = "trial"     // the CA's key is about to sign one poisoned precertificate that goes nowhere; Serial, TBS
	Intent    Kind = "intent"    // a precertificate is about to be signed; who, key, Serial, TBS
	Outcome   Kind = "outcome"   // how a request ended: all of the intent again, Result, SCTs
	Alarm     Kind = "alarm"     // something that must not be; Reason, Text
	Recovered Kind = "recovered" // what a crash left at the end of the file was set aside; Text
	Dropped   Kind = "dropped"   // denials that came faster than they are written; Count
	Event     Kind = "event"     // something an operator did or should know: a shard, a rotation; Reason, Text
)

// Result is how a request ended. It is a closed set.
type Result string

// The results.
const (
	Issued Result = "issued" // the certificate was released
	Failed Result = "failed" // signed at least once, and no certificate was released
	Denied Result = "denied" // nothing was signed
)

// Record is one line of a journal: a JSON object with these members in this order, followed by a line feed. Members without
// a value are left out. Digests and serials are lower-case hexadecimal.
type Record struct {
	Seq  uint64    `json:"seq"`  // 1 for the first record of a journal, then one more each
	Time time.Time `json:"time"` // UTC, microseconds
	Kind Kind      `json:"kind"`

	RequestID string `json:"request_id,omitempty"`
	Transport string `json:"transport,omitempty"` // grpc or rest
	Source    string `json:"source,omitempty"`    // address of the caller

	Issuer  string `json:"issuer,omitempty"`  // OIDC issuer
	Subject string `json:"subject,omitempty"` // or its salted digest, "hmac-sha256:…"
	SAN     string `json:"san,omitempty"`     // likewise
	Entry   string `json:"entry,omitempty"`   // of the issuer file
	Rule    string `json:"rule,omitempty"`    // of the policy, that decided
	Config  string `json:"config,omitempty"`  // digest of the configuration in force

	ProviderKey string `json:"provider_key,omitempty"` // RFC 7638 thumbprint (SHA-256, base64url) of the key that verified the token
	Key         string `json:"key,omitempty"`          // SHA-256 of the certified SubjectPublicKeyInfo
	KeyType     string `json:"key_type,omitempty"`     // its algorithm, as in client_algorithms
	IssuerKey   string `json:"issuer_key,omitempty"`   // SHA-256 of the issuing certificate's SubjectPublicKeyInfo
	Serial      string `json:"serial,omitempty"`       // of the certificate, 40 digits
	TBS         string `json:"tbs,omitempty"`          // SHA-256 of the TBSCertificate without poison and SCT list, as a log has it (RFC 6962 §3.2)

	Result      Result `json:"result,omitempty"`
	Reason      string `json:"reason,omitempty"`      // of package fault; of an alarm: its kind
	SCTs        []SCT  `json:"scts,omitempty"`        // that are in the certificate
	Certificate string `json:"certificate,omitempty"` // SHA-256 of its DER
	Signatures  int    `json:"signatures,omitempty"`  // by the CA's key, for this request; see Stop and Reload
	Micros      int64  `json:"micros,omitempty"`      // from decoded request to this record

	Instance string `json:"instance,omitempty"` // of a start: 26 random letters and digits, so that two processes can be told apart
	Version  string `json:"version,omitempty"`  // of mayfly
	Count    int    `json:"count,omitempty"`
	Text     string `json:"text,omitempty"` // for people

	Prev string `json:"prev"` // Sum of the record before; of the first record: 64 zeroes
	Sum  string `json:"sum"`  // SHA-256 (or HMAC-SHA256 under the journal's key) of the line up to and without `,"sum":`
}

// SCT is a promise of a log, as a record keeps it.
type SCT struct {
	Log        string `json:"log"`                  // log ID: SHA-256 of its key
	Timestamp  uint64 `json:"timestamp"`            // milliseconds since 1970
	Extensions string `json:"extensions,omitempty"` // a static-ct log's leaf index stands here
}

// denial reports whether r is of a request for which nothing was signed: anybody can make any number of these.
func (r *Record) denial() bool { return r.Kind == Outcome && r.Signatures == 0 }

// nobodys reports whether the token of the request, if there was one, did not verify.
func (r *Record) nobodys() bool { return r.ProviderKey == "" }
