package node

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/reconcile/webhook"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/tbs"
)

// auditor is the auditor of a running CA. A nil auditor is valid: its methods do nothing.
type auditor struct {
	*reconcile.Auditor
	hook    *webhook.Webhook // nil: no webhook is configured
	journal processJournal
	started *config.Config // the configuration of the start: a change of audit needs a restart
	log     *slog.Logger
	logs    atomic.Pointer[ctlog.Set] // the logs of the current configuration; nil with ct.none
	current atomic.Pointer[config.Config]
	running sync.WaitGroup
}

// wantsAuditor reports whether a configuration has an auditor and logs to audit.
func wantsAuditor(cfg *config.Config) bool {
	var settings *reconcile.Config
	if cfg.Audit != nil {
		settings = cfg.Audit.Reconcile
	}
	return settings.Period() != 0 && cfg.CT.None == nil
}

// newAuditor returns the auditor of a node; nil if its configuration has none.
func newAuditor(n *Node) (*auditor, error) {
	cfg := n.started
	a := &auditor{journal: n.journal, started: cfg, log: n.log}
	a.current.Store(cfg)
	var settings *reconcile.Config
	if cfg.Audit != nil {
		settings = cfg.Audit.Reconcile
	}
	if !wantsAuditor(cfg) {
		return nil, nil //nolint:nilnil // nil is valid, see auditor
	}
	o := reconcile.AuditorOptions{
		Every: settings.Period(), Lag: settings.LagOrDefault(), Logger: n.log, Raise: a.raise, Cleared: a.cleared,
		Quarantine: a.quarantine, Release: a.release,
		Commands: func(f reconcile.Finding) []string {
			return findingCommands{path: n.options.Path, config: a.current.Load(), alarms: true}.of(f)
		},
	}
	if cfg.Audit != nil && cfg.Audit.File != "" {
		file := cfg.Audit.File
		o.Journals = a.journals
		o.Load = func() ([]byte, error) { return reconcile.LoadState(file) }
		o.Save = func(data []byte) error { return reconcile.SaveState(file, data) }
		o.Orders = func() ([]reconcile.Order, error) { return reconcile.TakeOrders(file) }
	}
	if err := a.openWebhook(); err != nil {
		return nil, err
	}
	var err error
	if a.Auditor, err = reconcile.NewAuditor(o); err != nil {
		return nil, fmt.Errorf("audit.reconcile: %w", err)
	}
	return a, nil
}

func (a *auditor) openWebhook() error {
	cfg := a.started
	if cfg.Audit == nil || cfg.Audit.Alarm == nil || cfg.Audit.Alarm.Webhook == nil {
		return nil
	}
	w := cfg.Audit.Alarm.Webhook
	bearer, roots, err := webhookFiles(w)
	if err != nil {
		return fault.Under(err, "audit", "alarm", "webhook")
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	a.hook = webhook.New(webhook.Options{
		URL: w.URL, Bearer: string(bearer), Roots: roots, Instance: host, UserAgent: version.UserAgent(), Logger: a.log,
	})
	return nil
}

// webhookFiles reads the files that the settings of the webhook name. Its errors are [fault.Setting] values whose paths
// are relative to w.
func webhookFiles(w *reconcile.WebhookConfig) ([]byte, *x509.CertPool, error) {
	bearer, err := w.Bearer.Read()
	if err = fault.Under(err, "bearer"); err != nil {
		return nil, nil, err
	}
	roots, err := pemfile.LoadPool(w.CACert, "ca_cert")
	return bearer, roots, err
}

// inspectAudit returns the errors with which the journal or the auditor would fail to start. It changes nothing.
func inspectAudit(cfg *config.Config) error {
	if cfg.Audit == nil {
		return nil
	}
	errs := []error{fault.Under(cfg.Audit.Inspect(), "audit")}
	if !wantsAuditor(cfg) {
		return errors.Join(errs...)
	}
	if a := cfg.Audit.Alarm; a != nil && a.Webhook != nil {
		_, _, err := webhookFiles(a.Webhook)
		errs = append(errs, fault.Under(err, "audit", "alarm", "webhook"))
	}
	if cfg.Audit.File != "" {
		errs = append(errs, inspectState(cfg.Audit.File))
	}
	return errors.Join(errs...)
}

// inspectState checks the state file that an auditor keeps in the directory of a journal.
func inspectState(file string) error {
	path, err := reconcile.StatePath(file), reconcile.CheckState(file)
	var at *fs.PathError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &at):
		return fault.BadFile(path, err, "audit", "reconcile")
	}
	return fault.BadSetting(err.Error(), "", "audit", "reconcile").In(path)
}

// start starts the background work, which ends with ctx.
func (a *auditor) start(ctx context.Context) {
	if a == nil {
		return
	}
	a.running.Go(func() { a.Run(ctx) })
	if a.hook != nil {
		a.running.Go(func() { a.hook.Run(ctx) })
	}
}

// wait returns when the background work has ended.
func (a *auditor) wait() {
	if a != nil {
		a.running.Wait()
	}
}

// install makes the auditor use the logs and chains of s, and quarantines the logs of s that violated their merge
// obligation. It MUST be called before the first request that uses s. Logs are quarantined even if another step fails.
func (a *auditor) install(s *snapshot) {
	if a == nil {
		return
	}
	a.current.Store(s.config)
	a.logs.Store(s.logs) // stored first, so that every later finding quarantines a log of s
	for log, cause := range a.Quarantined() {
		a.quarantine(log, cause)
	}
	logs, err := auditedLogs(s.config)
	if err != nil {
		a.log.Error("the auditor continues with the previous logs", "cause", err.Error())
		return
	}
	issuers := []*x509.Certificate{s.files.chain[0]}
	for _, chain := range s.files.trust {
		issuers = append(issuers, chain[0])
	}
	a.Configure(reconcile.Scope{Logs: logs, Issuers: issuers})
}

// journals returns the journal of this process and those of other instances that exist.
func (a *auditor) journals() ([]reconcile.Journal, error) {
	cfg := a.started
	var patterns []string
	if cfg.Audit.Reconcile != nil {
		patterns = cfg.Audit.Reconcile.Journals
	}
	others, missing := reconcile.FindJournals(patterns)
	all, err := auditedJournals(cfg, others)
	return all, errors.Join(err, missing)
}

// raise writes a finding to the journal and sends it to the webhook. The auditor has written it to the log.
func (a *auditor) raise(_ context.Context, f reconcile.Finding) {
	if j := a.journal.journal; j != nil {
		j.Note(f.Record())
	}
	if a.hook != nil {
		a.hook.Send(webhook.Message{ID: f.ID, Finding: f, Droppable: f.Bounded()})
	}
}

// journalChanged raises the alarm that another process changed the journal. The alarm appears in the log, the metrics
// and the webhook at once; its journal record is written as soon as the journal can be written again.
func (a *auditor) journalChanged(what string) {
	a.JournalChanged(a.started.Audit.File, what)
}

// cleared logs and journals an operator's order that was applied.
func (a *auditor) cleared(_ context.Context, o reconcile.Order, closed []reconcile.Finding) {
	text := o.Text(closed)
	a.log.Warn("audit alarms were cleared by an operator", "what", o.Target(), "by", o.By, "count",
		len(closed), "text", text)
	if j := a.journal.journal; j != nil {
		j.Note(&journal.Record{Kind: journal.Event, Reason: "audit_cleared", Text: text})
	}
}

func (a *auditor) quarantine(log, cause string) {
	if s := a.logs.Load(); s != nil {
		s.Quarantine(log, cause)
	}
}

func (a *auditor) release(log string) {
	if s := a.logs.Load(); s != nil {
		s.Release(log)
	}
}

// granted passes an SCT to the auditor, unless there is a journal file, from which the auditor reads SCTs.
func (a *auditor) granted(g ctlog.Grant) {
	if a == nil || a.journal.journal != nil && a.started.Audit.File != "" {
		return
	}
	sct, err := tbs.ParseSCT(g.SCT)
	if err != nil {
		return // cannot happen: the SCT has been verified
	}
	a.AddSCT(reconcile.SCT{
		Log: sct.LogID, TBS: sha256.Sum256(g.Precertificate.Entry.TBS), Timestamp: sct.Timestamp,
		Extensions: sct.Extensions,
	})
}

// check returns the auditor's readiness check, which only warns. If too few logs remain because of quarantine, the
// check of the logs makes the CA unready.
func (a *auditor) check() []server.Check {
	if a == nil {
		return nil
	}
	return []server.Check{{Name: "audit", Ask: func() server.Health {
		warnings := a.Warnings()
		if a.hook != nil {
			if w := a.hook.Warning(); w != "" {
				warnings = append(warnings, w)
			}
		}
		return server.Health{OK: true, Advisory: true, Warning: strings.Join(warnings, "; ")}
	}}}
}

func (a *auditor) collectors() []prometheus.Collector {
	if a == nil {
		return nil
	}
	out := a.Collectors()
	if a.hook != nil {
		out = append(out, a.hook.Collectors()...)
	}
	return out
}
