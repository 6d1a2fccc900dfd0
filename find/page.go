package find

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/mayfly-ca/mayfly/fault"
)

// Path is the path of the page.
const Path = "/api/v1/find"

// Server runs the calls of the page with the limits, the metrics and the log line of a request.
type Server struct {
	Call       func(ctx context.Context, run func(context.Context) error) error
	WriteError func(w http.ResponseWriter, r *http.Request, err error)
}

// Handler serves GET [Path] with the parameters of [ParseQuery]; the answer is an [Answer] in JSON.
func (x *Index) Handler(s Server) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD are allowed", http.StatusMethodNotAllowed)
			return
		}
		var body []byte
		err := s.Call(r.Context(), func(ctx context.Context) error {
			q, err := ParseQuery(r.URL.Query())
			if err != nil {
				return fault.New(fault.RequestMalformed, err, "cause", err.Error())
			}
			x.refresh(ctx)
			a, err := x.Find(ctx, q)
			if err != nil {
				return err
			}
			body, err = json.Marshal(a)
			return err
		})
		if err != nil {
			s.WriteError(w, r, err)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store")
		_, _ = w.Write(append(body, '\n')) // an error means that the client disconnected
	})
}
