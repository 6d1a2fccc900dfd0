package node

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/systemd"
	"github.com/mayfly-ca/mayfly/server"
)

// install puts s in force, as a whole: a request has either all of the old system or all of the new one.
func (n *Node) install(ctx context.Context, s *snapshot) {
	s.start(ctx)
	n.generation++
	old := n.current.Swap(s)
	n.auditor.install(s)
	n.server.SetCore(s.core(n))
	n.readiness.Replace(append(slices.Concat(s.checks(), n.chainCheck(s), n.auditor.check(), n.canaryCheck(s),
		n.usesChecks(), n.rekor.checks(s), n.tsaChecks(), n.findCheck(), n.tufChecks(s),
		[]server.Check{n.expiryCheck(), n.tlsCheck()}),
		server.Check{Name: "config", Ask: func() server.Health {
			return server.Health{OK: true, Advisory: true, Warning: n.reloadProblem.Load().(string)} //nolint:forcetypeassert // nothing else is stored
		}}))
	if old != nil {
		old.retire(s)
	}
	n.metrics.installed(n.generation, s.config.Digest)
	n.adopt(s.files.rotation)
	n.wakeConductor()
	n.wakeCounts()
	n.canary.Changed()
}

// wakeConductor has the conductor make a round now.
func (n *Node) wakeConductor() { wake(n.conducts) }

// wakeCounts has the metrics and readiness of what ends brought up to date.
func (n *Node) wakeCounts() { wake(n.counts) }

// wake sends to a channel with room for one value, if that is free.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Describe implements [prometheus.Collector] without descriptions, because the collectors change at a reload.
func (n *Node) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (n *Node) Collect(out chan<- prometheus.Metric) {
	if s := n.current.Load(); s != nil {
		for _, c := range append(s.collectors(), n.canaryCollectors(s)...) {
			c.Collect(out)
		}
		for _, c := range slices.Concat(n.usesCollectors(), n.tsaCollectors(), n.logCollectors(s)) {
			c.Collect(out)
		}
	}
}

// watch reloads on SIGHUP and when the content of a file changes, until ctx ends. Reloads are one after the other; what
// comes during one makes one more.
func (n *Node) watch(ctx context.Context, hangup <-chan os.Signal) {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() {
		known := func() map[string][32]byte { return *n.read.Load() }
		o := config.WatchOptions{Files: n.watched, Known: known, Again: n.reread, Logger: n.log}
		config.Watch(ctx, o, func() { wake(n.again) })
	})
	for {
		why := "SIGHUP"
		select {
		case <-ctx.Done():
			return
		case <-n.current.Load().shardChanges():
			n.reshard(ctx)
			continue
		case <-n.rekor.changes():
			n.reshard(ctx)
			continue
		case <-hangup:
		case <-n.again:
			why = "the files changed"
		}
		n.reload(ctx, why)
	}
}

// watched are the files whose changes cause a reload, including those of a configuration that could not be loaded.
func (n *Node) watched() []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(n.current.Load().config.Files,
		config.Named(n.options.Path)))))
}

// reload loads the configuration, builds a system from it and puts it in force. Whatever goes wrong, the system in
// force stays.
func (n *Node) reload(ctx context.Context, why string) {
	began := time.Now()
	n.tell(systemd.Reloading())
	defer func() { n.tell(systemd.Ready()) }()
	before := config.Contents(n.watched())
	next, waiting, err := n.prepare(ctx)
	n.read.Store(&before)
	defer func() { wake(n.reread) }() // when the files of the new configuration are watched
	if err == nil {
		err = n.journal.reloaded(ctx, next.config)
	}
	if stopped := (*stoppedError)(nil); errors.As(err, &stopped) {
		n.stop(stopped)
		return
	}
	if err != nil && n.followAlone(ctx, why, err) {
		return
	}
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		n.wakeConductor() // repeats the reload if the state file is ahead
		n.metrics.reloads.WithLabelValues("failure").Inc()
		n.reloadProblem.Store("the last reload failed, the configuration before it is in force: " + firstLine(err))
		n.log.Error("configuration not reloaded; the previous one stays in force", "why", why, "cause", err.Error())
		return
	}
	var texts []string
	for _, w := range waiting {
		texts = append(texts, w.String())
		n.log.Warn("configuration", "warning", w.String()+"; what was in force stays until then")
	}
	n.reloadProblem.Store(strings.Join(texts, "; "))
	n.install(ctx, next)
	n.metrics.reloads.WithLabelValues("success").Inc()
	n.log.Info("configuration reloaded", "why", why, "generation", n.generation, "config_digest", next.config.Digest,
		"issuer_count", len(next.issuers.Issuers()), "took", time.Since(began))
}

// prepare builds a system from the files as they are now. waiting are the settings that only a restart can change.
func (n *Node) prepare(ctx context.Context) (next *snapshot, waiting []config.Warning, err error) {
	cfg, warnings, err := config.Load(n.options.Path)
	if err != nil {
		return nil, nil, err
	}
	return n.prepareFrom(ctx, cfg, warnings)
}

// prepareFrom builds a system from a configuration and the files that it names, as they are now.
func (n *Node) prepareFrom(ctx context.Context, cfg *config.Config, warnings []config.Warning) (next *snapshot,
	waiting []config.Warning, err error,
) {
	old := n.current.Load()
	waiting = old.config.Restart(cfg)
	wants := cfg.CT.Embedded
	cfg.KeepUntilRestart(old.config)
	if n.auditor == nil && wantsAuditor(cfg) { // it started with ct.none
		waiting = append(waiting, cfg.Waits("there is no auditor", "audit", "reconcile"))
	}
	switch ct := cfg.CT; {
	case ct.None != nil && ct.Embedded != nil:
		return nil, nil, cfg.Locate(fault.BadSetting("the change from ct.embedded to ct.none needs a restart",
			"restart to apply it", "ct", "none"))
	case ct.None == nil && ct.Embedded == nil && len(ct.Logs) == 0 && wants != nil:
		return nil, nil, cfg.Locate(fault.BadSetting("the change to ct.embedded needs a restart",
			"restart to apply it", "ct", "embedded"))
	}
	m, err := n.loadFiles(ctx, cfg, old)
	if err != nil {
		return nil, nil, err
	}
	waiting = append(waiting, m.keepStamps(cfg, old.files)...)
	if next, err = n.assemble(ctx, cfg, m, old); err != nil {
		return nil, nil, errors.Join(err, closeKey(m, old))
	}
	warnings = append(warnings, m.warnings...)
	next.warnings = warnings
	for _, w := range warnings {
		if !slices.ContainsFunc(old.warnings, func(have config.Warning) bool { return have.Text == w.Text }) {
			n.log.Warn("configuration", "warning", w.String())
		}
	}
	return next, waiting, nil
}

// loadFiles loads the files of cfg. An ephemeral CA stays the one that it is. A chain that is replaced leaves the trust
// bundle unless ca.trust lists it: the bundle has what the configuration names and nothing else, so that it is the same
// before and after a restart, and a stolen key is out of it at once (C4).
func (n *Node) loadFiles(ctx context.Context, cfg *config.Config, old *snapshot) (_ *loadedFiles, err error) {
	if _, err := followState(cfg); err != nil {
		return nil, cfg.Locate(err)
	}
	name, backend := cfg.CA.Selected()
	var m *loadedFiles
	switch before, was := old.config.CA.Selected(); {
	case backend.Temporary() && (!was.Temporary() || name != before):
		return nil, cfg.Locate(fault.BadSetting("the change from a persistent key to an ephemeral one needs a restart",
			"restart to apply it", cfg.CA.At()...))
	case backend.Temporary():
		m, err = n.loadAroundTemporary(ctx, cfg, old.files.key)
	default:
		m, err = load(ctx, n.log, cfg)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeKey(m, old))
		}
	}()
	if err := cfg.Locate(n.follows(cfg, m.rotation)); err != nil {
		return nil, err
	}
	if err := m.narrowToPublished(cfg); err != nil {
		return nil, err
	}
	if _, err := m.timely(cfg, time.Now()); err != nil {
		return nil, cfg.Locate(err)
	}
	if m.trustedRoot != old.files.trustedRoot {
		for _, text := range m.skipped(cfg) {
			n.log.Warn("configuration", "warning", text)
		}
	}
	n.tellOfChains(m, old.files)
	m.former = old.files.former
	if !sameChain(m.chain, old.files.chain) {
		m.former = old.files.chain[len(old.files.chain)-1]
	}
	return m, nil
}

// loadAroundTemporary loads all but the temporary key, which stays the one in force.
func (n *Node) loadAroundTemporary(ctx context.Context, cfg *config.Config, key *signer.Key) (*loadedFiles, error) {
	second, warnings, err := openMLDSA(ctx, n.log, cfg, key.Chain)
	if err != nil {
		return nil, err
	}
	m, err := loadAround(cfg, openKeys{key, second}, nil)
	if err != nil {
		return nil, errors.Join(err, second.Close())
	}
	m.warnings = warnings
	return m, nil
}

// closeKey closes the keys of m that are not in force.
func closeKey(m *loadedFiles, inForce *snapshot) error {
	return errors.Join(closeUnless(m.key, inForce.files.key), closeUnless(m.mldsa, inForce.files.mldsa))
}

// closeUnless closes key, unless it is the one in force.
func closeUnless(key, inForce *signer.Key) error {
	if key == inForce {
		return nil
	}
	return key.Close()
}

// serves reports whether the trust bundle has chain.
func (f *loadedFiles) serves(chain []*x509.Certificate) bool {
	for _, have := range append([][]*x509.Certificate{f.chain}, f.trust...) {
		if sameChain(have, chain) {
			return true
		}
	}
	return false
}

func sameChain(a, b []*x509.Certificate) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}

func firstLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}

// reloadMetrics say which configuration is in force.
type reloadMetrics struct {
	generation prometheus.Gauge
	since      prometheus.Gauge
	info       *prometheus.GaugeVec
	reloads    *prometheus.CounterVec
	expiry     *prometheus.GaugeVec
}

func newReloadMetrics() *reloadMetrics {
	m := &reloadMetrics{
		generation: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_config_generation",
			Help: "Number of the configuration in force, from 1.",
		}),
		since: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_config_installed_timestamp_seconds",
			Help: "When the configuration in force took effect, in seconds since 1970.",
		}),
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mayfly_config_info", Help: "1, with the digest of the configuration in force.",
		}, []string{"digest"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_config_reloads_total",
			Help: "Reloads of the configuration, by result.",
		}, []string{"result"}),
		expiry: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mayfly_expiry_timestamp_seconds",
			Help: "When something that certificates or verifiers need ends, in seconds since 1970: a chain, the " +
				"parent of new chains, a log, the metadata of a TUF role.",
		}, []string{"kind", "name"}),
	}
	for _, result := range []string{"success", "failure"} {
		m.reloads.WithLabelValues(result)
	}
	return m
}

func (m *reloadMetrics) installed(generation uint64, digest string) {
	m.generation.Set(float64(generation))
	m.since.SetToCurrentTime()
	m.info.Reset()
	m.info.WithLabelValues(digest).Set(1)
}

func (m *reloadMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.generation, m.since, m.info, m.reloads, m.expiry}
}
