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
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/reconcile/webhook"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/tbs"
)

// auditing is the auditor of a process. Its methods accept nil: then nothing is audited.
type auditing struct {
	auditor *reconcile.Auditor
	hook    *webhook.Webhook // nil: no webhook is configured
	journal processJournal
	started *config.Config
	log     *slog.Logger
	logs    atomic.Pointer[ctlog.Set] // in force; nil with ct.none
	current atomic.Pointer[config.Config]
	running sync.WaitGroup
}

// wantsAuditor reports whether a configuration asks for an auditor, and there are logs for it.
func wantsAuditor(cfg *config.Config) bool {
	var settings *reconcile.Config
	if cfg.Audit != nil {
		settings = cfg.Audit.Reconcile
	}
	return settings.Period() != 0 && cfg.CT.None == nil
}

// newAuditing makes the auditor that a configuration asks for; nil is none.
func newAuditing(n *Node) (*auditing, error) {
	cfg := n.started
	a := &auditing{journal: n.journal, started: cfg, log: n.log}
	a.current.Store(cfg)
	var settings *reconcile.Config
	if cfg.Audit != nil {
		settings = cfg.Audit.Reconcile
	}
	if !wantsAuditor(cfg) {
		return nil, nil //nolint:nilnil // nil is no auditor
	}
	o := reconcile.AuditorOptions{
		Every: settings.Period(), Lag: settings.LagOrDefault(), Logger: n.log, Raise: a.raise, Cleared: a.cleared,
		Quarantine: a.quarantine, Release: a.release,
		Commands: func(f reconcile.Finding) []string {
			return NextSteps{Path: n.options.Path, Config: a.current.Load(), alarms: true}.Commands(f)
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
	if a.auditor, err = reconcile.NewAuditor(o); err != nil {
		return nil, fmt.Errorf("audit.reconcile: %w", err)
	}
	return a, nil
}

func (a *auditing) openWebhook() error {
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

// webhookFiles reads what the settings of the webhook name; it errs with settings of w.
func webhookFiles(w *reconcile.WebhookConfig) ([]byte, *x509.CertPool, error) {
	bearer, err := w.Bearer.Read()
	if err = fault.Under(err, "bearer"); err != nil {
		return nil, nil, err
	}
	roots, err := loadRoots(w.CACert)
	if err != nil {
		return nil, nil, fault.Under(err, "ca_cert")
	}
	return bearer, roots, nil
}

// inspectAudit finds what would stop the journal and the auditor at the start, and changes nothing.
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

// inspectState checks the state that an auditor keeps beside a journal.
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

// start begins the background work, which ends with ctx.
func (a *auditing) start(ctx context.Context) {
	if a == nil {
		return
	}
	a.running.Go(func() { a.auditor.Run(ctx) })
	if a.hook != nil {
		a.running.Go(func() { a.hook.Run(ctx) })
	}
}

// wait returns when the background work has ended.
func (a *auditing) wait() {
	if a != nil {
		a.running.Wait()
	}
}

// install has the auditor follow the logs and chains of s, and keeps s from asking logs that broke a promise: it comes before the
// first request of s, and whatever else fails.
func (a *auditing) install(s *snapshot) {
	if a == nil {
		return
	}
	a.current.Store(s.config)
	a.logs.Store(s.logs) // first: what is found from here on is told to s
	for log, cause := range a.auditor.Quarantined() {
		a.quarantine(log, cause)
	}
	targets, err := TargetsOf(s.config)
	if err != nil {
		a.log.Error("the auditor goes on with the logs of before", "cause", err.Error())
		return
	}
	issuers := []*x509.Certificate{s.files.chain[0]}
	for _, chain := range s.files.trust {
		issuers = append(issuers, chain[0])
	}
	a.auditor.Configure(reconcile.Scope{Logs: targets, Issuers: issuers})
}

// journals returns the journal of this process and those of other instances that exist.
func (a *auditing) journals() ([]reconcile.Journal, error) {
	cfg := a.started
	var patterns []string
	if cfg.Audit.Reconcile != nil {
		patterns = cfg.Audit.Reconcile.Journals
	}
	others, missing := reconcile.FindJournals(patterns)
	all, err := JournalsOf(cfg, others)
	return all, errors.Join(err, missing)
}

// raise writes a finding to the journal and sends it to the webhook. The auditor has written it to the log.
func (a *auditing) raise(_ context.Context, f reconcile.Finding) {
	if j := a.journal.journal; j != nil {
		j.Note(f.Record())
	}
	if a.hook != nil {
		a.hook.Send(webhook.Message{ID: f.ID, Finding: f, Droppable: f.Bounded()})
	}
}

// journalChanged raises the alarm that somebody else changed the journal of this process. While the journal cannot be
// written, log, metrics and webhook have it, and the record of it is kept for when it can.
func (a *auditing) journalChanged(what string) {
	a.auditor.JournalChanged(a.started.Audit.File, what)
}

func (a *auditing) cleared(_ context.Context, o reconcile.Order, closed []reconcile.Finding) {
	text := o.Text(closed)
	a.log.Warn("audit alarms were cleared by an operator", "what", o.Target(), "by", o.By, "count", len(closed), "text", text)
	if j := a.journal.journal; j != nil {
		j.Note(&journal.Record{Kind: journal.Event, Reason: "audit_cleared", Text: text})
	}
}

func (a *auditing) quarantine(log, cause string) {
	if s := a.logs.Load(); s != nil {
		s.Quarantine(log, cause)
	}
}

func (a *auditing) release(log string) {
	if s := a.logs.Load(); s != nil {
		s.Release(log)
	}
}

// granted hears of each SCT. With a journal the auditor reads of it there.
func (a *auditing) granted(g ctlog.Grant) {
	if a == nil || a.journal.journal != nil && a.started.Audit.File != "" {
		return
	}
	sct, err := tbs.ParseSCT(g.SCT)
	if err != nil {
		return // it has been verified
	}
	a.auditor.AddSCT(reconcile.SCT{
		Log: sct.LogID, TBS: sha256.Sum256(g.Precertificate.Entry.TBS), Timestamp: sct.Timestamp, Extensions: sct.Extensions,
	})
}

// check is the auditor's line in the readiness report. It never takes the CA out of service: benched logs do, when too few are left.
func (a *auditing) check() []server.Check {
	if a == nil {
		return nil
	}
	return []server.Check{{Name: "audit", Ask: func() server.Health {
		warnings := a.auditor.Warnings()
		if a.hook != nil {
			if w := a.hook.Warning(); w != "" {
				warnings = append(warnings, w)
			}
		}
		return server.Health{OK: true, Advisory: true, Warning: strings.Join(warnings, "; ")}
	}}}
}

func (a *auditing) collectors() []prometheus.Collector {
	if a == nil {
		return nil
	}
	out := a.auditor.Collectors()
	if a.hook != nil {
		out = append(out, a.hook.Collectors()...)
	}
	return out
}
