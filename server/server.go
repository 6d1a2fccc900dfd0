package server

import (
	"context"
	"crypto/mldsa"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
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
	"google.golang.org/grpc/credentials"
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
	"github.com/mayfly-ca/mayfly/server/servertls"
	"github.com/mayfly-ca/mayfly/tracing"
)

// Core is what serves requests. A request uses the core that is in force when it begins, to its end.
type Core struct {
	Issuers   *oidc.Verifier
	Keys      *pop.Policy
	Authority *ca.Authority
	// MLDSA issues in place of Authority for clients whose own key is an ML-DSA key. Optional.
	MLDSA *ca.Authority
	// Preview and PreviewMLDSA take the place of Authority and MLDSA in a server that only shows what the CA would
	// answer: they have no key. Authority and MLDSA are nil then.
	Preview, PreviewMLDSA *ca.Previewer

	Generation uint64 // number of the loaded configuration, from 1
	Digest     string // SHA-256 of the configuration, in hexadecimal
	NoLegacy   bool   // the older API (v1) is switched off
	// IdempotentRetry: a request that is repeated with the same token and key gets the same certificate again.
	IdempotentRetry bool
	// Journal receives the decisions. Nil means that none are recorded.
	Journal *journal.Journal
	Rates   Rates
	// Uses counts the uses of tokens. Nil if no issuer entry limits them.
	Uses UseCounter
	// SharedRates counts requests under limits.issuer and limits.identity for several servers. Nil: this process counts
	// alone.
	SharedRates RateCounter

	chain, mldsaChain []string // the chains of both in PEM, encoded once
}

// issuerFor returns who issues certificates for a key, or who previews them, and the chain in PEM.
func (c *Core) issuerFor(key pop.Key) (*ca.Authority, *ca.Previewer, []string) {
	if _, isMLDSA := key.Public.(*mldsa.PublicKey); isMLDSA && (c.MLDSA != nil || c.PreviewMLDSA != nil) {
		return c.MLDSA, c.PreviewMLDSA, c.mldsaChain
	}
	return c.Authority, c.Preview, c.chain
}

// bundle returns every chain that a verifier may need, the active one first.
func (c *Core) bundle() [][]*x509.Certificate {
	if c.Preview != nil {
		return [][]*x509.Certificate{c.Preview.Chain()}
	}
	return c.Authority.Bundle()
}

// Limits bound the resources of clients. The comment of each field gives the default for zero.
type Limits struct {
	Body        int64         // of a body, in bytes: [DefaultBody]
	Header      int           // of a header, in bytes: [DefaultHeader]
	Request     time.Duration // from decoded request to answer: [DefaultRequest]
	Drain       time.Duration // for running requests when the server stops: [DefaultDrain]
	DrainDelay  time.Duration // from the end of readiness to the end of the listeners, when the server stops: 0
	Age         time.Duration // of a connection, plus or minus a tenth: [DefaultAge]
	Connections int           // open per listener: 4096, or as many as 1/8 of the memory limit has room for
	PerSource   int           // of these, from one source address (IPv4) or /64 (IPv6): 3/8 of Connections
	// requests that are being received: 4096, or as many as 1/8 of the memory limit has room for
	Streams int
}

// The defaults of [Limits]. Those of Connections, PerSource and Streams depend on the memory limit.
const (
	DefaultBody    = 64 << 10
	DefaultHeader  = 32 << 10
	DefaultRequest = 20 * time.Second
	DefaultDrain   = 25 * time.Second
	DefaultAge     = 30 * time.Minute
)

// The maximum cost of a connection and of a request that is being received, in bytes, and the range of their number,
// which 1/8 of the memory limit determines.
const (
	connectionCost = 64 << 10
	streamCost     = 96 << 10 // a body of the largest size, buffers and a stack
	mostOpen       = 4096
	fewestOpen     = 256
)

// room returns how often a cost in bytes fits into 1/8 of the memory limit, within the range.
func room(cost int64) int {
	return int(min(max(debug.SetMemoryLimit(-1)/8/cost, fewestOpen), mostOpen))
}

func (l Limits) withDefaults() Limits {
	l.Body = positive(l.Body, DefaultBody)
	l.Header = positive(l.Header, DefaultHeader)
	l.Request = positive(l.Request, DefaultRequest)
	l.Drain = positive(l.Drain, DefaultDrain)
	l.Age = positive(l.Age, DefaultAge)
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
	Services  []Service             // other APIs on the listeners
	Readiness *Readiness            // nil: an empty one
	Registry  *prometheus.Registry  // for /metrics; nil: /metrics is not served
	Now       func() time.Time      // nil: time.Now
	Admission *admission.Controller // nil: a controller with the defaults
	Limits    Limits
	// Proxies are the proxies in front of the server whose X-Forwarded-For is trusted. If there are none, the address
	// of the peer counts.
	Proxies []netip.Prefix
	TLS     TLS
	// ProxyProtocol says that each connection of a proxy begins with a header of the PROXY protocol.
	ProxyProtocol bool
	// Forwarded says that proxies report the client in Forwarded (RFC 7239), and not in X-Forwarded-For.
	Forwarded bool
	// OnReadiness is called when the server becomes ready, with "", and when it is no longer ready, with the cause.
	// Optional.
	OnReadiness func(cause string)
	// Canary is the admin page /canary; nil: there is none.
	Canary http.Handler
	// Profiling allows profiles on the admin listener even if its address is not loopback.
	Profiling bool
	Tracer    *tracing.Tracer // nil: requests are not traced
	// FulcioMetrics also serves Fulcio's metrics under their original names.
	FulcioMetrics bool
}

// Server serves the API over gRPC and REST.
type Server struct {
	log           *slog.Logger
	limits        Limits
	readiness     *Readiness
	metrics       *metrics
	admission     *admission.Controller
	proxies       admission.Proxies
	profiling     bool
	tls           TLS
	proxyProtocol bool
	forwarded     bool
	streams       *streams
	listening     *listening
	refusals      refusals
	identityLimit *identityLimit
	retries       *retries
	services      services
	rates         *rates
	limited       refusals
	tooSlow       *fault.Error // the cause when a request exceeds its time; never changed
	state         atomic.Pointer[state]
	stopping      chan struct{} // closed when the server is to stop, and is no longer ready
	closing       chan struct{} // closed when it stops to listen
	handshakes    *handshakes
	began         time.Time
	running       atomic.Int64 // requests
	served        atomic.Int64 // requests that were answered
	followed      atomic.Int64 // when readiness was last evaluated, in Unix nanoseconds
	onReadiness   func(cause string)
	tracer        *tracing.Tracer
	fulcio        *fulcioMetrics // nil: not served
	grpc          *grpc.Server
	http          http.Handler
	admin         http.Handler
}

// state is a core, or the reason why there is none.
type state struct {
	core  *Core
	cause string
	ended chan struct{} // closed when the start has ended; nil: the server is not starting
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
		stopping: make(chan struct{}), closing: make(chan struct{}), handshakes: newHandshakes(),
		admission: o.Admission,
		proxies:   o.Proxies, profiling: o.Profiling, tls: o.TLS,
		proxyProtocol: o.ProxyProtocol, forwarded: o.Forwarded, began: o.Now(), tracer: o.Tracer,
	}
	s.services = newServices(o.Services)
	if o.FulcioMetrics {
		s.fulcio = newFulcioMetrics(s.metrics)
	}
	if s.onReadiness = o.OnReadiness; s.onReadiness == nil {
		s.onReadiness = func(string) {}
	}
	s.identityLimit, s.retries, s.rates = newIdentityLimit(o.Now), newRetries(o.Now), newRates(o.Now)
	s.streams, s.listening = newStreams(s.limits.Streams), newListening(s)
	s.tooSlow = fault.New(fault.NotReady, context.DeadlineExceeded, "cause",
		fmt.Sprintf("no certificate within %s", s.limits.Request))
	s.SetNotReady("starting")
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(int(s.limits.Body)),
		grpc.MaxHeaderListSize(uint32(s.limits.Header)), //nolint:gosec // our own small number
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ConnectionTimeout(headerTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: 5 * time.Minute, MaxConnectionAge: s.limits.Age,
			MaxConnectionAgeGrace: s.limits.Request + bodyTimeout,
			Time:                  pingAfter, Timeout: pingTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             10 * time.Second,
			PermitWithoutStream: true,
		}),
		// Thousands of connections may be idle: buffers of 64 KiB each are not needed.
		grpc.ReadBufferSize(grpcReadBuffer),
		grpc.InTapHandle(s.onStream),
	}
	if s.tls.API != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(s.handshakes.bound(s.tls.API.Config(servertls.HTTP2)))))
	}
	s.grpc = grpc.NewServer(options...)
	all := registrar{s.grpc, s}
	for _, one := range o.Services {
		if one.Register != nil {
			one.Register(all)
		}
	}
	fulciopb.RegisterCAServer(all, service{Server: s})
	grpc_health_v1.RegisterHealthServer(all, &healthService{server: s})
	reflection.Register(all)
	var err error
	if s.http, err = s.rest(); err != nil {
		return nil, err
	}
	s.admin = s.adminPages(o)
	return s, nil
}

// SetCore makes c serve the requests that begin from now on.
func (s *Server) SetCore(c *Core) {
	own := *c
	for _, cert := range c.bundle()[0] {
		own.chain = append(own.chain, pemOf(cert.Raw))
	}
	var second []*x509.Certificate
	switch {
	case c.MLDSA != nil:
		second = c.MLDSA.Chain()
	case c.PreviewMLDSA != nil:
		second = c.PreviewMLDSA.Chain()
	}
	for _, cert := range second {
		own.mldsaChain = append(own.mldsaChain, pemOf(cert.Raw))
	}
	s.metrics.begin(c.Issuers)
	s.setState(&state{core: &own})
}

// SetNotReady removes the core. Clients get cause as the error.
func (s *Server) SetNotReady(cause string) { s.setState(&state{cause: cause}) }

// SetStarting says that a core comes soon. Requests wait for it, at most for startWait, and as many at once as may be
// received, in total and from one source: during a restart, systemd keeps the socket open, and the connections of
// clients that have waited there must not be refused now.
func (s *Server) SetStarting() { s.setState(&state{cause: "starting", ended: make(chan struct{})}) }

// startWait is how long a request waits for the end of the start. Clients wait at least as long for an answer.
const startWait = 4 * time.Second

func (s *Server) setState(next *state) {
	if old := s.state.Swap(next); old != nil && old.ended != nil {
		close(old.ended) // each state is replaced once
	}
}

// awaitStart waits while the server is starting. Each request waits once. A request for which there is no room does not
// wait, and gets NOT_READY.
func (s *Server) awaitStart(ctx context.Context) {
	st := s.state.Load()
	if st.ended == nil {
		return
	}
	if v := arrivalIn(ctx); v != nil {
		if v.awaited {
			return
		}
		v.awaited = true
	}
	source := admission.SourceIn(ctx)
	if !s.streams.starting.Take(source) {
		return
	}
	defer s.streams.starting.Give(source)
	timer := time.NewTimer(startWait)
	defer timer.Stop()
	select {
	case <-st.ended:
	case <-s.stopping: // the start has failed
	case <-timer.C:
	case <-ctx.Done():
	}
}

// HTTPHandler returns the REST API.
func (s *Server) HTTPHandler() http.Handler { return s.http }

// APIHandler returns the API, REST and gRPC. A gRPC request is one of HTTP/2 with the content type of gRPC.
func (s *Server) APIHandler() http.Handler { return s.both() }

// AdminHandler returns the pages for the operator: liveness, readiness, metrics, profiling.
func (s *Server) AdminHandler() http.Handler { return s.admin }

// Collectors returns the metrics of the server.
func (s *Server) Collectors() []prometheus.Collector {
	all := append(s.metrics.collectors(), readinessCollector{s}, boundsCollector{s})
	if s.fulcio != nil {
		all = append(all, s.fulcio)
	}
	return all
}

// Listeners are where a server listens; a nil field means not at all. If HTTP and GRPC are the same listener, one port
// serves both.
type Listeners struct {
	HTTP, GRPC, Admin net.Listener
}

// The names of the listeners in metrics and messages about TLS: REST and gRPC have one certificate.
const (
	APIListener   = "api"
	AdminListener = "admin"
)

// TLS has the certificates of the listeners; a nil field means plain text.
type TLS struct {
	API   *servertls.Source // of HTTP and GRPC
	Admin *servertls.Source
}

// Named returns the sources that exist, by the name of their listeners.
func (t TLS) Named() iter.Seq2[string, *servertls.Source] {
	return func(yield func(string, *servertls.Source) bool) {
		if t.API != nil && !yield(APIListener, t.API) {
			return
		}
		if t.Admin != nil {
			yield(AdminListener, t.Admin)
		}
	}
}

// Close closes the listeners. It may be called twice.
func (l Listeners) Close() {
	for _, one := range []net.Listener{l.HTTP, l.GRPC, l.Admin} {
		if one != nil {
			_ = one.Close() // an error does not matter: it is closed
		}
	}
}

// streamWorkers is the number of goroutines that serve gRPC requests one after the other; further requests each get a
// new goroutine. A worker keeps the stack that the cryptography has grown.
const streamWorkers = 64

// Limits of open requests over one HTTP/2 connection: for native gRPC, and for the one-port mode, where each costs more
// (RFC 9113 §6.5.2 recommends at least 100).
const (
	maxStreams     = 256
	maxHTTPStreams = 128
)

// Time limits for slow clients (F3).
const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	idleTimeout   = 30 * time.Second

	writeTimeout = 15 * time.Second // for the peer to read what was written
	pingAfter    = 20 * time.Second // without data on an HTTP/2 connection
	pingTimeout  = 10 * time.Second

	requestGrace = 5 * time.Second

	grpcReadBuffer = 8 << 10
)

// Serve serves on l until ctx ends, then stops: readiness ends first, the listeners end after the drain delay, and
// running requests get the drain time. It returns nil after an orderly stop. It may be called once.
func (s *Server) Serve(ctx context.Context, l Listeners) error {
	l = s.proxied(l)
	failed := make(chan error, 3)
	var pages []*http.Server
	onePort := l.HTTP != nil && l.HTTP == l.GRPC
	running := 0
	serve := func(h *http.Server, at net.Listener, bounds *connections) {
		pages = append(pages, h)
		running++
		h.ConnContext = withConn
		go func() {
			if h.TLSConfig == nil {
				failed <- orderly(h.Serve(bounds.listen(at)))
			} else {
				failed <- orderly(h.ServeTLS(bounds.listen(at), "", ""))
			}
		}()
	}
	if l.HTTP != nil {
		h := s.httpServer(s.http)
		s.protect(h, s.tls.API, servertls.HTTP1)
		if onePort {
			h.Handler = s.both()
			h.Protocols = new(http.Protocols)
			h.Protocols.SetHTTP1(true)
			h.Protocols.SetUnencryptedHTTP2(s.tls.API == nil)
			h.Protocols.SetHTTP2(s.tls.API != nil)
			s.protect(h, s.tls.API, servertls.Both)
			h.HTTP2 = &http.HTTP2Config{
				MaxConcurrentStreams: maxHTTPStreams, SendPingTimeout: pingAfter, PingTimeout: pingTimeout,
				WriteByteTimeout: writeTimeout,
			}
		}
		serve(h, l.HTTP, s.listening.http)
	}
	if l.Admin != nil {
		h := s.httpServer(s.admin)
		s.protect(h, s.tls.Admin, servertls.HTTP1)
		h.WriteTimeout = 0 // a profile takes as long as the client requests
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
	s.log.Info("stopping", "cause", stopCause(ctx, err), "drain_delay", s.limits.DrainDelay, "drain", s.limits.Drain)
	close(s.stopping)
	if err == nil { // otherwise a listener has failed, and balancers notice that by themselves
		err = s.awaitBalancers(failed, &running)
	}
	s.stop(pages, native)
	for range running {
		err = errors.Join(err, <-failed)
	}
	s.awaitRequests()
	return err
}

// stopCause says why the server stops: the signal, or the listener that failed.
func stopCause(ctx context.Context, err error) string {
	if err != nil {
		return err.Error()
	}
	return context.Cause(ctx).Error()
}

// Served returns how many requests were answered, apart from those that were refused before they were read.
func (s *Server) Served() int64 { return s.served.Load() }

// awaitBalancers serves for the drain delay, while readiness tells the balancers to send no more requests. It ends
// early if a listener fails.
func (s *Server) awaitBalancers(failed <-chan error, running *int) error {
	if s.limits.DrainDelay <= 0 {
		return nil
	}
	timer := time.NewTimer(s.limits.DrainDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case err := <-failed:
		*running--
		return err
	}
}

// retire asks the client of a request over HTTP for a new connection, if the connection is old or the server is
// stopping. Over HTTP/1.1 it does so with the header Connection: close. Over HTTP/2 the library sends GOAWAY instead of
// that header; requests that the client sends before it reads GOAWAY are not served, and the client knows that (RFC
// 9113 §6.8). Therefore a server that is stopping does not cause GOAWAY while a balancer may still send requests.
func (s *Server) retire(w http.ResponseWriter, r *http.Request, c *conn) {
	stopping := false
	select {
	case <-s.stopping:
		stopping = r.ProtoMajor == 1
	default:
	}
	if stopping || c.old() {
		w.Header().Set("Connection", "close")
	}
}

// awaitRequests waits for requests whose connection was cut at the end of the drain time, so that their journal records
// are written before the server has stopped (F11). Their contexts have ended, so the wait is short.
func (s *Server) awaitRequests() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(requestGrace); s.running.Load() > 0; <-tick.C {
		if time.Now().After(end) {
			s.log.Error("requests are still running although their contexts have ended", "count", s.running.Load())
			return
		}
	}
}

// proxied has the listeners of the API read the headers of the PROXY protocol.
func (s *Server) proxied(l Listeners) Listeners {
	if !s.proxyProtocol {
		return l
	}
	onePort := l.HTTP == l.GRPC
	if l.HTTP != nil {
		l.HTTP = newProxyListener(l.HTTP, s.proxies, s.log)
	}
	switch {
	case onePort:
		l.GRPC = l.HTTP
	case l.GRPC != nil:
		l.GRPC = newProxyListener(l.GRPC, s.proxies, s.log)
	}
	return l
}

// protect gives a server the TLS of its listener. A server of HTTP/1.1 alone offers no other protocol.
func (s *Server) protect(h *http.Server, source *servertls.Source, p servertls.Protocols) {
	if source == nil {
		return
	}
	h.TLSConfig = s.handshakes.bound(source.Config(p))
	if p == servertls.HTTP1 {
		h.Protocols = new(http.Protocols)
		h.Protocols.SetHTTP1(true)
	}
}

func orderly(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// stop lets running requests end, within the drain time. If the HTTP server serves gRPC (native is false), the HTTP
// server is shut down first: the gRPC library would end the requests from it at once, because it cannot wait for them.
func (s *Server) stop(pages []*http.Server, native bool) {
	close(s.closing)
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
				_ = h.Close() // closes the connections that did not drain
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
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout,
		WriteTimeout: bodyTimeout + s.limits.Request, IdleTimeout: idleTimeout,
		// The library allows 4096 bytes more than this value.
		MaxHeaderBytes: s.limits.Header - 4096,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}
