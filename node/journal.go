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

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/prometheus/client_golang/prometheus"
)

// processJournal is the journal of this process, with the number of signatures that the stop record states. Its methods
// accept a nil journal.
type processJournal struct {
	journal    *journal.Journal // nil: there is none
	signatures *atomic.Int64    // by the CA's key, since the start
	changes    *changes
}

// changes passes on to the auditor what the journal reports as changed from outside. The auditor is made after the
// journal.
type changes struct {
	mu      sync.Mutex
	auditor *auditor // nil: there is none yet
	early   []string // that were found before there was one
}

func (c *changes) found(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.auditor != nil {
		c.auditor.journalChanged(what)
	} else if len(c.early) < 16 { // it is made within the second
		c.early = append(c.early, what)
	}
}

// connect has a told of what was found, and of what will be.
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

// copyTime is how long copies of the journal may catch up at the stop. What they miss they get after the next start.
const copyTime = 3 * time.Second

// openProcessJournal opens the journal of a configuration, if it has one.
func openProcessJournal(cfg *config.Config, log *slog.Logger) (j processJournal, err error) {
	j.signatures = new(atomic.Int64)
	if cfg.Audit == nil {
		return j, nil
	}
	o := journal.Options{Logger: log, Version: version.Read().Version, Digest: cfg.Digest}
	if wantsAuditor(cfg) { // it keeps the alarm until it is cleared
		j.changes = &changes{}
		o.Changed = j.changes.found
	}
	j.journal, err = journal.Open(cfg.Audit.Config, o)
	return j, err
}

// close writes the record of the stop. Nothing may be signed any more.
func (j processJournal) close() error {
	if j.journal == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), copyTime)
	defer cancel()
	return j.journal.Close(ctx, int(j.signatures.Load()))
}

// trial writes that the CA's key is about to sign a precertificate that goes nowhere (C9).
func (j processJournal) trial(ctx context.Context, in ca.Intent) error {
	if j.journal == nil {
		return nil
	}
	return j.journal.Append(ctx, &journal.Record{
		Kind: journal.Trial, Serial: fmt.Sprintf("%040x", in.Serial), TBS: hex.EncodeToString(in.TBS[:]),
		IssuerKey: hex.EncodeToString(in.IssuerKeyHash[:]), Signatures: 1,
	})
}

// reloaded writes that another configuration is about to take over, with the signatures so far.
func (j processJournal) reloaded(ctx context.Context, cfg *config.Config) error {
	if j.journal == nil {
		return nil
	}
	err := j.journal.Append(ctx, &journal.Record{
		Kind: journal.Reload, Config: cfg.Digest,
		Signatures: int(j.signatures.Load()),
	})
	if err != nil {
		return fmt.Errorf("audit: the reload was not written: %w", err)
	}
	return nil
}

// note queues an event record for operators, without waiting.
func (j processJournal) note(reason, text string) {
	if j.journal != nil {
		j.journal.Note(&journal.Record{Kind: journal.Event, Reason: reason, Text: text[:min(len(text), 1000)]})
	}
}

// check is the journal's line in the readiness report: where there is one, no certificate is issued without it.
func (j processJournal) check() server.Check {
	return server.Check{Name: "journal", Ask: func() server.Health {
		if j.journal == nil {
			return server.Health{
				OK: true, Advisory: true,
				Warning: "there is no journal: decisions are in the log only",
			}
		}
		h := j.journal.Health()
		return server.Health{OK: h.OK, Warning: h.Warning, Cause: h.Cause}
	}}
}

// openJournal opens the journal, and makes the auditor that compares it with the logs.
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
	registry.MustRegister(n.auditor.collectors()...)
	return nil
}
