package fault

import "slices"

// Party is who has to act so that a failure does not occur again. Service levels are counted by party: the faults of
// callers are not failures of the service.
type Party string

// The closed set of parties.
const (
	// the token, the key, the request, or a limit that the operator has set for callers
	PartyCaller   Party = "caller"
	PartyProvider Party = "provider" // the identity provider that issued the token
	PartyLog      Party = "log"      // the transparency logs
	PartySigner   Party = "signer"   // the service or the device that has the CA's key
	PartyStore    Party = "store"    // the store that several servers share
	PartyJournal  Party = "journal"  // the storage of the journal, or the receivers of its records
	PartyUs       Party = "us"       // this server: its configuration, its capacity, or a defect of the program
)

// Parties returns all parties, in the order in which they are displayed.
func Parties() []Party {
	return []Party{PartyCaller, PartyProvider, PartyLog, PartySigner, PartyStore, PartyJournal, PartyUs}
}

// partyOf returns whose fault the reasons of a kind are, unless their rows in the table say otherwise. Unavailable has
// none: the row of such a reason MUST name its party.
func partyOf(k Kind) Party {
	if slices.Contains([]Kind{Invalid, Denied, Exhausted, Canceled, DeadlineExceeded, Exists}, k) {
		return PartyCaller
	}
	return PartyUs
}

// by returns the row with another party than that of its kind.
func (r reason) by(p Party) reason {
	r.party = p
	return r
}

// Party returns whose fault r is.
func (r Reason) Party() Party {
	if row, ok := reasons[r]; ok {
		return row.party
	}
	return PartyUs
}

// By replaces whose fault e is, for a reason that has several causes, and returns e.
func (e *Error) By(p Party) *Error {
	e.Party = p
	return e
}
