package ship

import (
	"bytes"
	"context"
	"errors"
	"io"
)

// stdoutConfig is standard output, which has no settings.
type stdoutConfig struct{}

func (stdoutConfig) check(bool) error { return nil }

func (stdoutConfig) open(out io.Writer) (receiver, error) { return &stdoutReceiver{out: out}, nil }

// stdoutReceiver writes lines to a stream. A write to a pipe that no process reads cannot be cancelled. Such a write
// continues in a goroutine after send has returned. The next call of send waits for it first; if the batch is the same,
// its result is used instead of a second write.
type stdoutReceiver struct {
	out     io.Writer
	pending chan error // result of the write in progress; nil: there is none
	last    uint64     // sequence number of that write's last record
}

func (s *stdoutReceiver) send(ctx context.Context, batch []Message) error {
	last := batch[len(batch)-1].Seq
	for {
		same := s.pending != nil && s.last == last
		if s.pending == nil {
			var b bytes.Buffer
			for _, m := range batch {
				b.Write(m.Line)
				b.WriteByte('\n')
			}
			pending := make(chan error, 1)
			go func() {
				_, err := s.out.Write(b.Bytes())
				pending <- err
			}()
			s.pending, s.last, same = pending, last, true
		}
		select {
		case err := <-s.pending:
			s.pending = nil
			if same {
				return err
			}
		case <-ctx.Done():
			return errors.New("no process reads standard output")
		}
	}
}

func (s *stdoutReceiver) close() {}
