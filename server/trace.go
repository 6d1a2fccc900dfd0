package server

import (
	"context"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/span"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server/admission"
	"github.com/mayfly-ca/mayfly/tracing"
)

// The metadata keys of the W3C Trace Context.
const (
	traceparentKey = "traceparent"
	tracestateKey  = "tracestate"
)

// startTrace starts the span of a request, which begins at the arrival of the header. The time from then until now was
// needed to receive and decode the request.
func (s *Server) startTrace(ctx context.Context, method string, r *record) (context.Context, span.Span) {
	if s.tracer == nil {
		return ctx, span.Span{}
	}
	var arrived time.Time
	if v := arrivalIn(ctx); v != nil {
		arrived = v.at
	}
	ctx, root := s.tracer.Start(ctx, tracing.Request{
		Name: method, Began: arrived,
		Traceparent: metadata.ValueFromIncomingContext(ctx, traceparentKey),
		Tracestate:  metadata.ValueFromIncomingContext(ctx, tracestateKey),
	})
	if root.Recorded() {
		root.Set(span.Method, method)
		root.Set(span.Transport, r.transport)
		root.Set(span.RequestID, r.id)
		if !arrived.IsZero() {
			span.Past(ctx, "receive", arrived, r.began)
		}
	}
	return ctx, root
}

// endTrace ends the span of a request; failure is nil if it was served.
func endTrace(root span.Span, failure *fault.Error) {
	if failure == nil {
		root.End(nil)
		return
	}
	root.End(failure)
}

// identify verifies the token of a request.
func (s service) identify(ctx context.Context, core *Core, token string) (d *oidc.Decision, err error) {
	ctx, step := span.Start(ctx, "identify")
	defer step.Done(&err)
	d, err = core.Issuers.IdentifyFrom(ctx, admission.SourceIn(ctx).Addr, token)
	step.Set(span.Entry, d.Entry)
	return d, err
}
