package server

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server/admission"
)

// arrival is what the server knows of a request before it is decoded: its connection, the address of its client, and
// how to end its reception. For native gRPC, [Server.onStream] makes it; for HTTP, [Server.bounded] and [Server.both]
// do.
type arrival struct {
	conn   *conn            // nil for a connection of another listener, as in a test of a handler
	client netip.Addr       // the address of the client, behind trusted proxies
	source admission.Source // of client
	abort  func()           // ends a stream of native gRPC; nil for HTTP, whose server has deadlines
	at     time.Time        // when its header had arrived; zero if requests are not traced

	service *Service     // of a request over REST; nil: the CA
	handler http.Handler // of service

	receiving bool // the request is counted among those that are being received
	limited   bool // the request is counted by limits.source
	working   bool // the request is counted among those of its connection that the server works on
	awaited   bool // the request has waited for the end of the start
}

// arrivalContext carries an arrival. It embeds the context that it extends, so that deriving a context from it needs no
// goroutine.
type arrivalContext struct {
	context.Context //nolint:containedctx // it is a context
	arrival         arrival
}

type arrivalKey struct{}

// Value implements [context.Context].
func (c *arrivalContext) Value(key any) any {
	switch key.(type) {
	case arrivalKey:
		return &c.arrival
	case admission.ContextKey:
		return &c.arrival.source
	}
	return c.Context.Value(key)
}

// arrivalIn returns the arrival that a context carries; nil if there is none, as in a test of one handler.
func arrivalIn(ctx context.Context) *arrival {
	v, _ := ctx.Value(arrivalKey{}).(*arrival)
	return v
}

// newArrival describes a request over the connection c from peer.
func (s *Server) newArrival(c *conn, peer netip.Addr, forwarded []string) arrival {
	v := arrival{conn: c, client: s.proxies.Client(peer, forwarded, s.forwarded)}
	v.source = admission.SourceOf(v.client)
	if s.tracer != nil {
		v.at = time.Now()
	}
	return v
}

// forwardedHeader is the header in which proxies report the client, in lower case.
func (s *Server) forwardedHeader() string {
	if s.forwarded {
		return "forwarded"
	}
	return "x-forwarded-for"
}

// Limits of streams, by number and time (W1, F2, F3).
const (
	receiveShare    = 16        // one source may have 1/16 of the requests that are received, or wait for the start
	maxLongStreams  = 1024      // streams that stay open for long: health watches and reflection
	longStreamShare = 64        // of these, from one source
	longStreamTime  = time.Hour // then the stream is ended, and the client has to start another one
)

// streams bounds how many requests are being received, how many wait for the end of the start, how many are open over
// HTTP/2, and how many long-lived streams are open, at once.
type streams struct {
	receiving *admission.Budget[admission.Source]
	// over HTTP/2 in the one-port mode; in the other mode, the limits of connections and requests suffice
	open      *admission.Budget[admission.Source]
	longLived *admission.Budget[admission.Source]
	starting  *admission.Budget[admission.Source] // requests that wait for the end of the start
	timeouts  atomic.Uint64                       // requests that were not received in time
}

func newStreams(most int) *streams {
	share := max(64, most/receiveShare)
	return &streams{
		receiving: admission.NewBudget[admission.Source](most, share),
		starting:  admission.NewBudget[admission.Source](most, share),
		open:      admission.NewBudget[admission.Source](4*most, most/2),
		longLived: admission.NewBudget[admission.Source](maxLongStreams, longStreamShare),
	}
}

// Errors of requests that are not received. They have no request id, because nothing of the request was read.
var (
	errReceiving = errors.New("too many requests are being received, in total or from this source")
	errLongLived = errors.New("too many streams are open, in total or from this source")
	errReceipt   = errors.New("the request was not received within " + bodyTimeout.String())
)

// onStream attaches an arrival to a stream of native gRPC, or refuses the stream if too many requests are being
// received. The library calls it before the stream has a goroutine, and holds a lock of the connection meanwhile.
func (s *Server) onStream(ctx context.Context, info *tap.Info) (context.Context, error) {
	var c *conn
	var from netip.Addr
	if p, ok := peer.FromContext(ctx); ok {
		if at, ours := p.Addr.(*remoteAddr); ours {
			c, from = at.conn, at.conn.peer
		} else {
			from = admission.AddressOf(p.Addr)
		}
	}
	v := s.newArrival(c, from, info.Header[s.forwardedHeader()])
	if s.streams.receiving.Full(v.source) {
		s.refuseStream(c, s.streams.receiving)
		return ctx, errNoRoom
	}
	ctx, v.abort = context.WithCancel(ctx) // the context of the stream ends it at the latest
	return &arrivalContext{Context: ctx, arrival: v}, nil
}

// errNoRoom is the error of a request that is refused before any part of it is received. It has no request id, so that
// it costs next to nothing.
var errNoRoom = status.Error(codes.ResourceExhausted, fault.RateLimited.Message())

// refuseStream counts a stream that is refused before any part of it is received. A connection over which only such
// streams arrive is closed: each costs the server a goroutine, and the client nothing.
func (s *Server) refuseStream(c *conn, full *admission.Budget[admission.Source]) {
	_ = s.refuse(context.Background(), refusal{
		method: unreceived, transport: "grpc", err: noRoom(full, errReceiving),
	})
	if c != nil && !c.proven.Load() && c.refusedStreams.Add(1) > maxRefusedStreams {
		c.all.flood(c)
	}
}

// writeNoRoom writes errNoRoom as a Trailers-Only response.
func writeNoRoom(w http.ResponseWriter) {
	h := w.Header()
	h["Date"] = nil
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(int(codes.ResourceExhausted)))
	h.Set("Grpc-Message", fault.RateLimited.Message())
	w.WriteHeader(http.StatusOK)
}

// begin counts a request among those that are being received, if there is room for it.
func (s *Server) begin(v *arrival) *fault.Error {
	if !s.streams.receiving.Take(v.source) {
		return noRoom(s.streams.receiving, errReceiving)
	}
	v.receiving = true
	return nil
}

// received records that a request is complete.
func (s *Server) received(v *arrival) {
	if v == nil || !v.receiving {
		return
	}
	s.streams.receiving.Give(v.source)
	v.receiving, v.working = false, true
	v.conn.begin()
}

// end releases what a request has taken, whether or not it was received.
func (s *Server) end(v *arrival) {
	switch {
	case v.receiving:
		s.streams.receiving.Give(v.source)
		v.receiving = false
	case v.working:
		v.conn.end()
		v.working = false
	}
}

// registrar registers services with limits on the reception of their requests.
type registrar struct {
	*grpc.Server
	server *Server
}

// RegisterService implements [grpc.ServiceRegistrar].
func (r registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	own := *desc
	own.Methods, own.Streams = nil, nil
	for _, m := range desc.Methods {
		m.Handler = r.server.unary(m.Handler)
		own.Methods = append(own.Methods, m)
	}
	for _, st := range desc.Streams {
		st.Handler = r.server.streaming(st.Handler)
		own.Streams = append(own.Streams, st)
	}
	r.Server.RegisterService(&own, impl)
}

// unary bounds the reception of a request: in time, in total and by source.
func (s *Server) unary(next grpc.MethodHandler) grpc.MethodHandler {
	return func(impl any, ctx context.Context, decode func(any) error, i grpc.UnaryServerInterceptor) (any, error) {
		v := arrivalIn(ctx)
		if v == nil {
			return next(impl, ctx, decode, i)
		}
		if f := s.begin(v); f != nil {
			return nil, s.refuseUnreceived(ctx, f)
		}
		defer s.end(v)
		return next(impl, ctx, func(into any) error { return s.receive(ctx, v, func() error { return decode(into) }) },
			i)
	}
}

// receive receives one message within a deadline. At the deadline the client gets the reason, which ends the stream and
// with it the wait for the message; the library would only report that a context ended.
func (s *Server) receive(ctx context.Context, v *arrival, message func() error) error {
	timer := time.AfterFunc(bodyTimeout, func() {
		late := s.receiveTimeout(ctx)
		if stream,
			ok := grpc.ServerTransportStreamFromContext(ctx).(interface{ WriteStatus(*status.Status) error }); ok {
			_ = stream.WriteStatus(status.Convert(late)) // a stream that has ended needs no status
		}
		if v.abort != nil {
			v.abort()
		}
	})
	err := message()
	if timer.Stop() && err == nil {
		s.received(v)
	}
	return err
}

// receiveTimeout returns the error of a request that was not received in time.
func (s *Server) receiveTimeout(ctx context.Context) error {
	s.streams.timeouts.Add(1)
	return s.refuseUnreceived(ctx, fault.New(fault.CallerDeadline, errReceipt).WithPublic("%s", errReceipt.Error()))
}

// refuseUnreceived counts a request that was not received and returns the error for its client.
func (s *Server) refuseUnreceived(ctx context.Context, f *fault.Error) error {
	r := newRecord(ctx)
	return statusOf(s.refuse(ctx, refusal{method: unreceived, transport: r.transport, id: r.id, err: f}), r.id).Err()
}

// streaming bounds the number of open streams, how long they are open, and the wait for each message.
func (s *Server) streaming(next grpc.StreamHandler) grpc.StreamHandler {
	return func(impl any, stream grpc.ServerStream) error {
		v := arrivalIn(stream.Context())
		if v == nil {
			return next(impl, stream)
		}
		if !s.streams.longLived.Take(v.source) {
			return s.refuseUnreceived(stream.Context(),
				fault.New(fault.RateLimited, errLongLived).WithRetryAfter(time.Second))
		}
		defer s.streams.longLived.Give(v.source)
		defer s.end(v)
		ctx, cancel := context.WithTimeout(stream.Context(), longStreamTime)
		defer cancel()
		return next(impl, &boundedStream{ServerStream: stream, ctx: ctx, server: s, arrival: v})
	}
}

// boundedStream is a stream that waits for a message no longer than the time limit for receiving a request.
type boundedStream struct {
	grpc.ServerStream
	ctx     context.Context //nolint:containedctx // a stream has one
	server  *Server
	arrival *arrival
}

// Context implements [grpc.ServerStream].
func (b *boundedStream) Context() context.Context { return b.ctx }

// RecvMsg implements [grpc.ServerStream].
func (b *boundedStream) RecvMsg(into any) error {
	b.server.end(b.arrival)
	if f := b.server.begin(b.arrival); f != nil {
		return b.server.refuseUnreceived(b.ctx, f)
	}
	return b.server.receive(b.ctx, b.arrival, func() error { return b.ServerStream.RecvMsg(into) })
}

// httpArrival describes a request over HTTP.
func (s *Server) httpArrival(r *http.Request) arrival {
	c, _ := r.Context().Value(connKey{}).(*conn)
	var from netip.Addr
	switch {
	case c != nil:
		from = c.peer
	default:
		if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			from = at.Addr().Unmap().WithZone("")
		}
	}
	return s.newArrival(c, from, r.Header.Values(s.forwardedHeader()))
}
