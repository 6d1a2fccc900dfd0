package shadow

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/fault"
)

// Options for [New].
type Options struct {
	Upstream Site
	// Candidate serves the callers of a [Plan]; nil: none does.
	Candidate *Site
	Own       Own
	Store     *Store
	// ForwardedFor appends the address of the client to X-Forwarded-For. A mayfly behind the proxy needs it for its
	// limits by source.
	ForwardedFor bool
	// Values stores the values that differ, and not only their digests.
	Values bool
	Queue  int64        // memory for requests that wait to be compared, in bytes: [DefaultQueue]
	Logger *slog.Logger // nil: none
	// Collectors are further metrics for /metrics.
	Collectors []prometheus.Collector
}

// Site is a running CA: the URLs of its REST API and of its gRPC API, which may be the same.
type Site struct {
	REST, GRPC *url.URL       // http or https, host and port
	Roots      *x509.CertPool // nil: those of the system
}

// ParseSite reads the URLs of a CA. grpc may be empty: the same host and port as rest.
func ParseSite(rest, grpc string) (s Site, err error) {
	if s.REST, err = parseBase(rest); err != nil {
		return s, err
	}
	if s.GRPC = s.REST; grpc != "" {
		s.GRPC, err = parseBase(grpc)
	}
	return s, err
}

func parseBase(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fault.Cure(fmt.Errorf("%q is not the URL of a server", text),
			"write http://HOST:PORT or https://HOST:PORT")
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// site is where requests are sent.
type site struct {
	base      *url.URL
	transport *http.Transport
}

// sites are the two APIs of a CA.
type sites struct{ rest, grpc site }

func (s sites) of(r *http.Request) site {
	if isGRPC(r) {
		return s.grpc
	}
	return s.rest
}

func (s sites) close() {
	s.rest.transport.CloseIdleConnections()
	s.grpc.transport.CloseIdleConnections()
}

// The bounds of the proxy.
const (
	connectTimeout = 5 * time.Second
	headerTimeout  = 60 * time.Second // for an upstream to answer; Fulcio waits for its log for 30 s
	maxHeader      = 1 << 20
	maxBody        = 8 << 20 // of a request; Fulcio refuses more than 4 MiB
	mostRequests   = 8192    // at once
	idleConns      = 512
	bodyTimeout    = 60 * time.Second // for a client to send a request
)

func newSites(s Site) sites {
	make1 := func(base *url.URL, http2 bool) site {
		t := &http.Transport{
			DialContext:           (&net.Dialer{Timeout: connectTimeout, KeepAlive: 15 * time.Second}).DialContext,
			TLSClientConfig:       &tls.Config{RootCAs: s.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:   connectTimeout,
			ResponseHeaderTimeout: headerTimeout, MaxResponseHeaderBytes: maxHeader,
			MaxIdleConnsPerHost: idleConns, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
			Protocols: new(http.Protocols),
			HTTP2: &http.HTTP2Config{
				SendPingTimeout: 20 * time.Second, PingTimeout: 10 * time.Second,
			},
		}
		t.Protocols.SetHTTP1(!http2)
		t.Protocols.SetHTTP2(http2 && base.Scheme == "https")
		t.Protocols.SetUnencryptedHTTP2(http2 && base.Scheme == "http")
		return site{base, t}
	}
	return sites{make1(s.REST, false), make1(s.GRPC, true)}
}

// Proxy is the server in front of the upstream.
type Proxy struct {
	upstream     sites
	candidate    *candidate
	forwardedFor bool
	comparer     *comparer
	metrics      *metrics
	log          *slog.Logger
	forward      *httputil.ReverseProxy
	plan         atomic.Pointer[selection]
	running      atomic.Int64
	reachable    atomic.Pointer[string] // why the upstream is not; "": it is
	further      []prometheus.Collector
}

// New returns a proxy. It sends no request; see [Proxy.Run].
func New(o Options) *Proxy {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Queue == 0 {
		o.Queue = DefaultQueue
	}
	m := newMetrics()
	p := &Proxy{
		upstream: newSites(o.Upstream), forwardedFor: o.ForwardedFor, metrics: m, log: o.Logger,
		comparer: newComparer(o, m), further: o.Collectors,
	}
	p.SetOwn(o.Own)
	if o.Candidate != nil {
		p.candidate = &candidate{sites: newSites(*o.Candidate), timeout: candidateTimeout}
	}
	p.SetPlan(Plan{})
	starting := "the upstream has not been checked yet"
	p.reachable.Store(&starting)
	p.forward = &httputil.ReverseProxy{
		Rewrite: p.rewrite, Transport: roundTripper(p.roundTrip), ModifyResponse: observe,
		BufferPool: &buffers{}, ErrorHandler: p.unreachable, ErrorLog: log.New(io.Discard, "", 0),
	}
	return p
}

// candidateTimeout is how long the candidate may take before the upstream is asked. A mayfly answers within 20 s.
const candidateTimeout = 21 * time.Second

// SetOwn replaces the side that the upstream is compared with.
func (p *Proxy) SetOwn(o Own) { p.comparer.own.Store(&o) }

// SetPlan says whose requests the candidate serves from now on. Requests that began stay where they are.
func (p *Proxy) SetPlan(plan Plan) {
	if p.candidate == nil {
		plan = Plan{}
	}
	p.plan.Store(plan.selection())
	p.metrics.share.Set(float64(plan.Share) / wholeShare)
}

// Collectors returns the metrics.
func (p *Proxy) Collectors() []prometheus.Collector {
	return append(p.metrics.collectors(), p.further...)
}

// buffers are the buffers through which bodies are copied.
type buffers struct{ pool sync.Pool }

const bufferSize = 8 << 10 // an answer fits

// Get implements [httputil.BufferPool].
func (b *buffers) Get() []byte {
	if one, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return one[:]
	}
	return make([]byte, bufferSize)
}

// Put implements [httputil.BufferPool].
func (b *buffers) Put(one []byte) { b.pool.Put((*[bufferSize]byte)(one)) }

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements [http.RoundTripper].
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (p *Proxy) roundTrip(r *http.Request) (*http.Response, error) {
	return p.upstream.of(r).transport.RoundTrip(r)
}

// rewrite makes the outgoing request what the incoming one is, except for the server. [httputil.ReverseProxy] has
// removed headers and query parameters that a proxy of another kind must not pass on.
func (p *Proxy) rewrite(r *httputil.ProxyRequest) {
	to := p.upstream.of(r.In)
	r.Out.URL.Scheme, r.Out.URL.Host, r.Out.URL.RawQuery = to.base.Scheme, to.base.Host, r.In.URL.RawQuery
	for _, k := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, ok := r.In.Header[k]; ok {
			r.Out.Header[k] = v
		}
	}
	if _, ok := r.In.Header["User-Agent"]; !ok {
		r.Out.Header["User-Agent"] = nil // no other one is added
	}
	p.addClient(r.Out, r.In.RemoteAddr)
}

func (p *Proxy) addClient(out *http.Request, remote string) {
	if at, err := netip.ParseAddrPort(remote); err == nil && p.forwardedFor {
		all := slices.Concat(out.Header["X-Forwarded-For"], []string{at.Addr().Unmap().WithZone("").String()})
		out.Header["X-Forwarded-For"] = []string{strings.Join(all, ", ")}
	}
}

// observedKey is the key of the observation of a request in its context.
type observedKey struct{}

// observed is what is seen of a request on its way.
type observed struct {
	request  bytes.Buffer
	response *http.Response
	answer   bytes.Buffer
	ended    bool // the answer was read to its end
	failed   bool
}

// observe copies an answer while it is sent.
func observe(r *http.Response) error {
	if o, ok := r.Request.Context().Value(observedKey{}).(*observed); ok &&
		r.StatusCode != http.StatusSwitchingProtocols {
		o.response = r
		r.Body = &copied{ReadCloser: r.Body, keep: func(b []byte) { keep(&o.answer, b, maxAnswer) }, end: func() {
			o.ended = true
		}}
	}
	return nil
}

// held is a [http.ResponseWriter] that sends an answer of gRPC that is a header alone (Trailers-Only) together with the
// end of its stream, as the upstream did: clients expect the status there.
type held struct {
	http.ResponseWriter
	*observed
}

// FlushError implements the method that [http.ResponseController] calls.
func (h held) FlushError() error {
	if r := h.response; r != nil && r.Header.Get("Grpc-Status") != "" {
		return nil
	}
	return http.NewResponseController(h.ResponseWriter).Flush()
}

// Flush implements [http.Flusher].
func (h held) Flush() { _ = h.FlushError() } // an error means that the client has left

// Unwrap is for [http.ResponseController].
func (h held) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// copied is a body that is copied while it is read.
type copied struct {
	io.ReadCloser
	keep func([]byte)
	end  func()
}

// Read implements [io.Reader].
func (c *copied) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.keep(b[:n])
	if errors.Is(err, io.EOF) {
		c.end()
	}
	return n, err
}

// ServeHTTP serves one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.running.Add(1) > mostRequests {
		p.running.Add(-1)
		p.metrics.requests.WithLabelValues(label(apiOf(r)), byNobody).Inc()
		refuse(w, r, "too many requests at once; try again")
		return
	}
	defer p.running.Add(-1)
	api := apiOf(r)
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if !isGRPC(r) { // a stream of gRPC takes as long as it takes
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) // without it there is no limit
	}
	if api == other {
		p.pass(w, r)
		return
	}
	p.certificate(w, r, api)
}

// label is the value of a metric's label.
func label(api API) string {
	if api == other {
		return "other"
	}
	return string(api)
}

// pass sends a request to the upstream without looking at it.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request) {
	o := &observed{}
	defer func() { p.count(other, byUpstream, o) }()
	p.forward.ServeHTTP(held{w, o}, r.WithContext(context.WithValue(r.Context(), observedKey{}, o)))
}

func (p *Proxy) count(api API, by string, o *observed) {
	if o.response == nil {
		by = byNobody
	}
	p.metrics.requests.WithLabelValues(label(api), by).Inc()
}

// certificate serves a request for a certificate: by the candidate if the plan says so, or else by the upstream, and
// then it is compared.
func (p *Proxy) certificate(w http.ResponseWriter, r *http.Request, api API) {
	p.comparer.asking.Add(1)
	defer p.comparer.asking.Add(-1)
	by := byUpstream
	if !p.plan.Load().nothing {
		var done bool
		if by, done = p.move(w, r, api); done {
			return
		}
	}
	o := &observed{}
	x := &exchange{
		api: api, began: time.Now(), method: r.Method, target: r.RequestURI, host: r.Host, header: r.Header.Clone(),
		from: r.RemoteAddr,
	}
	if x.target == "" {
		x.target = r.URL.RequestURI()
	}
	r.Body = &copied{ReadCloser: r.Body, keep: func(b []byte) { keep(&o.request, b, maxRequest) }, end: func() {}}
	// The answer may end with a panic, which tells the server that it is not whole.
	defer func() { p.done(r.Context(), x, o, by) }()
	p.forward.ServeHTTP(held{w, o}, r.WithContext(context.WithValue(r.Context(), observedKey{}, o)))
}

// done gives an exchange to the comparer, unless the client has left before it had the answer.
func (p *Proxy) done(ctx context.Context, x *exchange, o *observed, by string) {
	p.count(x.api, by, o)
	if ctx.Err() != nil && !o.ended {
		return
	}
	x.took = time.Since(x.began)
	p.metrics.seconds.Observe(x.took.Seconds())
	x.body = o.request.Bytes()
	if x.failed = o.failed || o.response == nil || !o.ended; !x.failed {
		x.answer = received{o.response.StatusCode, o.response.Header, o.response.Trailer, o.answer.Bytes()}
	}
	p.comparer.offer(x)
}

// move sends a request to the candidate if the plan has its identity. done is true if the client has an answer.
// Otherwise the body of r is whole again, and by says who is to answer.
func (p *Proxy) move(w http.ResponseWriter, r *http.Request, api API) (by string, done bool) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
	rest := io.Reader(r.Body)
	if err != nil {
		rest = failing{err}
	}
	original := r.Body
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), rest), original}
	if err != nil || len(body) > maxRequest {
		return byUpstream, false
	}
	who, _, known := subjectOf(api, r.Header, body)
	if !p.plan.Load().has(who, known) {
		return byUpstream, false
	}
	if !p.candidate.breaker.ready(time.Now()) {
		p.metrics.failures.WithLabelValues(failedRested).Inc()
		return byFallback, false
	}
	out := r.Clone(r.Context())
	p.addClient(out, r.RemoteAddr)
	answer, err := p.candidate.ask(out, body)
	if r.Context().Err() != nil { // the client has left: this says nothing about the candidate
		return byNobody, true
	}
	p.candidate.breaker.done(err == nil, time.Now())
	if err != nil {
		cause := failedConnection
		if errors.Is(err, errFailed) {
			cause = failedServer
		}
		p.metrics.failures.WithLabelValues(cause).Inc()
		p.log.Warn("the candidate failed, so the upstream answers", "cause", cause)
		return byFallback, false
	}
	p.metrics.requests.WithLabelValues(label(api), byCandidate).Inc()
	p.comparer.tookOver()
	answer.writeTo(w)
	return byCandidate, true
}

type failing struct{ err error }

// Read implements [io.Reader].
func (f failing) Read([]byte) (int, error) { return 0, f.err }

// unreachable answers in place of an upstream that gave no answer.
func (p *Proxy) unreachable(w http.ResponseWriter, r *http.Request, err error) {
	if o, ok := r.Context().Value(observedKey{}).(*observed); ok {
		o.failed = true
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		http.Error(w, "the request is too large", http.StatusRequestEntityTooLarge)
		return
	}
	if r.Context().Err() == nil {
		refuse(w, r, "the certificate authority cannot be reached; try again")
	}
}

// refuse answers UNAVAILABLE, in the form of the API.
func refuse(w http.ResponseWriter, r *http.Request, message string) {
	h := w.Header()
	if isGRPC(r) {
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", "14")
		h.Set("Grpc-Message", message)
		w.WriteHeader(http.StatusOK)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("Retry-After", "1")
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintf(w, `{"code":14,"message":%q,"details":[]}`, message)
}

// hopByHop are the headers of one connection (RFC 9110 §7.6.1).
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Trailer",
	"Transfer-Encoding", "Upgrade",
}

// removeHopByHop removes the headers of one connection. TE stays with its one value for which gRPC needs it.
func removeHopByHop(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, k := range hopByHop {
		h.Del(k)
	}
	if h.Get("Te") != "trailers" {
		h.Del("Te")
	}
}
