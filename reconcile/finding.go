package reconcile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
)

// Kind is the kind of a finding. The set of kinds is closed; a kind is a metric label.
type Kind string

// The kinds of findings.
const (
	// UnintendedEntry: a log entry under an issuing key of the CA has no intent in any journal.
	UnintendedEntry Kind = "unintended_entry"
	// SubordinateCA: an issuing key signed a CA certificate, or a log entry is below such a CA certificate.
	SubordinateCA Kind = "ca_below_ours"
	// UnknownCACertificate: the configuration does not name a CA certificate for an issuing key.
	UnknownCACertificate Kind = "unknown_ca_certificate"
	// MissingEntry: a log did not publish the entry of an SCT.
	MissingEntry Kind = "missing_entry"
	// EntryMismatch: a log published an entry that differs from its SCT.
	EntryMismatch Kind = "entry_mismatch"
	// SerialReused: two certificates, or two records of the same kind, have the same serial number.
	SerialReused Kind = "serial_reused"
	// SignaturesUncounted: an issuing key made more or fewer signatures than the records of the journal explain.
	SignaturesUncounted Kind = "signatures_uncounted"
	// OutcomeWithoutIntent: a certificate was signed without an intent.
	OutcomeWithoutIntent Kind = "outcome_without_intent"
	// CertificateWithoutOutcome: a log has a final certificate, and no record says that it was released.
	CertificateWithoutOutcome Kind = "certificate_without_outcome"
	// LogForked: a log showed two histories.
	LogForked Kind = "log_forked"
	// LogShrunk: a newer head of a log covers fewer entries.
	LogShrunk Kind = "log_shrunk"
	// LogMismatch: a log serves entries that are not in its tree.
	LogMismatch Kind = "log_mismatch"
	// LogHeadInvalid: the head of a log is not signed by the pinned key.
	LogHeadInvalid Kind = "log_head_invalid"
	// JournalBroken: a journal was changed, truncated or damaged.
	JournalBroken Kind = "journal_broken"
)

// Severity is how urgent a finding is.
type Severity string

// The severities.
const (
	Critical Severity = "critical" // possible compromise of the issuing key or the journal: act at once
	Serious  Severity = "serious"  // a log violated its obligations: stop relying on it today
)

// kindInfo is what follows from the kind of a finding.
type kindInfo struct {
	severity Severity
	action   string // for the operator on call
	// logViolation: the log violated its obligations and is not used for SCTs until an operator releases it.
	logViolation bool
	// bounded: one log or journal can cause any number of findings of this kind that all mean the same. Beyond
	// [maxAlarmsPerClass] they are counted in one alarm. Findings that may mean a key compromise are never bounded.
	bounded bool
}

// Severity returns how urgent findings of the kind are.
func (k Kind) Severity() Severity { return kindTable[k].severity }

// Action returns what an operator does about findings of the kind.
func (k Kind) Action() string { return kindTable[k].action }

// LogViolation reports whether the log of the finding violated its obligations and must not be used for further SCTs.
func (k Kind) LogViolation() bool { return kindTable[k].logViolation }

// concernsLog reports whether an order for a log closes alarms of the kind. An invalid head is no violation: it says
// nothing about the holder of the log's key, and every SCT is verified with the pinned key.
func (k Kind) concernsLog() bool { return k.LogViolation() || k == LogHeadInvalid }

// Kinds returns all kinds, in the order of docs/reconcile.md.
func Kinds() []Kind {
	return []Kind{
		UnintendedEntry, SubordinateCA, UnknownCACertificate, CertificateWithoutOutcome, OutcomeWithoutIntent,
		SignaturesUncounted, SerialReused, JournalBroken,
		MissingEntry, EntryMismatch, LogForked, LogShrunk, LogMismatch, LogHeadInvalid,
	}
}

// Finding is one violation that an audit found.
type Finding struct {
	Kind     Kind     `json:"kind"`
	Severity Severity `json:"severity"`
	// Log is the name of the log, Index the index of the entry, Journal the name of the journal. They are absent where
	// they do not apply.
	Log     string    `json:"log,omitempty"`
	Index   *uint64   `json:"index,omitempty"`
	Journal string    `json:"journal,omitempty"`
	Serial  string    `json:"serial,omitempty"` // hexadecimal
	Time    time.Time `json:"time"`             // of the entry, the SCT or the record
	// Identity is the identity in the certificate of the entry (its SANs, else its subject), Issuer the OIDC issuer in
	// the certificate, and IssuedBy the name of the issuing CA. They are escaped and truncated.
	Identity string `json:"identity,omitempty"`
	Issuer   string `json:"issuer,omitempty"`
	IssuedBy string `json:"issued_by,omitempty"`
	// TBS is the SHA-256 of the entry's TBSCertificate, Certificate the SHA-256 of a final certificate, both
	// hexadecimal.
	TBS         string `json:"tbs,omitempty"`
	Certificate string `json:"certificate,omitempty"`
	// Signature says whether the log has a signature of the issuing key for the entry: see [SignatureVerified].
	Signature string `json:"signature,omitempty"`
	// Count is the number of further findings that this one stands for.
	Count  int    `json:"count,omitempty"`
	Text   string `json:"text"`
	Action string `json:"action"`
	// Commands are the commands to run next, one POSIX shell line each.
	Commands []string `json:"commands,omitempty"`
	// ID is the same whenever the same finding is made.
	ID string `json:"id"`
}

// The values of Finding.Signature.
const (
	SignatureVerified   = "verified"
	SignatureUnverified = "not verified"
)

// Summary returns the text of f with the identity, the OIDC issuer and the issuing CA of the certificate.
func (f *Finding) Summary() string {
	text := f.Text
	if f.Identity != "" {
		text += "; identity " + f.Identity
		if f.Issuer != "" {
			text += " (OIDC issuer " + f.Issuer + ")"
		}
		if f.IssuedBy != "" {
			text += ", issued by " + f.IssuedBy
		}
	}
	return text
}

// Record returns the journal record of an alarm for f.
func (f *Finding) Record() *journal.Record {
	text := f.Text
	if f.Log != "" {
		text = "log " + f.Log + ": " + text
	}
	return &journal.Record{
		Kind: journal.Alarm, Reason: string(f.Kind), Serial: f.Serial, Issuer: f.Issuer, SAN: f.Identity, TBS: f.TBS,
		Certificate: f.Certificate, Text: text + " (alarm " + f.ID + ")",
	}
}

// Bounded reports whether findings like f are counted in one alarm if one log or journal causes very many of them.
func (f *Finding) Bounded() bool {
	return kindTable[f.Kind].bounded || f.Signature == SignatureUnverified
}

// subject is the log or journal that f is about.
func (f *Finding) subject() string {
	if f.Log != "" {
		return "log " + f.Log
	}
	return "journal " + f.Journal
}

// class is the same for alarms that are bounded together.
func (f *Finding) class() string { return string(f.Kind) + "\n" + f.subject() + "\n" + f.Signature }

// newFinding completes f: severity, action and ID follow from the other fields. The detail distinguishes findings with
// the same kind, log, index, journal and serial number.
func newFinding(f Finding, detail string) Finding {
	f.Severity, f.Action = f.Kind.Severity(), f.Kind.Action()
	index := ""
	if f.Index != nil {
		index = fmt.Sprint(*f.Index)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s\n%s\n%s", f.Kind, f.Log, index, f.Journal, f.Serial, detail))
	f.ID = hex.EncodeToString(sum[:8])
	return f
}
