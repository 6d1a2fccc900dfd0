package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server"
)

func newServe(o *common) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "serve --config FILE",
		Short:   "Run the certificate authority",
		Long:    "serve runs the CA that FILE describes until SIGINT or SIGTERM. \"mayfly config check\" says beforehand whether it would start.",
		Example: "  mayfly serve --config /etc/mayfly/mayfly.yaml",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			log, err := o.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if path == "" {
				return usage("--config is missing; write --config FILE (docs/config.md describes it, \"mayfly dev\" makes an example)")
			}
			cfg, warnings, err := config.Load(path)
			if err != nil {
				return misconfigured(err)
			}
			known := config.Contents(cfg.Files)
			m, err := prove(cmd.Context(), cfg)
			if err != nil {
				return misconfigured(err)
			}
			warnings = append(warnings, m.warnings...)
			for _, w := range warnings {
				log.Warn("configuration", "warning", w.String())
			}
			for _, text := range m.skipped(cfg) {
				log.Warn("configuration", "warning", text)
			}
			listeners, err := listen(cfg.Listen)
			if err != nil {
				return &stop{exitFailed, cfg.Locate(err)}
			}
			return serve(cmd.Context(), instance{path: path, known: known, warnings: warnings, config: cfg, material: m, listeners: listeners, log: log})
		}),
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration file (required)")
	return cmd
}

// instance is one run of the CA.
type instance struct {
	path      string              // of the configuration file; "": there is nothing to reload
	known     map[string][32]byte // what its files held when it was loaded
	warnings  []config.Warning
	config    *config.Config
	material  *material // what its files hold; nil: not loaded yet
	listeners server.Listeners
	log       *slog.Logger
	ledger    ledger
	auditing  *auditing     // nil: nothing is audited
	gate      *server.Gate  // set by serve
	drain     time.Duration // how long requests under way may take after the stop; 0 is the server's default
	// ready is called once, beside the serving, when the CA can issue. Its error stops the CA. It may be nil.
	ready func(context.Context, *material) error
	// publish is called when there are other shards of the embedded log, which verifiers need. It may be nil.
	publish func(*material) error
}

// serve runs the CA until ctx ends. It owns the listeners. It returns nil after an orderly stop.
func serve(ctx context.Context, in instance) (err error) {
	defer func() {
		if err != nil {
			in.log.Error("stopped", "cause", err.Error())
			return
		}
		in.log.Info("stopped")
	}()
	defer closeAll(in.listeners)
	tuneMemory(in.log)
	hangup := make(chan os.Signal, 1) // from here on it ends the process no more
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	signal.Ignore(syscall.SIGPIPE) // who reads standard output or standard error may go; the CA stays
	loaded := in.material
	if loaded == nil {
		if loaded, err = load(ctx, in.config); err != nil {
			return misconfigured(err)
		}
	}
	defer func() { err = errors.Join(err, loaded.key.Close()) }()
	in.gate = server.NewGate(server.GateOptions{Requests: in.config.Limits.Requests, Patience: in.config.Limits.Wait, Processors: tuneProcessors()})
	registry := newRegistry()
	readiness := server.NewReadiness(time.Now)
	tiles := &lateHandler{}
	srv, err := server.New(server.Options{
		Logger: in.log, Readiness: readiness, Registry: registry, CT: tiles.orNil(in.config.CT.Embedded != nil),
		Limits: server.Limits{
			Drain: in.drain, Connections: in.config.Limits.Connections,
			PerSource: in.config.Limits.ConnectionsPerSource,
		}, Gate: in.gate,
		Proxies: in.config.Listen.Proxies(), Profiling: in.config.Listen.Profiling,
	})
	if err != nil {
		return err
	}
	srv.SetNotReady("starting")
	registry.MustRegister(srv.Collectors()...)
	if err := in.openAccounts(registry); err != nil {
		return err
	}
	defer func() {
		in.auditing.wait()
		err = errors.Join(err, in.ledger.close())
	}()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, in.listeners) }()
	logListeners(in.log, in.listeners)

	sys, err := assemble(ctx, in, loaded, nil)
	if err != nil {
		cancel()
		return errors.Join(err, <-served)
	}
	sys.warnings = in.warnings
	op := newOperation(in, srv, readiness)
	defer func() { err = errors.Join(err, op.current.Load().close()) }()
	tiles.set(sys.embedded)
	registry.MustRegister(op)
	registry.MustRegister(op.metrics.collectors()...)
	op.install(ctx, sys)
	in.auditing.start(ctx)
	var watching sync.WaitGroup
	if in.path != "" {
		watching.Go(func() { op.watch(ctx, hangup) })
	}
	defer watching.Wait()
	defer cancel()
	in.log.Info("started", "issuer_count", len(sys.issuers.Issuers()), "log_count", sys.logCount(loaded),
		"chain", sys.authority.Chain()[0].Subject.String(), "config_digest", in.config.Digest)
	if in.ready != nil {
		if err := in.ready(ctx, loaded); err != nil {
			cancel()
			return errors.Join(err, <-served)
		}
	}
	return <-served
}

// openAccounts opens the journal, and makes the auditor that holds it against the logs.
func (in *instance) openAccounts(registry *prometheus.Registry) (err error) {
	if in.ledger, err = openLedger(*in); err != nil {
		return err
	}
	if in.auditing, err = newAuditing(*in); err != nil {
		return errors.Join(err, in.ledger.close())
	}
	in.ledger.changes.tell(in.auditing)
	if j := in.ledger.journal; j != nil {
		registry.MustRegister(j.Collectors()...)
	}
	registry.MustRegister(in.auditing.collectors()...)
	return nil
}

// listen opens the listeners of a configuration. The same address for REST and gRPC is one listener. It errs with a setting.
func listen(l config.Listen) (out server.Listeners, err error) {
	defer func() {
		if err != nil {
			closeAll(out)
		}
	}()
	open := func(key, address string) (net.Listener, error) {
		if address == "off" {
			return nil, nil
		}
		ln, err := net.Listen("tcp", address) //nolint:noctx // it does not wait
		if err != nil {
			return nil, fault.BadSetting(listenProblem(address, err), listenAdvice(err), "listen", key)
		}
		return ln, nil
	}
	if out.HTTP, err = open("http", l.HTTP); err != nil {
		return out, err
	}
	if l.GRPC == l.HTTP {
		out.GRPC = out.HTTP
	} else if out.GRPC, err = open("grpc", l.GRPC); err != nil {
		return out, err
	}
	out.Admin, err = open("admin", l.Admin)
	return out, err
}
