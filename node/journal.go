package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/server"
)

// processJournal is the journal of this process, with the number of signatures that the stop record states. Its methods
// accept a nil journal.
type processJournal struct {
	journal    *journal.Journal // nil: no journal is configured
	signatures *atomic.Int64    // made with the CA's key since the start
	changes    *changes
}

// changes forwards the journal's reports of changes by other processes to the auditor. Because the auditor is created
// after the journal, earlier reports are kept until then.
type changes struct {
	mu      sync.Mutex
	auditor *auditor // nil: not created yet
	early   []string // reports from before the auditor was created
}

func (c *changes) found(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.auditor != nil {
		c.auditor.journalChanged(what)
	} else if len(c.early) < 16 { // a bound; the auditor is created within a second
		c.early = append(c.early, what)
	}
}

// connect forwards the earlier reports to a, and every later one.
func (c *changes) connect(a *auditor) {
	if c == nil || a == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.auditor = a
	for _, what := range c.early {
		a.journalChanged(what)
	}
	c.early = nil
}

// copyTime is how long a stop waits until the receivers of journal copies have all records. The remaining records are
// sent after the next start.
const copyTime = 3 * time.Second

// openProcessJournal opens the journal of a configuration, if it has one.
func openProcessJournal(cfg *config.Config, log *slog.Logger) (j processJournal, err error) {
	j.signatures = new(atomic.Int64)
	if cfg.Audit == nil {
		return j, nil
	}
	o := journal.Options{Logger: log, Version: version.Read().Version, Digest: cfg.Digest}
	if wantsAuditor(cfg) { // the auditor keeps the alarm until an operator clears it
		j.changes = &changes{}
		o.Changed = j.changes.found
	}
	j.journal, err = journal.Open(cfg.Audit.Config, o)
	return j, err
}

// close writes the stop record. The CA's key MUST NOT be used afterwards.
func (j processJournal) close() error {
	if j.journal == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), copyTime)
	defer cancel()
	return j.journal.Close(ctx, int(j.signatures.Load()))
}

// trial writes a record that the CA's key is about to sign a test precertificate, which is discarded (C9), or what the
// text of in says.
func (j processJournal) trial(ctx context.Context, in ca.Intent) error {
	if j.journal == nil {
		return nil
	}
	return j.journal.Append(ctx, &journal.Record{
		Kind: journal.Trial, Serial: fmt.Sprintf("%040x", in.Serial), TBS: hex.EncodeToString(in.TBS[:]),
		IssuerKey: hex.EncodeToString(in.IssuerKeyHash[:]), Signatures: 1,
		Text: in.Text,
	})
}

// reloaded writes a record that another configuration is about to take effect, with the number of signatures so far.
func (j processJournal) reloaded(ctx context.Context, cfg *config.Config) error {
	if j.journal == nil {
		return nil
	}
	err := j.journal.Append(ctx, &journal.Record{
		Kind: journal.Reload, Config: cfg.Digest,
		Signatures: int(j.signatures.Load()),
	})
	if err != nil {
		return fmt.Errorf("audit: the journal record of the reload was not written: %w", err)
	}
	return nil
}

// note queues an event record. It does not wait until the record is written.
func (j processJournal) note(reason, text string) {
	if j.journal != nil {
		j.journal.Note(&journal.Record{Kind: journal.Event, Reason: reason, Text: text[:min(len(text), 1000)]})
	}
}

// check returns the journal's readiness check. If a journal is configured and cannot be written, the CA is not ready.
func (j processJournal) check() server.Check {
	return server.Check{Name: "journal", Ask: func() server.Health {
		if j.journal == nil {
			return server.Health{
				OK: true, Advisory: true,
				Warning: "the journal is missing: decisions are recorded in the log only",
			}
		}
		h := j.journal.Health()
		return server.Health{OK: h.OK, Warning: h.Warning, Cause: h.Cause}
	}}
}

// openJournal opens the journal and creates the auditor, which compares the journal with the logs.
func (n *Node) openJournal(registry *prometheus.Registry) (err error) {
	if n.journal, err = openProcessJournal(n.started, n.log); err != nil {
		return err
	}
	if n.auditor, err = newAuditor(n); err != nil {
		return errors.Join(err, n.journal.close())
	}
	n.journal.changes.connect(n.auditor)
	if j := n.journal.journal; j != nil {
		registry.MustRegister(j.Collectors()...)
	}
	if n.started.API.IdempotentRetry {
		n.rememberIssued(n.started.Audit.File)
	}
	registry.MustRegister(n.auditor.collectors()...)
	return nil
}

// rememberIssued reads the certificates of the last minutes from the journal, so that a client that repeats its request
// after a restart gets the same one. A record that cannot be read costs its client a new certificate, nothing else.
func (n *Node) rememberIssued(path string) {
	reader, err := journal.Tail(path, server.RetryRecords)
	if err == nil {
		defer reader.Close() //nolint:errcheck // it was only read
		err = reader.Drain(func(d *journal.Damage) { n.log.Warn("journal", "cause", d.Error()) },
			func(e journal.Entry) error { return n.server.Remember(&e.Record) })
	}
	if err != nil {
		n.log.Warn("certificates of the previous process are not returned again", "cause", err.Error())
	}
}
