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
	UnintendedEntry           Kind = "unintended_entry"            // our key signed what no journal knows of
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
		UnintendedEntry, CertificateWithoutOutcome, OutcomeWithoutIntent, SignaturesUncounted, SerialReused, JournalBroken,
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
	Text    string    `json:"text"`
	Action  string    `json:"action"`
	// ID is the same for the same finding, whenever it is made.
	ID string `json:"id"`
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
