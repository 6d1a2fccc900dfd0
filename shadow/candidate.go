package shadow

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mayfly-ca/mayfly/internal/bounded"
)

// candidate is the CA to which callers are moved.
type candidate struct {
	sites   sites
	timeout time.Duration
	breaker breaker
}

// breaker is a circuit breaker: a candidate that fails repeatedly is not asked for some time.
type breaker struct {
	mu     sync.Mutex
	failed int       // in a row
	until  time.Time // when one request may try
}

const (
	restAfter = 5 // failures in a row
	restTime  = 5 * time.Second
)

// ready reports whether the candidate may be asked. After a rest, one request tries.
func (b *breaker) ready(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed < restAfter {
		return true
	}
	if now.Before(b.until) {
		return false
	}
	b.until = now.Add(restTime)
	return true
}

func (b *breaker) done(ok bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok {
		b.failed = 0
		return
	}
	if b.failed++; b.failed >= restAfter {
		b.until = now.Add(restTime)
	}
}

// whole is an answer that was received completely.
type whole struct {
	status  int
	header  http.Header
	trailer http.Header
	body    []byte
}

var errFailed = errors.New("the candidate answered that it failed")

// ask sends a request to the candidate. It returns an answer only if it is whole and no failure of the server, so that
// the caller can ask the upstream otherwise.
func (c *candidate) ask(r *http.Request, body []byte) (*whole, error) {
	ctx, cancel := context.WithTimeout(r.Context(), c.timeout)
	defer cancel()
	to := c.sites.of(r)
	out := r.Clone(ctx)
	out.URL.Scheme, out.URL.Host, out.RequestURI = to.base.Scheme, to.base.Host, ""
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.TransferEncoding = nil
	removeHopByHop(out.Header)
	response, err := to.transport.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // it was read to its end, or is of no use
	data, err := bounded.ReadAll(response.Body, maxAnswer)
	if err != nil {
		return nil, err
	}
	w := &whole{response.StatusCode, response.Header, response.Trailer, data}
	if w.failed(isGRPC(r)) {
		return nil, errFailed
	}
	return w, nil
}

// failed reports whether the answer says that the server could not decide.
func (w *whole) failed(grpc bool) bool {
	if w.status >= http.StatusInternalServerError {
		return true
	}
	if !grpc {
		return false
	}
	code, err := strconv.ParseUint(first("Grpc-Status", w.trailer, w.header), 10, 32)
	if err != nil {
		return true
	}
	switch codes.Code(code) { //nolint:exhaustive // the others are answers
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.DeadlineExceeded, codes.Canceled,
		codes.Unimplemented, codes.DataLoss, codes.Aborted:
		return true
	}
	return false
}

// writeTo sends the answer to a client.
func (w *whole) writeTo(to http.ResponseWriter) {
	removeHopByHop(w.header)
	for k, v := range w.header {
		to.Header()[k] = v
	}
	to.WriteHeader(w.status)
	_, _ = to.Write(w.body) // an error means that the client has left
	for k, v := range w.trailer {
		for _, one := range v {
			to.Header().Add(http.TrailerPrefix+k, one)
		}
	}
}
