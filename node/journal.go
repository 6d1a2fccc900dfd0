package node

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/server"
)

// ledger is the journal of a process and the account that it closes with. Its methods are for a nil journal, too.
type ledger struct {
	journal    *journal.Journal // nil: there is none
	signatures *atomic.Int64    // by the CA's key, since the start
	changes    *changes
}

// changes brings what the journal finds changed to the auditor, which is made after it.
type changes struct {
	mu      sync.Mutex
	auditor *auditing // nil: there is none yet
	early   []string  // that were found before there was one
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

// tell has a told of what was found, and of what will be.
func (c *changes) tell(a *auditing) {
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

// openLedger opens the journal of a configuration, if it has one.
func openLedger(in Instance) (l ledger, err error) {
	l.signatures = new(atomic.Int64)
	if in.Config.Audit == nil {
		return l, nil
	}
	o := journal.Options{Logger: in.Log, Version: version.Read().Version, Digest: in.Config.Digest}
	if wantsAuditor(in.Config) { // it keeps the alarm until it is cleared
		l.changes = &changes{}
		o.Changed = l.changes.found
	}
	l.journal, err = journal.Open(in.Config.Audit.Config, o)
	return l, err
}

// close writes the record of the stop. Nothing may be signed any more.
func (l ledger) close() error {
	if l.journal == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), copyTime)
	defer cancel()
	return l.journal.Close(ctx, int(l.signatures.Load()))
}

// trial writes that the CA's key is about to sign a precertificate that goes nowhere (C9).
func (l ledger) trial(ctx context.Context, in ca.Intent) error {
	if l.journal == nil {
		return nil
	}
	return l.journal.Append(ctx, &journal.Record{
		Kind: journal.Trial, Serial: fmt.Sprintf("%040x", in.Serial), TBS: hex.EncodeToString(in.TBS[:]),
		IssuerKey: hex.EncodeToString(in.IssuerKeyHash[:]), Signatures: 1,
	})
}

// reloaded writes that another configuration is about to take over, with the signatures so far.
func (l ledger) reloaded(ctx context.Context, cfg *config.Config) error {
	if l.journal == nil {
		return nil
	}
	err := l.journal.Append(ctx, &journal.Record{Kind: journal.Reload, Config: cfg.Digest, Signatures: int(l.signatures.Load())})
	if err != nil {
		return fmt.Errorf("audit: the reload was not written: %w", err)
	}
	return nil
}

// note writes what an operator should know, without waiting.
func (l ledger) note(reason, text string) {
	if l.journal != nil {
		l.journal.Note(&journal.Record{Kind: journal.Event, Reason: reason, Text: text[:min(len(text), 1000)]})
	}
}

// check is the journal's line in the readiness report: where there is one, no certificate is issued without it.
func (l ledger) check() server.Check {
	return server.Check{Name: "journal", Ask: func() server.Health {
		if l.journal == nil {
			return server.Health{OK: true, Advisory: true, Warning: "there is no journal: decisions are in the log only"}
		}
		h := l.journal.Health()
		return server.Health{OK: h.OK, Warning: h.Warning, Cause: h.Cause}
	}}
}
