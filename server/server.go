package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/pop"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/server/admission"
)

// Core is what requests run on. A request uses the one that is in force when it begins, to its end.
type Core struct {
	Issuers    *oidc.Verifier
	Keys       *pop.Policy
	Authority  *ca.Authority
	Generation uint64 // counts configurations, from 1
	Digest     string // SHA-256 of the configuration, in hexadecimal
	NoLegacy   bool   // the older API (v1) is switched off
	// Journal is where decisions are written. Nil is nowhere.
	Journal *journal.Journal

	chain []string // the authority's chain as answers carry it, written once
}

// Limits bound what clients can take. A zero field has the default that its comment gives.
type Limits struct {
	Body        int64         // of a request, in bytes: 64 KiB
	Header      int           // of a request, in bytes: 32 KiB
	Request     time.Duration // from decoded request to answer: 20 s
	Drain       time.Duration // for running requests at the stop: 25 s
	Connections int           // open per listener: 4096, or as many as 1/8 of the memory limit has room for
	PerSource   int           // of them, of one source address (IPv4) or /64 (IPv6): 3/8 of Connections
	// requests that are being received: 4096, or as many as 1/8 of the memory limit has room for
	Streams int
}

// What a connection and a request that is being received cost at most, in bytes, and the bounds on how many of them 1/8
// of the memory limit is divided into.
const (
	connectionCost = 64 << 10
	streamCost     = 96 << 10 // a body of the largest size, buffers and a stack
	mostOpen       = 4096
	fewestOpen     = 256
)

// room is how many things of a cost 1/8 of the memory limit has room for.
func room(cost int64) int {
	return int(min(max(debug.SetMemoryLimit(-1)/8/cost, fewestOpen), mostOpen))
}

func (l Limits) withDefaults() Limits {
	l.Body = positive(l.Body, 64<<10)
	l.Header = positive(l.Header, 32<<10)
	l.Request = positive(l.Request, 20*time.Second)
	l.Drain = positive(l.Drain, 25*time.Second)
	l.Connections = positive(l.Connections, room(connectionCost))
	l.PerSource = min(positive(l.PerSource, max(1, l.Connections/8*3)), l.Connections)
	l.Streams = positive(l.Streams, room(streamCost))
	return l
}

func positive[N int | int64 | time.Duration](v, otherwise N) N {
	if v > 0 {
		return v
	}
	return otherwise
}

// Options for [New].
type Options struct {
	Logger    *slog.Logger          // nil: none
	CT        http.Handler          // read path of the embedded log, without the prefix /ct/; nil: none
	Readiness *Readiness            // nil: an empty one
	Registry  *prometheus.Registry  // for /metrics; nil: no such page
	Now       func() time.Time      // nil: time.Now
	Admission *admission.Controller // nil: one with the defaults
	Limits    Limits
	// Proxies are the proxies in front of the server whose X-Forwarded-For is believed. Without any, the address of the
	// peer counts.
	Proxies []netip.Prefix
	// Profiling serves profiles on the admin listener also where it is not a loopback address.
	Profiling bool
}

// Server speaks gRPC and REST.
type Server struct {
	log           *slog.Logger
	limits        Limits
	readiness     *Readiness
	metrics       *metrics
	admission     *admission.Controller
	proxies       admission.Proxies
	profiling     bool
	streams       *streams
	listening     *listening
	refusals      refusals
	identityLimit *identityLimit
	limited       refusals
	tooSlow       *fault.Error // the cause of a request that used up its time; never changed
	state         atomic.Pointer[state]
	stopping      chan struct{}
	began         time.Time
	running       atomic.Int64 // requests
	grpc          *grpc.Server
	http          http.Handler
	admin         http.Handler
}

// state is a core or the reason why there is none.
type state struct {
	core  *Core
	cause string
}

// New returns a server without a core: it answers NOT_READY until [Server.SetCore].
func New(o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Readiness == nil {
		o.Readiness = NewReadiness(o.Now)
	}
	if o.Admission == nil {
		o.Admission = admission.New(admission.Options{Now: o.Now})
	}
	s := &Server{
		log: o.Logger, limits: o.Limits.withDefaults(), readiness: o.Readiness, metrics: newMetrics(o.Admission),
		stopping: make(chan struct{}), admission: o.Admission,
		proxies: o.Proxies, profiling: o.Profiling, began: o.Now(),
	}
	s.identityLimit = newIdentityLimit(o.Now)
	s.streams, s.listening = newStreams(s.limits.Streams), newListening(s)
	s.tooSlow = fault.New(fault.NotReady, context.DeadlineExceeded, "cause", fmt.Sprintf("no certificate within %s", s.limits.Request))
	s.SetNotReady("starting")
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(int(s.limits.Body)),
		grpc.MaxHeaderListSize(uint32(s.limits.Header)), //nolint:gosec // our own small number
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ConnectionTimeout(headerTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: 5 * time.Minute, MaxConnectionAge: 30 * time.Minute,
			MaxConnectionAgeGrace: s.limits.Request + bodyTimeout,
			Time:                  pingAfter, Timeout: pingTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		// Thousands of connections may be idle: they do not need buffers of 64 KiB each.
		grpc.ReadBufferSize(grpcReadBuffer),
		grpc.InTapHandle(s.onStream),
	)
	all := registrar{s.grpc, s}
	fulciopb.RegisterCAServer(all, service{Server: s})
	grpc_health_v1.RegisterHealthServer(all, &healthService{server: s})
	reflection.Register(all)
	var err error
	if s.http, err = s.rest(o.CT); err != nil {
		return nil, err
	}
	s.admin = s.adminPages(o.Registry)
	return s, nil
}

// SetCore puts c in force for requests that begin from now on.
func (s *Server) SetCore(c *Core) {
	own := *c
	for _, cert := range c.Authority.Chain() {
		own.chain = append(own.chain, pemOf(cert.Raw))
	}
	s.state.Store(&state{core: &own})
}

// SetNotReady takes the core away. Clients read cause.
func (s *Server) SetNotReady(cause string) { s.state.Store(&state{cause: cause}) }

// HTTPHandler returns the REST API.
func (s *Server) HTTPHandler() http.Handler { return s.http }

// AdminHandler returns the pages for the operator: liveness, readiness, metrics, profiling.
func (s *Server) AdminHandler() http.Handler { return s.admin }

// Collectors returns the metrics of the server.
func (s *Server) Collectors() []prometheus.Collector {
	return append(s.metrics.collectors(), readinessCollector{s}, boundsCollector{s})
}

// Listeners are where a server listens; nil is nowhere. The same listener for HTTP and GRPC serves both on one port.
type Listeners struct {
	HTTP, GRPC, Admin net.Listener
}

// Close closes the listeners. Closing twice is harmless.
func (l Listeners) Close() {
	for _, one := range []net.Listener{l.HTTP, l.GRPC, l.Admin} {
		if one != nil {
			_ = one.Close() // it is closed either way
		}
	}
}

// streamWorkers is how many goroutines take gRPC requests one after the other; further requests get one of their own. A worker
// keeps the stack that the cryptography made grow.
const streamWorkers = 64

// How many requests are open over one connection of HTTP/2: native gRPC, and the one-port mode, where each costs more
// (RFC 9113 §6.5.2 recommends 100 at least).
const (
	maxStreams     = 256
	maxHTTPStreams = 128
)

// The bounds on slow clients (F3).
const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	idleTimeout   = 30 * time.Second

	writeTimeout = 15 * time.Second // for the peer to read what was written
	pingAfter    = 20 * time.Second // of silence on a connection of HTTP/2
	pingTimeout  = 10 * time.Second

	settleTime = 5 * time.Second

	grpcReadBuffer = 8 << 10
)

// Serve answers on l until ctx ends, then stops: readiness goes first, running requests get the drain time. It closes the
// listeners. It returns nil after an orderly stop. It is called once.
func (s *Server) Serve(ctx context.Context, l Listeners) error {
	failed := make(chan error, 3)
	var pages []*http.Server
	onePort := l.HTTP != nil && l.HTTP == l.GRPC
	running := 0
	serve := func(h *http.Server, at net.Listener, bounds *connections) {
		pages = append(pages, h)
		running++
		h.ConnContext = withConn
		go func() { failed <- orderly(h.Serve(bounds.listen(at))) }()
	}
	if l.HTTP != nil {
		h := s.httpServer(s.http)
		if onePort {
			h.Handler = s.both()
			h.Protocols = new(http.Protocols)
			h.Protocols.SetHTTP1(true)
			h.Protocols.SetUnencryptedHTTP2(true)
			h.HTTP2 = &http.HTTP2Config{
				MaxConcurrentStreams: maxHTTPStreams, SendPingTimeout: pingAfter, PingTimeout: pingTimeout,
				WriteByteTimeout: writeTimeout,
			}
		}
		serve(h, l.HTTP, s.listening.http)
	}
	if l.Admin != nil {
		h := s.httpServer(s.admin)
		h.WriteTimeout = 0 // profiles take as long as they are asked to
		serve(h, l.Admin, s.listening.admin)
	}
	native := l.GRPC != nil && !onePort
	if native {
		running++
		go func() { failed <- orderly(s.grpc.Serve(s.listening.grpc.listen(l.GRPC))) }()
	}
	background, cancel := context.WithCancel(ctx)
	defer cancel()
	var watching sync.WaitGroup
	watching.Go(func() { s.readiness.run(background) })
	watching.Go(func() { s.follow(background) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		running--
	}
	cancel()
	watching.Wait()
	s.log.Info("stopping", "drain", s.limits.Drain)
	s.stop(pages, native)
	for range running {
		err = errors.Join(err, <-failed)
	}
	s.settle()
	return err
}

// settle waits for requests whose connection was cut at the end of the drain time: what they write to the journal they write
// before the server has stopped (F11). Their contexts have ended, so that it does not take long.
func (s *Server) settle() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(settleTime); s.running.Load() > 0; <-tick.C {
		if time.Now().After(end) {
			s.log.Error("requests do not end", "count", s.running.Load())
			return
		}
	}
}

func orderly(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// stop lets running requests end, within the drain time. Where gRPC is served by the HTTP server (native is false),
// that server is shut down first: the library would end the requests that it has got from there, it does not know how
// to wait for them.
func (s *Server) stop(pages []*http.Server, native bool) {
	close(s.stopping)
	ctx, cancel := context.WithTimeout(context.Background(), s.limits.Drain)
	defer cancel()
	drained := make(chan struct{})
	graceful := func() {
		s.grpc.GracefulStop()
		close(drained)
	}
	if native {
		go graceful()
	}
	var closing sync.WaitGroup
	for _, h := range pages {
		closing.Go(func() {
			if err := h.Shutdown(ctx); err != nil {
				s.log.Warn("requests were still running at the end of the drain time", "drain", s.limits.Drain)
				_ = h.Close() // the connections that did not drain
			}
		})
	}
	closing.Wait()
	if !native {
		go graceful()
	}
	select {
	case <-drained:
	case <-ctx.Done():
		s.grpc.Stop()
		<-drained
	}
}

func (s *Server) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, WriteTimeout: bodyTimeout + s.limits.Request, IdleTimeout: idleTimeout,
		// The library allows 4096 bytes more than it is told.
		MaxHeaderBytes: s.limits.Header - 4096,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}
