package server

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/rs/cors"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/fault"
	fulciolegacypb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v1beta"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/proto/openapi"
)

// rest builds the REST API: request id, CORS, body limit, then another service or the gateway.
func (s *Server) rest() (http.Handler, error) {
	gateway := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.HTTPBodyMarshaler{Marshaler: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{EmitUnpopulated: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		}}),
		runtime.WithMetadata(func(_ context.Context, r *http.Request) metadata.MD {
			// The value of Authorization is appended even if it is empty: a token in the header
			// Grpc-Metadata-Oidcidentitytoken is then one of two values, and a request with two values is refused.
			tokens := append(r.Header.Values(runtime.MetadataHeaderPrefix+tokenKey),
				bearer(r.Header.Get("Authorization")))
			return metadata.MD{tokenKey: tokens}
		}),
		runtime.WithIncomingHeaderMatcher(func(key string) (string, bool) {
			switch textproto.CanonicalMIMEHeaderKey(key) {
			case "X-Request-Id":
				return requestIDKey, true
			case "Traceparent":
				return traceparentKey, true
			case "Tracestate":
				return tracestateKey, true
			}
			return runtime.DefaultHeaderMatcher(key)
		}),
		runtime.WithOutgoingHeaderMatcher(func(key string) (string, bool) {
			return textproto.CanonicalMIMEHeaderKey(key), key == generationKey || key == digestKey
		}),
		runtime.WithForwardResponseOption(created),
		runtime.WithOutgoingTrailerMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler,
			w http.ResponseWriter, r *http.Request, err error,
		) {
			s.writeError(w, r, err)
		}),
	)
	if err := fulciopb.RegisterCAHandlerServer(context.Background(), gateway, service{Server: s}); err != nil {
		return nil, err
	}
	if err := fulciolegacypb.RegisterCAHandlerServer(context.Background(), gateway, legacy{Server: s}); err != nil {
		return nil, err
	}
	for path, body := range map[string][]byte{
		"/healthz":      []byte(`{"status":"SERVING"}` + "\n"),
		"/openapi.json": openapi.Document,
	} {
		err := gateway.HandlePath(http.MethodGet, path,
			func(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write(body) // an error means that the client disconnected
			})
		if err != nil {
			return nil, err
		}
	}
	allow := cors.New(cors.Options{
		AllowedOrigins: []string{"*"}, AllowedMethods: []string{http.MethodGet, http.MethodPost, http.MethodHead},
		AllowedHeaders: []string{"Accept", "Authorization", "Content-Type", "X-Request-Id", "X-Requested-With"},
		ExposedHeaders: []string{
			"SCT", "X-Request-Id", "Retry-After", "Deprecation", "Link",
			"Mayfly-Config-Generation", "Mayfly-Config-Digest",
		},
	})
	all := s.bounded(allow.Handler(s.admitting(s.dispatched(s.withLegacy(gateway)))))
	if s.fulcio != nil {
		all = s.fulcio.counted(all)
	}
	return all, nil
}

// bounded sets the id of a request, finds its service, and limits the size of its body.
func (s *Server) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := saneID(r.Header.Get(requestIDKey))
		r.Header.Set(requestIDKey, id)
		w.Header().Set(requestIDKey, id)
		ctx := &arrivalContext{Context: r.Context(), arrival: s.httpArrival(r)}
		ctx.arrival.service, ctx.arrival.handler = s.services.of(r)
		limit := s.limits.Body
		if service := ctx.arrival.service; service != nil && service.Body > 0 {
			limit = service.Body
		}
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		s.retire(w, r, ctx.arrival.conn)
		defer s.end(&ctx.arrival)
		if r.ContentLength == 0 {
			ctx.arrival.working = true
			ctx.arrival.conn.begin()
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// both serves REST and gRPC on one port: gRPC is HTTP/2 with its own content type. The library reads a gRPC request
// within the deadlines of its stream; a stream that stays open has longer ones.
func (s *Server) both() http.Handler {
	longLived := map[string]bool{}
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			longLived["/"+service+"/"+m.Name] = m.IsServerStream || m.IsClientStream
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := s.httpArrival(r)
		isGRPC := r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
		if r.ProtoMajor == 2 {
			if !s.streams.open.Take(v.source) {
				s.refuseStream(v.conn, s.streams.open)
				writeNoRoom(w)
				return
			}
			defer s.streams.open.Give(v.source)
			if isGRPC && s.streams.receiving.Full(v.source) {
				s.refuseStream(v.conn, s.streams.receiving)
				writeNoRoom(w)
				return
			}
		}
		if !isGRPC {
			s.http.ServeHTTP(w, r)
			return
		}
		s.retire(w, r, v.conn)
		ctx := &arrivalContext{Context: r.Context(), arrival: v}
		c := http.NewResponseController(w)
		_ = c.SetReadDeadline(time.Now().Add(bodyTimeout + pingTimeout)) // the deadlines of receive end earlier
		if longLived[r.URL.Path] {
			_ = c.SetWriteDeadline(time.Now().Add(longStreamTime + bodyTimeout))
		} else {
			_ = c.SetWriteDeadline(time.Now().Add(2*bodyTimeout + s.limits.Request))
		}
		s.grpc.ServeHTTP(w, r.WithContext(ctx))
	})
}

// writeError writes a google.rpc.Status. An error of the gateway itself (routing, decoding) gets its reason here.
func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	st := status.Convert(err)
	if len(st.Details()) == 0 {
		if with, e := st.WithDetails(s.gatewayInfo(st, r, w.Header().Get(requestIDKey))); e == nil {
			st = with
		}
	}
	for _, d := range st.Details() {
		if retry, ok := d.(*errdetails.RetryInfo); ok {
			w.Header().Set("Retry-After", strconv.Itoa(int(retry.GetRetryDelay().AsDuration()/time.Second)))
		}
	}
	body, e := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(st.Proto())
	if e != nil {
		body, _ = json.Marshal(map[string]any{
			"code": codes.Internal, "message": fault.InternalError.Message(),
			"details": []any{},
		})
	}
	code := runtime.HTTPStatusFromCode(st.Code())
	w.Header().Set("Content-Type", "application/json")
	w.Header().Del("Trailer")
	w.WriteHeader(code)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // an error means that the client disconnected
	}
	// A small remainder of the body is read, so that the connection can be used again.
	_, _ = io.CopyN(io.Discard, r.Body, 4096)
}

// gatewayInfo returns the details of an error that the gateway made, before the service was called.
func (s *Server) gatewayInfo(st *status.Status, r *http.Request, requestID string) *errdetails.ErrorInfo {
	info := &errdetails.ErrorInfo{
		Reason: string(fault.InternalError), Domain: domain,
		Metadata: map[string]string{"request_id": requestID},
	}
	tooLarge := new(http.MaxBytesError)
	switch c := st.Code(); {
	case c == codes.InvalidArgument && st.Message() == tooLarge.Error():
		info.Reason, info.Metadata["max"] = string(fault.RequestTooLarge), strconv.FormatInt(s.limits.Body, 10)
	case c == codes.NotFound:
		f := fault.New(fault.PathUnknown, nil, "path", r.URL.Path)
		info.Reason, info.Metadata["path"] = string(f.Reason), f.Meta["path"]
	case c == codes.Unimplemented:
		f := fault.New(fault.MethodNotAllowed, nil, "method", r.Method)
		info.Reason, info.Metadata["method"] = string(f.Reason), f.Meta["method"]
	case c == codes.InvalidArgument:
		info.Reason = string(fault.RequestMalformed)
	case c == codes.Canceled:
		info.Reason = string(fault.CallerCanceled)
	case c == codes.DeadlineExceeded:
		info.Reason = string(fault.CallerDeadline)
	}
	return info
}
