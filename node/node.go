// Package node runs a certificate authority from a configuration file. [Build] loads the file and everything that it
// names, tests that the CA can issue, and opens the listeners. [Node.Run] serves until its context ends: it builds one
// snapshot of the CA from each configuration, replaces it as a whole at a reload, and reports in /readyz whether the CA
// can issue. [Check] is Build without listeners, for "config check".
//
// A request MUST be served by one snapshot from its beginning to its end. A reload that fails MUST leave the snapshot
// in force as it is.
package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/canary"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/find"
	"github.com/mayfly-ca/mayfly/internal/systemd"
	"github.com/mayfly-ca/mayfly/rotation"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/admission"
	"github.com/mayfly-ca/mayfly/server/shared"
	"github.com/mayfly-ca/mayfly/server/uses"
	"github.com/mayfly-ca/mayfly/tlog"
	"github.com/mayfly-ca/mayfly/tracing"
	"github.com/mayfly-ca/mayfly/trust"
)

// Options say what to run.
type Options struct {
	Path   string // of the configuration file; it is watched, and read again at a reload
	Logger *slog.Logger
	// Listeners are served in place of those of the configuration. Optional. Build and Run close them.
	Listeners *server.Listeners
	Drain     time.Duration // how long a stop waits for requests under way; 0 is the server's default
	// Ready is called once, in Run, when the CA can issue. Its error stops the CA. Optional.
	Ready func(context.Context) error
	// Publish is called before Ready, and again when the embedded log has other shards, with the CA's chains and logs
	// for verifiers. Optional.
	Publish func(trust.Material) error
	// URL of the CA in what Publish is given.
	URL string
}

// Node is a CA that is ready to run, or runs.
type Node struct {
	options Options
	log     *slog.Logger
	// the configuration of the start; its listeners, journal and embedded log stay until a restart
	started   *config.Config
	read      atomic.Pointer[map[string][32]byte] // digests of the files when they were last read
	warnings  []config.Warning
	files     *loadedFiles
	listeners server.Listeners
	tls       server.TLS

	journal   processJournal
	logs      *tlog.Metrics // of the logs in this process
	rekor     *rekorLog     // nil: there is none
	auditor   *auditor      // nil: nothing is audited
	admission *admission.Controller
	canary    *canary.Canary
	stamper   *stamper    // nil: there is no timestamp authority
	find      *find.Index // nil: the logs are not indexed
	server    *server.Server
	readiness *server.Readiness
	metrics   *reloadMetrics

	uses          atomic.Pointer[uses.Local]     // of tokens; nil: none are counted
	shared        *shared.Store                  // nil: this process counts alone; set before the first snapshot
	current       atomic.Pointer[snapshot]       // in force
	generation    uint64                         // of the configuration in force, from 1
	chains        atomic.Pointer[rotation.State] // in force; nil: there is one chain, without a state file
	conducting    atomic.Pointer[string]         // why the conductor could not do its work; "": it could
	ending        atomic.Pointer[string]         // what ends soon; "": nothing
	warnedAt      time.Time                      // when the log said last what ends soon
	reloadProblem atomic.Value                   // string: why the files are not what is in force; "": they are
	conducts      chan struct{}                  // another snapshot is in force, for the conductor
	counts        chan struct{}                  // likewise, for what is said about expiry
	again         chan struct{}                  // a reload is wanted
	reread        chan struct{}                  // the files were read again
	requests      *requests                      // of the conductor
	tracer        *tracing.Tracer                // nil: nothing is traced
	tuf           *tufKeeper

	ctHandler, tsaHandler lateHandler // of the embedded log and of the timestamp authority
}

// Build loads the configuration and all that it names, proves with a trial that the CA can issue, and opens the
// listeners. What is wrong with a configuration is [config.Problems]; an address that cannot be listened on is a
// [ListenError].
func Build(ctx context.Context, o Options) (_ *Node, err error) {
	n := newNode(o)
	if o.Listeners != nil {
		n.listeners = *o.Listeners
	}
	defer func() {
		if err != nil {
			n.listeners.Close()
		}
	}()
	if n.started, n.warnings, err = config.Load(o.Path); err != nil {
		return nil, err
	}
	n.read.Store(new(config.Contents(n.started.Files)))
	if n.files, err = loadAndTest(ctx, n.log, n.started); err != nil {
		return nil, err
	}
	n.warnings = append(n.warnings, n.files.warnings...)
	for _, w := range n.warnings {
		n.log.Warn("configuration", "warning", w.String())
	}
	for _, text := range n.files.skipped(n.started) {
		n.log.Warn("configuration", "warning", text)
	}
	if n.tls, err = openTLS(n.started, n.log); err != nil {
		return nil, errors.Join(err, n.files.close())
	}
	if o.Listeners == nil {
		if n.listeners, err = openListeners(n.started); err != nil {
			return nil, errors.Join(err, n.files.close())
		}
	}
	return n, nil
}

func newNode(o Options) *Node {
	n := &Node{
		options: o, log: o.Logger, readiness: server.NewReadiness(time.Now), metrics: newReloadMetrics(),
		logs:  tlog.NewMetrics(),
		again: make(chan struct{}, 1), reread: make(chan struct{}, 1),
		conducts: make(chan struct{}, 1), counts: make(chan struct{}, 1),
		requests: newRequests(time.Now), tuf: newTUFKeeper(),
	}
	n.reloadProblem.Store("")
	return n
}

// Run serves until ctx ends. It returns nil after an orderly stop. It is called once.
func (n *Node) Run(ctx context.Context) (err error) {
	began := time.Now()
	defer func() {
		total := []any{"uptime", time.Since(began), "requests", n.served()}
		if err != nil {
			n.log.Error("stopped", append(total, "cause", err.Error())...)
			return
		}
		n.log.Info("stopped", total...)
	}()
	defer n.listeners.Close()
	defer func() { err = errors.Join(err, n.files.close()) }()
	if err := n.openTracer(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.tracer.Close()) }()
	tuneMemory(n.log)
	hangup := make(chan os.Signal, 1) // SIGHUP reloads from here on, and does not end the process
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	signal.Ignore(syscall.SIGPIPE) // the CA goes on when the reader of its standard output ends

	if err := n.openFind(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.find.Close()) }()
	registry := newRegistry()
	if err := n.newServer(registry); err != nil {
		return err
	}
	if err := n.openJournal(registry); err != nil {
		return err
	}
	defer func() {
		n.auditor.wait()
		err = errors.Join(err, n.journal.close())
	}()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- n.server.Serve(ctx, n.listeners) }() // /readyz answers while the CA starts
	logListeners(n.log, n.listeners)

	defer func() {
		n.shared.Close()
		err = errors.Join(err, n.uses.Load().Close())
	}()
	if err := n.openShared(ctx); err != nil {
		cancel()
		return errors.Join(err, <-served)
	}
	defer func() { err = errors.Join(err, n.rekor.close()) }()
	if err := n.rekor.open(ctx); err != nil {
		cancel()
		return errors.Join(err, <-served)
	}
	first, err := n.assemble(ctx, n.started, n.files, nil)
	if err != nil {
		cancel()
		return errors.Join(err, <-served)
	}
	first.warnings = n.warnings
	defer func() { err = errors.Join(err, n.current.Load().close()) }()
	if first.embedded != nil {
		n.ctHandler.set(first.embedded.Handler())
	}
	defer func() { err = errors.Join(err, n.stamper.close()) }()
	if err := n.openTSA(ctx); err != nil {
		cancel()
		return errors.Join(err, <-served)
	}
	registry.MustRegister(n)
	registry.MustRegister(append(n.metrics.collectors(), n.requests.seconds, n.tuf.since)...)
	n.install(ctx, first)
	n.auditor.start(ctx)
	var watching sync.WaitGroup
	if n.find != nil {
		registry.MustRegister(n.find.Collectors()...)
		watching.Go(func() { n.find.Run(ctx) })
	}
	watching.Go(func() { n.watch(ctx, hangup) })
	watching.Go(func() { n.conduct(ctx) })
	watching.Go(func() { n.keepTUF(ctx) })
	watching.Go(func() { n.keepTLS(ctx) })
	watching.Go(func() { n.keepWatchdog(ctx) })
	watching.Go(func() { n.canary.Run(ctx) })
	if n.stamper != nil {
		watching.Go(func() { n.stamper.authority.Run(ctx) })
	}
	defer watching.Wait()
	defer cancel()
	n.log.Info("started", "issuer_count", len(first.issuers.Issuers()), "log_count", first.logCount(),
		"chain", first.authority.Chain()[0].Subject.String(), "config_digest", n.started.Digest)
	n.tell(systemd.Ready())
	context.AfterFunc(ctx, func() { n.tell(systemd.Stopping()) })
	if err := n.ready(ctx, first); err != nil {
		cancel()
		return errors.Join(err, <-served)
	}
	return <-served
}

// ready tells the caller of Build that the CA can issue.
func (n *Node) ready(ctx context.Context, s *snapshot) error {
	if err := n.publish(s); err != nil {
		return err
	}
	if n.options.Ready == nil {
		return nil
	}
	return n.options.Ready(ctx)
}

func (n *Node) publish(s *snapshot) error {
	if n.options.Publish == nil {
		return nil
	}
	material, err := s.files.trustMaterial(s.config, n.options.URL)
	if err != nil {
		return s.config.Locate(err)
	}
	return n.options.Publish(material)
}

// served returns how many requests were answered.
func (n *Node) served() int64 {
	if n.server == nil {
		return 0 // the start has failed
	}
	return n.server.Served()
}
