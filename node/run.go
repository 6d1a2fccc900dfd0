// Package node is a certificate authority that runs: it builds the parts that a configuration names, puts them in force
// together, replaces them at a reload, and reports whether they can issue.
package node

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

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/admission"
)

// Instance is one run of the CA.
type Instance struct {
	Path      string              // of the configuration file; "": there is nothing to reload
	Known     map[string][32]byte // what its files held when it was loaded
	Warnings  []config.Warning
	Config    *config.Config
	Material  *Material // what its files hold; nil: not loaded yet
	Listeners server.Listeners
	Log       *slog.Logger
	ledger    ledger
	auditing  *auditing             // nil: nothing is audited
	admission *admission.Controller // set by serve
	Drain     time.Duration         // how long requests under way may take after the stop; 0 is the server's default
	// Ready is called once, beside the serving, when the CA can issue. Its error stops the CA. It may be nil.
	Ready func(context.Context, *Material) error
	// Publish is called when there are other shards of the embedded log, which verifiers need. It may be nil.
	Publish func(*Material) error
}

// Serve runs the CA until ctx ends. It owns the listeners. It returns nil after an orderly stop.
func Serve(ctx context.Context, in Instance) (err error) {
	defer func() {
		if err != nil {
			in.Log.Error("stopped", "cause", err.Error())
			return
		}
		in.Log.Info("stopped")
	}()
	defer CloseAll(in.Listeners)
	tuneMemory(in.Log)
	hangup := make(chan os.Signal, 1) // from here on it ends the process no more
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	signal.Ignore(syscall.SIGPIPE) // who reads standard output or standard error may go; the CA stays
	loaded := in.Material
	if loaded == nil {
		if loaded, err = load(ctx, in.Config); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, loaded.key.Close()) }()
	in.admission = admission.New(admission.Options{Requests: in.Config.Limits.Requests, MaxWait: in.Config.Limits.Wait, Processors: tuneProcessors()})
	registry := newRegistry()
	readiness := server.NewReadiness(time.Now)
	tiles := &lateHandler{}
	srv, err := server.New(server.Options{
		Logger: in.Log, Readiness: readiness, Registry: registry, CT: tiles.orNil(in.Config.CT.Embedded != nil),
		Limits: server.Limits{
			Drain: in.Drain, Connections: in.Config.Limits.Connections,
			PerSource: in.Config.Limits.ConnectionsPerSource,
		}, Admission: in.admission,
		Proxies: in.Config.Listen.Proxies(), Profiling: in.Config.Listen.Profiling,
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
	go func() { served <- srv.Serve(ctx, in.Listeners) }()
	logListeners(in.Log, in.Listeners)

	sys, err := assemble(ctx, in, loaded, nil)
	if err != nil {
		cancel()
		return errors.Join(err, <-served)
	}
	sys.warnings = in.Warnings
	op := newOperation(in, srv, readiness)
	defer func() { err = errors.Join(err, op.current.Load().close()) }()
	tiles.set(sys.embedded)
	registry.MustRegister(op)
	registry.MustRegister(op.metrics.collectors()...)
	op.install(ctx, sys)
	in.auditing.start(ctx)
	var watching sync.WaitGroup
	if in.Path != "" {
		watching.Go(func() { op.watch(ctx, hangup) })
	}
	defer watching.Wait()
	defer cancel()
	in.Log.Info("started", "issuer_count", len(sys.issuers.Issuers()), "log_count", sys.logCount(loaded),
		"chain", sys.authority.Chain()[0].Subject.String(), "config_digest", in.Config.Digest)
	if in.Ready != nil {
		if err := in.Ready(ctx, loaded); err != nil {
			cancel()
			return errors.Join(err, <-served)
		}
	}
	return <-served
}

// openAccounts opens the journal, and makes the auditor that holds it against the logs.
func (in *Instance) openAccounts(registry *prometheus.Registry) (err error) {
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

// Listen opens the listeners of a configuration. The same address for REST and gRPC is one listener. It errs with a setting.
func Listen(l config.Listen) (out server.Listeners, err error) {
	defer func() {
		if err != nil {
			CloseAll(out)
		}
	}()
	open := func(key, address string) (net.Listener, error) {
		if address == "off" {
			return nil, nil
		}
		ln, err := net.Listen("tcp", address) //nolint:noctx // it does not wait
		if err != nil {
			return nil, fault.BadSetting(ListenProblem(address, err), listenAdvice(err), "listen", key)
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
