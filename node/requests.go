package node

import (
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// requests measures the requests of the conductor, and sets aside a destination that fails repeatedly. The callers
// limit the time and the size of each request. A nil value allows every request.
type requests struct {
	seconds *prometheus.HistogramVec
	now     func() time.Time

	mu    sync.Mutex
	aside map[destination]*failures
}

// destination is the server of a request: kind is "log" or "tuf"; name is the name of the log, or the URL of the TUF
// repository.
type destination struct{ kind, name string }

// failures are consecutive failures of a destination.
type failures struct {
	count int
	until time.Time // no request before
	last  error
}

const (
	failuresAllowed = 3 // in a row, before a destination is set aside
	asideLeast      = time.Minute
	asideMost       = 15 * time.Minute
)

func newRequests(now func() time.Time) *requests {
	return &requests{now: now, aside: map[destination]*failures{}, seconds: prometheus.NewHistogramVec(
		prometheus.HistogramOpts{
			Name: "mayfly_rotation_request_seconds",
			Help: "Time of a request that finds out whether a new chain may sign: the roots of a log, the TUF " +
				"repository. By result: ok, failed.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"kind", "name", "result"})}
}

// do makes a request, unless its destination is set aside. After three failures in a row, a destination gets one
// request after a minute, then after twice as long each time, up to a quarter of an hour, until one succeeds.
func (r *requests) do(to destination, request func() error) error {
	if r == nil {
		return request()
	}
	if err := r.refused(to); err != nil {
		return err
	}
	began := r.now()
	err := request()
	took, result := r.now().Sub(began), "ok"
	if err != nil {
		result = "failed"
	}
	r.seconds.WithLabelValues(to.kind, to.name, result).Observe(took.Seconds())
	r.record(to, err)
	return err
}

func (r *requests) refused(to destination) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.aside[to]
	if f == nil || !r.now().Before(f.until) {
		return nil
	}
	return fmt.Errorf("it failed %d times in a row and is tried again at %s: %w", f.count,
		f.until.UTC().Format(time.RFC3339), f.last)
}

func (r *requests) record(to destination, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.aside, to)
		return
	}
	f := r.aside[to]
	if f == nil {
		f = &failures{}
		r.aside[to] = f
	}
	f.count, f.last = f.count+1, err
	if n := f.count - failuresAllowed; n >= 0 {
		f.until = r.now().Add(min(asideLeast<<min(n, 10), asideMost))
	}
}
