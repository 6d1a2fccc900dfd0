package journal

import "fmt"

// rules finds records that contradict each other. Its state for each serial number is moved to a temporary file when
// there are many.
type rules struct {
	serials spool
	at      place // position of the current record
	open    int   // intents of the current process without an outcome
	partial bool  // older records are elsewhere, and no start was seen yet
	any     bool  // a record was seen
	running bool  // there was a start without a stop
	made    int   // signatures since the start
	crashes int
}

type serial = [20]byte

// mark is the set of kinds of records that a serial number had.
type mark uint8

const (
	intended mark = 1 << iota // an intent
	tried                     // a trial
	ended                     // an outcome
	orphan                    // an outcome with a signature, whose intent may be in the temporary file
)

func newRules(partial bool) *rules { return &rules{serials: newSpool(), partial: partial} }

// perIntent is how many signatures one intent can have: of the precertificate and of the certificate.
const perIntent = 2

// record returns what is wrong with r, given the records before it.
func (s *rules) record(r *Record) (wrong []string) {
	add := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	first := !s.any
	s.any = true
	switch r.Kind {
	case Start:
		s.start(first)
		return nil
	case Recovered:
		return nil
	case Stop, Reload, Trial, Intent, Outcome, Repeated, Alarm, Dropped, Event, Rekor:
		if !s.running && !s.partial {
			add("a record of kind %s outside of a start and its stop", r.Kind)
		}
	default:
		add("an unknown kind of record: %q", r.Kind)
	}
	switch r.Kind {
	case Stop:
		if s.running && r.Signatures != s.made {
			add("the CA key made %d signatures since the start, and the records have %d", r.Signatures, s.made)
		}
		s.running, s.partial = false, false
	case Reload:
		if limit := s.made + perIntent*s.open; s.running && r.Signatures > limit {
			add("the CA key made %d signatures since the start, and the records have at most %d", r.Signatures, limit)
		}
	case Trial, Intent:
		wrong = append(wrong, s.intent(r)...)
	case Outcome:
		wrong = append(wrong, s.outcome(r)...)
	case Repeated:
		if r.Signatures != 0 {
			add("a certificate that was returned again has a signature")
		}
	case Rekor:
		wrong = append(wrong, rekor(r)...)
	case Start, Recovered, Alarm, Dropped, Event:
	}
	return wrong
}

// rekor returns what is wrong with the record of a request to log a signature.
func rekor(r *Record) (wrong []string) {
	switch r.Result {
	case Logged, Failed, Denied:
	default:
		wrong = append(wrong, fmt.Sprintf("an unknown result: %q", r.Result))
	}
	if (r.Result == Logged) != (r.LogEntry.Log != "") {
		wrong = append(wrong, "an entry has a log ID exactly if it was logged")
	}
	if r.Signatures != 0 {
		wrong = append(wrong, "a signature of the CA key for an entry of the Rekor log")
	}
	return wrong
}

// start begins with a new process. Intents that the previous process left open stay open.
func (s *rules) start(first bool) {
	if s.running || s.partial && !first {
		s.crashes++
	}
	s.running, s.partial, s.made, s.open = true, false, 0, 0
}

func (s *rules) intent(r *Record) (wrong []string) {
	n, err := ParseSerial(r.Serial)
	if err != nil {
		return []string{err.Error()}
	}
	m, more := s.serials.get(n), intended
	if r.Kind == Trial {
		more = tried
		s.made += r.Signatures
	} else {
		s.open++
	}
	if m != 0 {
		wrong = append(wrong, usedBefore(n))
		if m&(intended|tried) == 0 {
			more = 0 // reported here; finish must not report it again
		}
	}
	s.serials.add(n, more, s.at)
	return wrong
}

// What can be wrong with a serial number.
func usedBefore(n serial) string { return fmt.Sprintf("the serial number %x was used before", n) }

func secondOutcome(n serial) string { return fmt.Sprintf("a second outcome for serial number %x", n) }

func withoutIntent(n serial) string {
	return fmt.Sprintf("serial number %x was signed without an intent", n)
}

// finish returns the problems of serial numbers whose records are far apart.
func (s *rules) finish(limit int) ([]misplaced, error) { return s.serials.finish(limit) }

// misplaced is a problem and the record that has it.
type misplaced struct {
	at   place
	what string
}

func (s *rules) outcome(r *Record) (wrong []string) {
	s.made += r.Signatures
	switch r.Result {
	case Issued, Failed, Denied, Canary:
	default:
		wrong = append(wrong, fmt.Sprintf("an unknown result: %q", r.Result))
	}
	if r.Result == Denied && r.Signatures > 0 {
		wrong = append(wrong, "a denied request has a signature")
	}
	if r.Result == Canary && (r.Signatures > 1 || r.Certificate != "") {
		wrong = append(wrong, "a canary has more than the signature of a precertificate")
	}
	if r.Serial == "" && r.Result == Denied {
		return wrong
	}
	n, err := ParseSerial(r.Serial)
	if err != nil {
		return append(wrong, err.Error())
	}
	m, more := s.serials.get(n), ended
	switch {
	case m&ended != 0:
		wrong = append(wrong, secondOutcome(n))
	case m&intended != 0:
		s.open = max(0, s.open-1)
	case (r.Result == Issued || r.Signatures > 0) && !s.partial:
		if s.serials.spilled() {
			more |= orphan // finish decides whether there was an intent
			s.open = max(0, s.open-s.serials.claimOpen())
			break
		}
		wrong = append(wrong, withoutIntent(n))
	}
	s.serials.add(n, more, s.at)
	return wrong
}
