package server

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/span"
)

// refusal is a request that is not admitted.
type refusal struct {
	method, transport, id string
	service               string // empty: the CA
	err                   error  // the error of the admission
}

// refusals counts the refusals since the last line in the log.
type refusals struct {
	since atomic.Int64 // when the last line was written, in Unix nanoseconds
	count atomic.Int64 // refused since that line
}

// refuseEvery is the time between two lines about refusals in the log. A line for each would cost more than the
// refusal, when the load is highest; the metrics count each one.
const refuseEvery = time.Second

// refuse counts a request that is not admitted.
func (s *Server) refuse(ctx context.Context, r refusal) *fault.Error {
	f := fault.From(r.err)
	s.metrics.requests.WithLabelValues(r.method, r.transport, codeOf(f.Kind).String(), string(f.Reason)).Inc()
	if r.service == "" {
		// the method of a request that was not received is unknown, and most are for certificates
		s.metrics.slo.count(span.Span{}, f, 0)
	}
	if n, due := s.refusals.due(time.Now()); due {
		s.log.LogAttrs(context.WithoutCancel(ctx), slog.LevelWarn, "requests refused",
			slog.Int64("count", n), slog.String("reason", string(f.Reason)), slog.String("cause", f.Err.Error()))
	}
	return f
}

// refusedStatus returns the status of a request that is not admitted.
func (s *Server) refusedStatus(ctx context.Context, r refusal) error {
	_ = grpc.SetHeader(ctx, metadata.Pairs(requestIDKey, r.id)) // as in observe
	return statusOf(s.refuse(ctx, r), r.id).Err()
}

// unreceived is the method label of requests that were not received.
const unreceived = "unreceived"

// admitting refuses certificate requests over REST before any part of their bodies is read, and limits how many bodies
// are received at once.
func (s *Server) admitting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method, service := "", ""
		switch v := arrivalIn(r.Context()); {
		case r.Method != http.MethodPost:
		case v.service != nil:
			method, service = v.service.Name, v.service.Name
		case strings.HasSuffix(r.URL.Path, "/v2/signingCert"):
			method = "CreateSigningCertificate"
		case strings.HasSuffix(r.URL.Path, "/v1/signingCert"):
			method = "v1.CreateSigningCertificate"
		}
		if method != "" {
			err := s.limitSource(r.Context(), service)
			if err == nil {
				err = s.admission.Precheck(r.Context())
			}
			if err != nil {
				s.writeRefused(w, r, refusal{
					method: method, service: service, transport: "rest",
					id: w.Header().Get(requestIDKey), err: err,
				})
				return
			}
		}
		if v := arrivalIn(r.Context()); v != nil && r.Body != http.NoBody && r.ContentLength != 0 {
			if f := s.begin(v); f != nil {
				s.writeRefused(w, r, refusal{
					method: unreceived, transport: "rest",
					id: w.Header().Get(requestIDKey), err: f,
				})
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// writeRefused answers a request over REST that is not admitted.
func (s *Server) writeRefused(w http.ResponseWriter, r *http.Request, refused refusal) {
	writeRefusal(w, s.refuse(r.Context(), refused), refused.id)
	_, _ = io.CopyN(io.Discard, r.Body, 4096) // as in writeError
}

// writeRefusal writes what [Server.writeError] would write for f, without protobuf messages.
func writeRefusal(w http.ResponseWriter, f *fault.Error, id string) {
	const typeURL = "type.googleapis.com/google.rpc."
	seconds := strconv.Itoa(int(retryAfter(f) / time.Second))
	message, _ := json.Marshal(f.Public) // a string can always be encoded
	body := append(make([]byte, 0, 512), `{"code":`...)
	body = strconv.AppendInt(body, int64(codeOf(f.Kind)), 10)
	body = append(append(body, `,"message":`...), message...)
	body = append(body, `,"details":[{"@type":"`+typeURL+`ErrorInfo","reason":"`...)
	body = append(append(body, f.Reason...), `","domain":"`+domain+`","metadata":{"request_id":"`...)
	body = append(append(body, id...), '"')
	for key, value := range f.Meta { // keys and values are constants of this package
		body = append(append(append(append(body, `,"`...), key...), `":"`...), value...)
		body = append(body, '"')
	}
	body = append(body, `}},{"@type":"`+typeURL+`RetryInfo","retryDelay":"`...)
	body = append(append(body, seconds...), `s"}]}`...)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Retry-After", seconds)
	w.WriteHeader(runtime.HTTPStatusFromCode(codeOf(f.Kind)))
	_, _ = w.Write(body) // an error means that the client disconnected
}

// due counts a refusal. If it is time for the next line in the log, due returns the number of refusals since the last
// one.
func (r *refusals) due(now time.Time) (count int64, due bool) {
	r.count.Add(1)
	last := r.since.Load()
	if !passed(last, now.UnixNano(), refuseEvery) || !r.since.CompareAndSwap(last, now.UnixNano()) {
		return 0, false
	}
	return r.count.Swap(0), true
}
