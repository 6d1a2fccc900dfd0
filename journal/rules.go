package journal

import "fmt"

// rules hold records against each other. What they keep of each certificate goes to a temporary file when there are
// many.
type rules struct {
	serials spool
	at      place // of the record that is looked at
	open    int   // intents of the process that runs, without an outcome
	partial bool  // no start seen yet, and what came before is kept elsewhere
	any     bool  // a record was seen
	running bool  // a start without a stop
	made    int   // signatures since the start
	crashes int
}

type serial = [20]byte

// mark is what happened to a serial number.
type mark uint8

const (
	intended mark = 1 << iota
	tried
	ended
	// orphan: it was signed, and its intent may be among what was written to the temporary file.
	orphan
)

func newRules(partial bool) *rules { return &rules{serials: newSpool(), partial: partial} }

// perIntent is how many signatures one intent can have: precertificate and certificate.
const perIntent = 2

// record returns what is wrong with r, given what came before it.
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
	case Stop, Reload, Trial, Intent, Outcome, Alarm, Dropped, Event:
		if !s.running && !s.partial {
			add("a record of kind %s where no process has the journal", r.Kind)
		}
	default:
		add("an unknown kind of record: %q", r.Kind)
	}
	switch r.Kind {
	case Stop:
		if s.running && r.Signatures != s.made {
			add("the CA's key made %d signatures since the start, %d are accounted for", r.Signatures, s.made)
		}
		s.running, s.partial = false, false
	case Reload:
		if limit := s.made + perIntent*s.open; s.running && r.Signatures > limit {
			add("the CA's key has made %d signatures since the start, at most %d are accounted for", r.Signatures, limit)
		}
	case Trial, Intent:
		wrong = append(wrong, s.intent(r)...)
	case Outcome:
		wrong = append(wrong, s.outcome(r)...)
	case Start, Recovered, Alarm, Dropped, Event:
	}
	return wrong
}

// start begins the account of a process. What the one before has left open stays open for good.
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
			more = 0 // it was said, and finish is not to say it again
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

// finish returns what is wrong with serial numbers that stand far apart, and where.
func (s *rules) finish(most int) ([]misplaced, error) { return s.serials.finish(most) }

// misplaced is something that is wrong with a record.
type misplaced struct {
	at   place
	what string
}

func (s *rules) outcome(r *Record) (wrong []string) {
	s.made += r.Signatures
	switch r.Result {
	case Issued, Failed, Denied:
	default:
		wrong = append(wrong, fmt.Sprintf("an unknown result: %q", r.Result))
	}
	if r.Result == Denied && r.Signatures > 0 {
		wrong = append(wrong, "denied, but signed")
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
			more |= orphan // finish knows
			s.open = max(0, s.open-s.serials.claimOpen())
			break
		}
		wrong = append(wrong, withoutIntent(n))
	}
	s.serials.add(n, more, s.at)
	return wrong
}
