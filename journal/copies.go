package journal

import (
	"bytes"
	"errors"
	"log/slog"

	"github.com/mayfly-ca/mayfly/journal/ship"
)

// message returns a record in the form that package ship sends. line has no line feed.
func (r *Record) message(line []byte) ship.Message {
	return ship.Message{
		Line: line, Seq: r.Seq, Time: r.Time, Severity: r.severity(),
		Kind: string(r.Kind), Result: string(r.Result), Reason: r.Reason, Serial: r.Serial, RequestID: r.RequestID,
	}
}

// severity returns the syslog severity of a record.
func (r *Record) severity() ship.Severity {
	switch r.Kind {
	case Alarm:
		return ship.Alert
	case Recovered, Dropped:
		return ship.Warning
	case Outcome:
		if r.Result == Failed {
			return ship.Warning
		}
	case Start, Stop, Reload, Trial, Intent, Event:
	}
	return ship.Notice
}

// receiverStore is a journal without a file: a group counts when each receiver has accepted it.
type receiverStore struct{ receivers *ship.Receivers }

func (s *receiverStore) commit(g group) error {
	batch := make([]ship.Message, 0, len(g.entries))
	rest := g.lines
	for i := range g.entries {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		batch = append(batch, g.entries[i].record.message(line))
	}
	return s.receivers.Deliver(batch)
}

// repair does nothing: the next group shows whether the receivers accept records again.
func (s *receiverStore) repair() (string, error) {
	return "records that were being sent may have arrived", nil
}

func (s *receiverStore) close() { s.receivers.Close() }

// copySource reads a journal for the copy to one receiver.
type copySource struct {
	*Reader
	log  *slog.Logger
	name string // name of the receiver
}

// Next returns the next acknowledged record. A damaged line is reported in the log and omitted.
func (s *copySource) Next() (ship.Message, error) {
	for {
		e, err := s.Reader.Next()
		if _, ok := errors.AsType[*Damage](err); ok {
			s.log.Error("journal: a copy omits a line that is not a record", "sink", s.name, "cause", err.Error())
			continue
		}
		if err != nil {
			return ship.Message{}, err
		}
		return e.message(e.Raw[:len(e.Raw)-1]), nil
	}
}
