package server

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/fault"
)

// refusal is a request that is not let in.
type refusal struct {
	method, transport, id string
	err                   error // of the gate
}

// refusals are counted between two lines in the log.
type refusals struct {
	since atomic.Int64 // the last line, in Unix nanoseconds
	count atomic.Int64 // refused since
}

// refuseEvery is how often a line in the log speaks of refusals. A line for each would cost more than the refusal, when there is
// least to spend; each is counted in the metrics.
const refuseEvery = time.Second

// refuse answers a request that is not let in, with as little work as can be.
func (s *Server) refuse(ctx context.Context, r refusal) *status.Status {
	f := fault.From(r.err)
	s.metrics.requests.WithLabelValues(r.method, r.transport, codeOf(f.Kind).String(), string(f.Reason)).Inc()
	s.refusals.count.Add(1)
	now := time.Now().UnixNano()
	if last := s.refusals.since.Load(); now-last >= int64(refuseEvery) && s.refusals.since.CompareAndSwap(last, now) {
		s.log.LogAttrs(context.WithoutCancel(ctx), slog.LevelWarn, "requests refused: more come than the processors can serve",
			slog.Int64("count", s.refusals.count.Swap(0)), slog.String("reason", string(f.Reason)), slog.String("cause", f.Err.Error()))
	}
	return statusOf(f, r.id)
}

// admitting refuses requests for certificates over REST before anything of their bodies is read.
func (s *Server) admitting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := ""
		switch {
		case r.Method != http.MethodPost:
		case strings.HasSuffix(r.URL.Path, "/v2/signingCert"):
			method = "CreateSigningCertificate"
		case strings.HasSuffix(r.URL.Path, "/v1/signingCert"):
			method = "v1.CreateSigningCertificate"
		}
		if method != "" {
			if err := s.gate.Full(); err != nil {
				st := s.refuse(r.Context(), refusal{method: method, transport: "rest", id: w.Header().Get(requestIDKey), err: err})
				s.writeError(w, r, st.Err())
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
