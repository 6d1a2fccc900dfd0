package server_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/fault"
)

// F2 // F7: a full server refuses requests over both transports before it looks at the token, with the reason and a
// time to come back. Reads are answered, and requests too when there is room again.
func TestOverload(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	here := withSource(t.Context(), "127.0.0.1")
	for range capacity {
		must(t, w.admission.Acquire(here))
	}
	asked := w.idp.Requests()
	_, err := w.grpc.CreateSigningCertificate(t.Context(), w.message("not a token"))
	st := status.Convert(err)
	var reason string
	var delay time.Duration
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			reason = d.GetReason()
		case *errdetails.RetryInfo:
			delay = d.GetRetryDelay().AsDuration()
		}
	}
	if st.Code() != codes.ResourceExhausted || reason != string(fault.RateLimited) || delay < time.Second ||
		delay > 5*time.Second {
		t.Errorf("gRPC: %v, reason %s, retry after %s", st, reason, delay)
	}
	for _, path := range []string{"/api/v2/signingCert", "/api/v1/signingCert"} {
		a := w.rest(http.MethodPost, path, strings.Repeat("not JSON", 100), "X-Request-Id", "mine")
		seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
		if a.code != http.StatusTooManyRequests || err != nil || seconds < 1 || seconds > 5 ||
			len(a.status.Details) != 2 ||
			a.status.Details[0].Reason != string(fault.RateLimited) ||
			a.status.Details[0].Metadata["request_id"] != "mine" ||
			a.status.Message != fault.RateLimited.Message() {
			t.Errorf("%s: %d, Retry-After %q, %s", path, a.code, a.header.Get("Retry-After"), a.body)
		}
	}
	if w.idp.Requests() != asked {
		t.Error("the provider was asked for a request that was refused")
	}
	if a := w.rest(http.MethodGet, "/api/v2/trustBundle", ""); a.code != http.StatusOK {
		t.Errorf("a read: %d", a.code)
	}
	if !strings.Contains(w.logs.String(), "requests refused") {
		t.Error("the log does not speak of refusals")
	}
	w.admission.Release(here)
	if _, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(w.idp.Token(nil))); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
