package reconcile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// Kind says what was found. It is a closed set, and a metric label.
type Kind string

// What can be found.
const (
	UnintendedEntry Kind = "unintended_entry" // our key signed what no journal knows of
	// our key signed a CA certificate, or something is issued under one
	CABelowOurs Kind = "ca_below_ours"
	// a CA certificate for our key that the configuration does not name
	UnknownCACertificate      Kind = "unknown_ca_certificate"
	MissingEntry              Kind = "missing_entry"               // a promise that the log did not keep
	EntryMismatch             Kind = "entry_mismatch"              // a promise that the log kept in another way
	SerialReused              Kind = "serial_reused"               // two certificates, or two decisions, with one serial number
	SignaturesUncounted       Kind = "signatures_uncounted"        // the key signed more, or less, than the records say
	OutcomeWithoutIntent      Kind = "outcome_without_intent"      // a certificate that nobody decided on
	CertificateWithoutOutcome Kind = "certificate_without_outcome" // a final certificate in a log, and no record that it was released
	LogForked                 Kind = "log_forked"
	LogShrunk                 Kind = "log_shrunk"
	LogMismatch               Kind = "log_mismatch"
	LogHeadInvalid            Kind = "log_head_invalid"
	JournalBroken             Kind = "journal_broken"
)

// Severity says how soon somebody must look.
type Severity string

// The severities.
const (
	Critical Severity = "critical" // the key or the journal may be in other hands: now, at night too
	Serious  Severity = "serious"  // a log broke its promise: stop relying on it today
)

// rule is what follows from a kind.
type rule struct {
	severity Severity
	action   string // for whoever is paged
	breaks   bool   // the log's promise: it is not asked for SCTs any more
	// bounded: one log or journal can make any number of findings of the kind, each of which says the same of it.
	// Beyond [mostAlike] they are summed up. What may mean that a key is lost is never bounded.
	bounded bool
}

// Severity returns how soon somebody must look.
func (k Kind) Severity() Severity { return rules[k].severity }

// Action says what to do.
func (k Kind) Action() string { return rules[k].action }

// Breaks reports whether a log broke its promise, and should not be asked for another one.
func (k Kind) Breaks() bool { return rules[k].breaks }

// ofLog reports whether it is for the log's operator to mend. A head that is not signed by the pinned key says nothing of who
// has the key: an SCT is verified all the same.
func (k Kind) ofLog() bool { return k.Breaks() || k == LogHeadInvalid }

// Kinds lists all kinds, in the order of the manual.
func Kinds() []Kind {
	return []Kind{
		UnintendedEntry, CABelowOurs, UnknownCACertificate, CertificateWithoutOutcome, OutcomeWithoutIntent,
		SignaturesUncounted, SerialReused, JournalBroken,
		MissingEntry, EntryMismatch, LogForked, LogShrunk, LogMismatch, LogHeadInvalid,
	}
}

// Finding is one thing that must not be.
type Finding struct {
	Kind     Kind     `json:"kind"`
	Severity Severity `json:"severity"`
	// Log is the log's name, Index the entry's; Journal is the journal's name. They are absent where the finding is about none.
	Log     string    `json:"log,omitempty"`
	Index   *uint64   `json:"index,omitempty"`
	Journal string    `json:"journal,omitempty"`
	Serial  string    `json:"serial,omitempty"` // hexadecimal
	Time    time.Time `json:"time"`             // of the entry, the promise or the record
	// Identity is whose name the certificate of the entry bears (its SANs, else its subject), Issuer the OIDC issuer in
	// it, and IssuedBy the name of the CA. They are escaped and clipped.
	Identity string `json:"identity,omitempty"`
	Issuer   string `json:"issuer,omitempty"`
	IssuedBy string `json:"issued_by,omitempty"`
	// TBS is the SHA-256 of the entry's TBSCertificate, Certificate that of a final certificate, both hexadecimal.
	TBS         string `json:"tbs,omitempty"`
	Certificate string `json:"certificate,omitempty"`
	// Signature says whether the log has a signature of our key for the entry: verified, or not verified.
	Signature string `json:"signature,omitempty"`
	// Count is how many findings this one sums up; 0 is none but itself.
	Count  int    `json:"count,omitempty"`
	Text   string `json:"text"`
	Action string `json:"action"`
	// Commands are what to run next, each a line for a POSIX shell.
	Commands []string `json:"commands,omitempty"`
	// ID is the same for the same finding, whenever it is made.
	ID string `json:"id"`
}

// The values of Finding.Signature.
const (
	SignatureVerified   = "verified"
	SignatureUnverified = "not verified"
)

// Words is the text of f with what else a person asks first: whose name it is about, and which CA's.
func (f *Finding) Words() string {
	text := f.Text
	if f.Identity != "" {
		text += "; it bears the identity " + f.Identity
		if f.Issuer != "" {
			text += " (issuer " + f.Issuer + ")"
		}
		if f.IssuedBy != "" {
			text += ", issued by " + f.IssuedBy
		}
	}
	return text
}

// Bounded reports whether findings like f are summed up when one log or journal makes very many of them.
func (f *Finding) Bounded() bool {
	return rules[f.Kind].bounded || f.Signature == SignatureUnverified
}

// source is what f says something of.
func (f *Finding) source() string {
	if f.Log != "" {
		return "log " + f.Log
	}
	return "journal " + f.Journal
}

// newFinding completes f: severity, action and ID follow from the rest. Subject tells findings apart that are the same in kind,
// log, index, journal and serial.
func newFinding(f Finding, subject string) Finding {
	f.Severity, f.Action = f.Kind.Severity(), f.Kind.Action()
	index := ""
	if f.Index != nil {
		index = fmt.Sprint(*f.Index)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s\n%s\n%s", f.Kind, f.Log, index, f.Journal, f.Serial, subject))
	f.ID = hex.EncodeToString(sum[:8])
	return f
}
