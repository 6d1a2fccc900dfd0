package canary

import (
	"encoding/json"
	"errors"
	"net/http"
)

// ServeHTTP implements [http.Handler], for the operator: GET returns the last [Run], POST makes one; both in JSON. The
// status is 200 even for a run that failed, 404 if the canary is off, and 204 if there has been no run yet.
func (c *Canary) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	run := c.Last()
	err := error(nil)
	if c.o.Target().Interval == 0 {
		err = ErrOff
	} else if r.Method == http.MethodPost {
		run, err = c.Now(r.Context())
	}
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case errors.Is(err, ErrOff):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case run == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(run) // an error means that the client disconnected
	}
}
