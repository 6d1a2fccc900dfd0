// Package ship sends records of the journal elsewhere: to standard output, a syslog receiver or an OpenTelemetry
// collector.
//
// The input is messages: the lines of a journal in order, exactly as in its file. Each receiver gets the same bytes,
// every record at least once and in order; the sequence number in the record identifies repetitions. Every attempt MUST
// end within [sendTimeout], every answer that is read MUST have a size limit, and every failure MUST be counted and
// logged.
//
// A journal with a file is copied from that file ([Receivers.Follow]): each copy has a cursor in a file beside the
// journal, so that an outage of a receiver delays no certificate and a restart loses no record. A journal without a
// file has only the receivers ([Receivers.Deliver]): a record counts when each of them has accepted it.
//
// To add a kind of receiver, write its receiver in a file of its own, and in config.go its settings, with the methods
// of [kind], and a row of [Config.kinds].
package ship

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// Message is a record of the journal to be sent to a receiver.
type Message struct {
	Line     []byte // the line of the journal, without the line feed
	Seq      uint64
	Time     time.Time
	Severity Severity

	Kind, Result, Reason, Serial, RequestID string
}

// Severity is a severity of RFC 5424 table 2.
type Severity int

// The severities that are used.
const (
	Alert   Severity = 1
	Warning Severity = 4
	Notice  Severity = 5
)

const (
	sendTimeout = 5 * time.Second
	maxBatch    = 256       // messages in one batch
	maxBatchLen = 512 << 10 // bytes in one batch; the message that exceeds this is its last
)

// receiver is a destination of messages. It is used by one goroutine at a time.
type receiver interface {
	// send returns nil when the receiver has accepted the whole batch, as far as its protocol tells. A batch that
	// failed is sent again as a whole.
	send(ctx context.Context, batch []Message) error
	// close closes the connection, if there is one.
	close()
}

// kind is the configuration of one kind of receiver.
type kind interface {
	// check finds wrong settings without opening a file or a socket. durable means that the journal has a file.
	check(durable bool) error
	// open reads what the settings name. It does not connect.
	open(stdout io.Writer) (receiver, error)
}

// namedKind is a configured receiver with its name: the key in the configuration, the label "sink" of the metrics, and
// the end of the name of the cursor's file.
type namedKind struct {
	name string
	kind kind
	// fromNow means that a copy without a cursor begins with the next record, not with the oldest one.
	fromNow bool
}

// Receivers are the open receivers of one journal.
type Receivers struct{ all []namedReceiver }

type namedReceiver struct {
	namedKind
	receiver
}

// Open opens the configured receivers. None connects before it has something to send. Errors are [fault.Setting]
// values.
func Open(c Config, stdout io.Writer) (*Receivers, error) {
	out := &Receivers{}
	for _, k := range c.kinds() {
		r, err := k.kind.open(stdout)
		if err != nil {
			out.Close()
			return nil, fault.Under(err, k.name)
		}
		out.all = append(out.all, namedReceiver{k, r})
	}
	return out, nil
}

// Deliver returns nil when every receiver has accepted the whole batch.
func (r *Receivers) Deliver(batch []Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	for _, one := range r.all {
		if err := one.send(ctx, batch); err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
	}
	return nil
}

// Close closes all connections.
func (r *Receivers) Close() {
	for _, one := range r.all {
		one.close()
	}
}

// errRejected means that a receiver works, but does not accept some of the records. Sending them again would not help.
var errRejected = errors.New("the collector rejected records")
