package server

import (
	"context"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Service is an API beside that of the CA on the same listeners, such as a transparency log. It gets the request id,
// the limits of connections, bodies and headers, and CORS of every request. Calls that cost something MUST run in
// [Server.Call].
type Service struct {
	// Name identifies the service in metrics and limits, such as "rekor".
	Name string
	// Paths are the paths of the service in the form of [http.ServeMux], without a method, such as "/api/v1/timestamp"
	// or "/ct/".
	Paths   []string
	Handler http.Handler
	// Body is the largest size of the body of a request over REST, in bytes; 0: that of the CA's requests.
	Body int64
	// Register registers the methods of the service over gRPC. Optional.
	Register func(grpc.ServiceRegistrar)
}

// services finds the service of a request by its path.
type services struct {
	mux    *http.ServeMux
	byPath map[string]*Service
}

func newServices(all []Service) services {
	s := services{http.NewServeMux(), map[string]*Service{}}
	// The other paths are those of the CA. A mux that finds no pattern would look for patterns with other methods.
	s.mux.Handle("/", http.NotFoundHandler())
	for i := range all {
		for _, path := range all[i].Paths {
			s.mux.Handle(path, all[i].Handler)
			s.byPath[path] = &all[i]
		}
	}
	return s
}

// of returns the service of a request, and what answers the request: the handler of the service, or a redirect to the
// right form of the path. Both are nil if the request is for the CA.
func (s services) of(r *http.Request) (*Service, http.Handler) {
	h, path := s.mux.Handler(r)
	if one := s.byPath[path]; one != nil {
		return one, h
	}
	return nil, nil
}

// dispatched returns a handler that gives the requests of services to their handlers, and the others to next. While the
// server is starting, the services are not open yet.
func (s *Server) dispatched(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v := arrivalIn(r.Context()); v.service != nil {
			s.awaitStart(r.Context())
			v.handler.ServeHTTP(w, r.WithContext(metadata.NewIncomingContext(r.Context(), described(r.Header))))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// described returns what a record needs of the header of a request, as the gateway passes it on.
func described(h http.Header) metadata.MD {
	out := metadata.MD{}
	for _, key := range [...]string{requestIDKey, traceparentKey, tracestateKey, "user-agent"} {
		if value := h.Get(key); value != "" {
			out.Set(key, value)
		}
	}
	return out
}

// Call is a call of a [Service]. The values of both fields are from closed sets: they are labels of metrics.
type Call struct {
	Service string // the name of the service
	Method  string // such as "CreateEntry"
}

// Call runs a call of a service as the server runs requests for certificates: with the source limit, which counts each
// service by itself, the admission, a deadline, a panic guard, a trace, metrics and one log line. run gets the deadline
// in its context. An error of run is a [fault.Error], or has the status of an internal error. Call returns the error
// with its gRPC status, which [Server.WriteError] writes over REST.
func (s *Server) Call(ctx context.Context, c Call, run func(context.Context, *Request) error) error {
	_, err := observe(ctx, s, call[struct{}]{
		method: c.Method, service: c.Service, limited: true,
		run: func(ctx context.Context, _ *Core, r *record) (struct{}, error) {
			return struct{}{}, run(ctx, &Request{
				ID: r.id, Transport: r.transport, Source: r.entry.facts.Source, record: r,
			})
		},
	})
	return err
}

// Request is a running call of a service.
type Request struct {
	ID        string // as in the log line and in the header X-Request-Id
	Transport string // "grpc" or "rest"
	Source    string // the address of the client; empty if it is unknown
	record    *record
}

// Add adds an attribute to the log line. It MUST NOT be given a token, a proof or a key.
func (r *Request) Add(key, value string) { r.record.add(key, value) }

// WriteError answers a request over REST with an error of [Server.Call].
func (s *Server) WriteError(w http.ResponseWriter, r *http.Request, err error) {
	s.writeError(w, r, err)
}
