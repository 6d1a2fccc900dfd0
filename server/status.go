package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mayfly-ca/mayfly/fault"
)

// domain is the domain of every ErrorInfo.
const domain = "mayfly"

// codeOf is the one place where kinds become codes.
func codeOf(k fault.Kind) codes.Code {
	switch k {
	case fault.Invalid:
		return codes.InvalidArgument
	case fault.Denied:
		return codes.PermissionDenied
	case fault.Exhausted:
		return codes.ResourceExhausted
	case fault.Unavailable:
		return codes.Unavailable
	case fault.Canceled:
		return codes.Canceled
	case fault.DeadlineExceeded:
		return codes.DeadlineExceeded
	case fault.Internal:
		return codes.Internal
	}
	return codes.Internal
}

// owned returns err as a [fault.Error]. The end of the request's context explains an error that says nothing better.
func owned(ctx context.Context, err error) *fault.Error {
	var f *fault.Error
	if errors.As(err, &f) {
		return f
	}
	if ctx.Err() == nil {
		return fault.From(err)
	}
	cause := context.Cause(ctx)
	switch {
	case errors.As(cause, &f):
		return f
	case errors.Is(cause, context.DeadlineExceeded):
		return fault.New(fault.CallerDeadline, err)
	}
	return fault.New(fault.CallerCanceled, err)
}

// statusOf is what the client reads of f.
func statusOf(f *fault.Error, requestID string) *status.Status {
	meta := map[string]string{"request_id": requestID}
	for k, v := range f.Meta {
		meta[k] = v
	}
	s := status.New(codeOf(f.Kind), f.Public)
	info := &errdetails.ErrorInfo{Reason: string(f.Reason), Domain: domain, Metadata: meta}
	var err error
	if f.Kind == fault.Unavailable || f.Kind == fault.Exhausted {
		s, err = s.WithDetails(info, &errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter(f))})
	} else {
		s, err = s.WithDetails(info)
	}
	if err != nil { // details are always encodable; never answer without a status
		return status.New(codeOf(f.Kind), f.Public)
	}
	return s
}

// retryAfter is when another try may help: whole seconds, at least one.
func retryAfter(f *fault.Error) time.Duration {
	return max(time.Second, (f.RetryAfter + time.Second - 1).Truncate(time.Second))
}
