package journal

import (
	"bytes"
	"context"
	"fmt"
	"time"
)

// message is a record on its way to a sink.
type message struct {
	raw    []byte // the line without its line feed
	record Record
}

// sink takes records elsewhere.
type sink interface {
	// send returns when the receiver has taken all messages, as far as its protocol tells. A failed one is sent again as a whole.
	send(ctx context.Context, batch []message) error
	// close ends the connection, if there is one.
	close()
}

const (
	sendTimeout = 5 * time.Second
	maxBatch    = 256       // messages that are sent at once
	maxBatchLen = 512 << 10 // bytes of them, after which no other one joins
)

// sinkStore is a journal without a file: a group counts when each sink has taken it.
type sinkStore struct {
	names []string
	sinks []sink
}

func (s *sinkStore) commit(g group) error {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	batch := make([]message, 0, len(g.entries))
	rest := g.lines
	for _, e := range g.entries {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		batch = append(batch, message{line, e.record})
	}
	for i, one := range s.sinks {
		if err := one.send(ctx, batch); err != nil {
			return fmt.Errorf("%s: %w", s.names[i], err)
		}
	}
	return nil
}

// repair has nothing to do: the next group shows whether the sinks take records again. What failed may have arrived.
func (s *sinkStore) repair() (string, error) { return "what was under way may have arrived", nil }

func (s *sinkStore) close() {
	for _, one := range s.sinks {
		one.close()
	}
}
