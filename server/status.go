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

// codeOf maps kinds of faults to gRPC codes. Nothing else does.
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
	case fault.Exists:
		return codes.AlreadyExists
	case fault.Internal:
		return codes.Internal
	}
	return codes.Internal
}

// owned returns err as a [fault.Error]. If err is no fault, the end of the request's context explains it.
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

// statusOf returns the status for the client.
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
	if err != nil { // the details can always be encoded; the status is returned in any case
		return status.New(codeOf(f.Kind), f.Public)
	}
	return s
}

// retryAfter returns after how many whole seconds another try may succeed, at least one.
func retryAfter(f *fault.Error) time.Duration {
	return max(time.Second, (f.RetryAfter + time.Second - 1).Truncate(time.Second))
}
