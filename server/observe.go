package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/span"
	"github.com/mayfly-ca/mayfly/oidc"
)

// call is one method: its gRPC name, and the function that serves it with the current core.
type call[R any] struct {
	method  string
	service string // of the process beside the CA; empty: the CA
	issues  bool   // a certificate
	// limited: the source limit and the admission apply, and each call has a line in the log at level info
	limited bool
	run     func(context.Context, *Core, *record) (R, error)
}

// observe runs c with the parts that each request has: a count of running requests, an id, a deadline, a panic guard,
// metrics and one log record (F4).
func observe[R any](ctx context.Context, s *Server, c call[R]) (out R, err error) {
	start := time.Now()
	s.running.Add(1)
	defer s.running.Add(-1)
	defer s.served.Add(1)
	s.received(arrivalIn(ctx))
	r := newRecord(ctx)
	r.began = start
	ctx, root := s.startTrace(ctx, c.method, r)
	var failure *fault.Error
	defer func() { endTrace(root, failure) }()
	if c.limited {
		err := s.limitSource(ctx, c.service)
		if err == nil {
			err = s.admission.Precheck(ctx)
		}
		if err != nil {
			failure = fault.From(err)
			return out, s.refusedStatus(ctx, refusal{
				method: c.method, service: c.service, transport: r.transport, id: r.id, err: err,
			})
		}
	}
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()
	// The errors are ignored: the gateway and the gRPC server both accept metadata at this point.
	_ = grpc.SetHeader(ctx, metadata.Pairs(requestIDKey, r.id))
	_ = grpc.SetTrailer(ctx, metadata.Pairs(requestIDKey, r.id))
	ctx, cancel := context.WithTimeoutCause(ctx, s.limits.Request, s.tooSlow)
	defer cancel()

	out, failure = guarded(ctx, s, c, r)
	if c.issues && failure != nil {
		r.refused(failure)
		s.identityLimit.count(r.decided, failure)
	}
	if failure != nil {
		var none R
		failure = r.tellSpent(failure)
		out, err = none, statusOf(failure, r.id).Err()
	}
	took := time.Since(start)
	if c.issues {
		s.metrics.slo.count(root, failure, took)
	}
	end := finished{method: c.method, logged: c.limited, record: r, failure: failure, took: took}
	if failure != nil && limited(failure) {
		s.finishLimited(ctx, end)
	} else {
		s.finish(ctx, end)
	}
	return out, err
}

// guarded runs c and returns its answer, or an error that is a [fault.Error]; a panic becomes such an error.
func guarded[R any](ctx context.Context, s *Server, c call[R], r *record) (out R, failure *fault.Error) {
	defer func() {
		if p := recover(); p != nil {
			s.metrics.panics.Inc()
			r.add("stack", string(debug.Stack()))
			failure = fault.New(fault.InternalError, fmt.Errorf("panic: %v", p))
		}
	}()
	s.awaitStart(ctx)
	st := s.state.Load()
	if st.core != nil {
		r.setCore(st.core)
	}
	if c.limited { // the other methods cost next to nothing
		err := s.limitSource(ctx, c.service) // a request that waited for the core could not be counted before
		if err == nil {
			err = s.admit(ctx)
		}
		if err != nil {
			return out, owned(ctx, err)
		}
		defer s.admission.Release(ctx)
	}
	if st.core == nil {
		return out, fault.New(fault.NotReady, nil, "cause", st.cause)
	}
	out, err := c.run(ctx, st.core, r)
	if err != nil {
		return out, owned(ctx, err)
	}
	return out, nil
}

// admit waits until the request may compute.
func (s *Server) admit(ctx context.Context) (err error) {
	_, step := span.Start(ctx, "admission")
	defer step.Done(&err)
	return s.admission.Acquire(ctx)
}

// record collects the attributes of the one log line of a request. It MUST NOT be given a token, a proof or a key.
type record struct {
	id        string
	transport string      // "grpc" or "rest"
	agent     string      // the User-Agent of the client
	attrs     []slog.Attr // the first headAttrs are set when the request ends
	began     time.Time
	entry     journalEntry
	spent     bool           // a use of the token was counted
	decided   *oidc.Decision // the verified identity; nil until the token is verified
}

// headAttrs is the number of attributes at the beginning of every record.
const headAttrs = 5

func newRecord(ctx context.Context) *record {
	r := &record{transport: "rest", attrs: make([]slog.Attr, headAttrs, headAttrs+16)}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		r.transport = "grpc"
	}
	source := ""
	if v := arrivalIn(ctx); v != nil && v.client.IsValid() {
		source = v.client.String()
	}
	r.add("source", source)
	r.entry.facts.Source = source
	for _, key := range []string{"grpcgateway-user-agent", "user-agent"} {
		if all := metadata.ValueFromIncomingContext(ctx, key); r.agent == "" && len(all) > 0 {
			r.agent = all[0]
			r.add("user_agent", r.agent[:min(len(r.agent), maxAgent)])
		}
	}
	if all := metadata.ValueFromIncomingContext(ctx, requestIDKey); len(all) > 0 {
		r.id = saneID(all[len(all)-1])
	} else {
		r.id = rand.Text()
	}
	return r
}

func (r *record) add(key, value string) { r.attrs = append(r.attrs, slog.String(key, shorten(value))) }

// decision records the decision about a verified token. The log handler escapes the values (D22).
func (r *record) decision(d *oidc.Decision) {
	r.entry.decision(d)
	for _, a := range []struct{ key, value string }{
		{"entry", d.Entry},
		{"issuer", d.Identity.Issuer},
		{"subject", d.Identity.Subject},
		{"san", d.Identity.SAN.Value},
		{"rule", d.Rule},
		{"would_refuse", d.Shadow},
	} {
		if a.value != "" {
			r.add(a.key, a.value)
		}
	}
}

const (
	maxLogged = 8192
	maxAgent  = 256
)

func shorten(s string) string {
	if len(s) > maxLogged {
		return s[:maxLogged] + "…"
	}
	return s
}

// requestIDKey is the header, the trailer and the metadata key of the request id.
const requestIDKey = "x-request-id"

// saneID returns the caller's request id if it is 1 to 64 letters, digits and "._-", and a new one otherwise.
func saneID(id string) string {
	if len(id) == 0 || len(id) > 64 {
		return rand.Text()
	}
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '.' && c != '_' && c != '-' {
			return rand.Text()
		}
	}
	return id
}

// finished is a request that was answered.
type finished struct {
	method  string
	logged  bool // at level info
	record  *record
	failure *fault.Error
	took    time.Duration
}

// finish counts a request and writes its record.
func (s *Server) finish(ctx context.Context, f finished) {
	code, reason, level := codes.OK, "", slog.LevelInfo
	if f.failure != nil {
		code, reason = codeOf(f.failure.Kind), string(f.failure.Reason)
		switch f.failure.Kind {
		case fault.Internal:
			level = slog.LevelError
		case fault.Unavailable:
			level = slog.LevelWarn
		case fault.Invalid, fault.Denied, fault.Exhausted, fault.Canceled, fault.DeadlineExceeded,
			fault.Exists:
		}
	}
	s.metrics.requests.WithLabelValues(f.method, f.record.transport, code.String(), reason).Inc()
	span.In(ctx).Observe(s.metrics.seconds.WithLabelValues(f.method), f.took.Seconds())
	if !f.logged && f.failure == nil {
		level = slog.LevelDebug // reads are frequent and of little interest
	}
	attrs := f.record.attrs
	copy(attrs, []slog.Attr{
		slog.String("request_id", f.record.id), slog.String("method", f.method),
		slog.String("transport", f.record.transport),
		slog.String("code", code.String()), slog.Duration("took", f.took),
	})
	if f.failure != nil {
		attrs = append(attrs, slog.String("reason", reason))
		if f.failure.Err != nil {
			attrs = append(attrs, slog.String("cause", shorten(f.failure.Err.Error())))
		}
	}
	s.log.LogAttrs(context.WithoutCancel(ctx), level, "request", attrs...)
}
