package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/pop"
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
			for _, w := range warnings {
				log.Warn("configuration", "warning", w.String())
			}
			listeners, err := listen(cfg.Listen)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), instance{config: cfg, listeners: listeners, log: log})
		}),
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration file (required)")
	return cmd
}

// instance is one run of the CA.
type instance struct {
	config    *config.Config
	listeners server.Listeners
	log       *slog.Logger
	drain     time.Duration // how long requests under way may take after the stop; 0 is the server's default
	// ready is called once, beside the serving, when the CA can issue. Its error stops the CA. It may be nil.
	ready func(context.Context, *material) error
}

// serve runs the CA until ctx ends. It owns the listeners. It returns nil after an orderly stop.
func serve(ctx context.Context, in instance) (err error) {
	defer closeAll(in.listeners)
	loaded, err := load(in.config)
	if err != nil {
		return misconfigured(err)
	}
	registry := newRegistry()
	readiness := server.NewReadiness(time.Now)
	tiles := &lateHandler{}
	srv, err := server.New(server.Options{
		Logger: in.log, Readiness: readiness, Registry: registry, CT: tiles.orNil(in.config.CT.Embedded != nil),
		Limits: server.Limits{Drain: in.drain},
	})
	if err != nil {
		return err
	}
	srv.SetNotReady("starting")
	registry.MustRegister(srv.Collectors()...)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, in.listeners) }()
	logListeners(in.log, in.listeners)

	sys, err := assemble(ctx, in, loaded)
	if err != nil {
		cancel()
		return errors.Join(err, <-served)
	}
	defer func() { err = errors.Join(err, sys.close()) }()
	tiles.set(sys.embedded)
	registry.MustRegister(sys.collectors()...)
	sys.report(readiness)
	sys.start(ctx)
	srv.SetCore(sys.core(in.config))
	in.log.Info("ready", "issuer_count", len(sys.issuers.Issuers()), "log_count", sys.logCount(loaded),
		"chain", sys.authority.Chain()[0].Subject.String(), "config_digest", in.config.Digest)
	if in.ready != nil {
		if err := in.ready(ctx, loaded); err != nil {
			cancel()
			return errors.Join(err, <-served)
		}
	}
	return <-served
}

// system is the CA at work.
type system struct {
	issuers   *oidc.Verifier
	keys      *pop.Policy
	logs      *ctlog.Set // nil with ct.none
	embedded  *embedded.Log
	authority *ca.Authority
	noLog     string // the reason of ct.none
	root      *x509.Certificate
}

// assemble builds the parts from the loaded material, innermost first. The trial inside [ca.New] proves that they can issue.
func assemble(ctx context.Context, in instance, m *material) (_ *system, err error) {
	cfg := in.config
	s := &system{root: m.chain[len(m.chain)-1]}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.issuers, err = newVerifier(cfg, in.log); err != nil {
		return nil, misconfigured(err)
	}
	if cfg.CT.Embedded != nil {
		s.embedded, err = embedded.Open(ctx, *cfg.CT.Embedded, embedded.Options{Roots: m.roots(), Logger: in.log})
		if err != nil {
			return nil, fmt.Errorf("embedded log: %w", err)
		}
	}
	var log ca.Log // stays nil with ct.none
	if cfg.CT.None != nil {
		s.noLog = cfg.CT.None.Reason
	} else {
		if s.logs, err = in.newLogs(m, s.embedded); err != nil {
			return nil, misconfigured(err)
		}
		log = s.logs
	}
	s.authority, err = ca.New(ca.Options{
		Chain: m.chain, Signer: m.signer, Log: log, Trust: m.trust, Backdate: cfg.CA.BackdateOrDefault(), Logger: in.log,
	})
	if err != nil {
		return nil, misconfigured(err)
	}
	s.keys, err = pop.New(pop.Config{Algorithms: cfg.ClientAlgorithms}, pop.Options{Forbidden: m.ownKeys(s.embedded)})
	if err != nil {
		return nil, misconfigured(err)
	}
	return s, nil
}

// newVerifier builds what identifies callers. It asks nobody.
func newVerifier(cfg *config.Config, log *slog.Logger) (*oidc.Verifier, error) {
	return oidc.New(cfg.Issuers, oidc.Options{Logger: log, StateDir: cfg.StateDir, UserAgent: userAgent()})
}

// newLogs gathers remote and embedded logs under the one policy.
func (in instance) newLogs(m *material, e *embedded.Log) (*ctlog.Set, error) {
	members := make([]ctlog.Member, 0, len(m.logs)+1)
	for _, l := range m.logs {
		members = append(members, ctlog.Member{
			Name: l.config.Name, Key: l.remote.Key(), Submitter: l.remote, NotBefore: l.from, NotAfter: l.to, Operator: l.config.Operator,
		})
	}
	if e != nil {
		members = append(members, ctlog.Member{Name: "embedded", Key: e.Key(), Submitter: e})
	}
	return ctlog.New(ctlog.Options{Members: members, MinSCTs: in.config.CT.Policy.MinSCTs, Logger: in.log})
}

// start begins the background work, which ends with ctx.
func (s *system) start(ctx context.Context) {
	s.issuers.Start(ctx)
	if s.logs != nil {
		s.logs.Watch(ctx, s.root)
	}
}

// close waits for the background work and flushes the embedded log. Nothing that was promised is lost.
func (s *system) close() error {
	if s.issuers != nil {
		s.issuers.Wait()
	}
	if s.logs != nil {
		s.logs.Wait()
	}
	if s.embedded == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // the caller's context has ended by now
	defer cancel()
	if err := s.embedded.Close(ctx); err != nil {
		return fmt.Errorf("embedded log: %w", err)
	}
	return nil
}

func (s *system) core(cfg *config.Config) *server.Core {
	return &server.Core{Issuers: s.issuers, Keys: s.keys, Authority: s.authority, Generation: 1, Digest: cfg.Digest}
}

func (s *system) collectors() []prometheus.Collector {
	all := append(s.issuers.Collectors(), s.authority.Collectors()...)
	if s.logs != nil {
		all = append(all, s.logs.Collectors()...)
	}
	if s.embedded != nil {
		all = append(all, s.embedded.Collectors()...)
	}
	return all
}

// ownKeys are the keys that no certificate may be issued for.
func (m *material) ownKeys(e *embedded.Log) []crypto.PublicKey {
	var keys []crypto.PublicKey
	for _, chain := range append([][]*x509.Certificate{m.chain}, m.trust...) {
		for _, c := range chain {
			keys = append(keys, c.PublicKey)
		}
	}
	for _, l := range m.logs {
		keys = append(keys, l.remote.Key())
	}
	if e != nil {
		keys = append(keys, e.Key())
	}
	return keys
}

// listen opens the listeners of a configuration. The same address for REST and gRPC is one listener.
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
			return nil, fmt.Errorf("listen.%s: %s; change listen.%s in the configuration or free the address", key, listenProblem(address, err), key)
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
