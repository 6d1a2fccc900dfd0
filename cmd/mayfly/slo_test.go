package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/status"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// slo runs the command and returns its output and its exit status.
func slo(t *testing.T, args ...string) (out, stderr string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), append([]string{"slo"}, args...), cli.Streams{In: strings.NewReader(""), Out: &o, Err: &e})
	return o.String(), e.String(), code
}

// The service level of a running CA: certificates and refusals are counted by whose fault they are.
func TestSLO(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: provider.URL(), Embedded: true, Admin: true,
	})
	call, done := s.Caller(t, true)
	defer done()
	for _, r := range process.Requests(t, provider)[:5] {
		if err := call(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := call(process.Request{JSON: []byte("{}")}); err == nil {
		t.Error("a request without a token got a certificate")
	}
	out, stderr, code := slo(t, "--admin", "http://"+s.Admin, "--json")
	var l status.Level
	if err := json.Unmarshal([]byte(out), &l); err != nil || l.Good != 5 || l.Caller != 1 || l.Requests != 6 ||
		l.Success.Share == nil || *l.Success.Share != 1 || !l.Success.Met || code != 0 && code != cli.ExitFound {
		t.Errorf("status %d, %v: %s%s", code, err, out, stderr)
	}
	out, _, _ = slo(t, "--admin", "http://"+s.Admin, "--within", "20s")
	for _, want := range []string{
		"certificates", "5", "1 (do not count)", "a certificate", "99.9 %", "100 %", "within 20s", "met",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("attributes of a terminal in a pipe: %q", out)
	}
}

// An objective that is missed is exit status 3. Over a time, only what is counted meanwhile matters.
func TestSLOMissed(t *testing.T) {
	t.Parallel()
	var bad atomic.Int64
	bad.Store(5)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `# TYPE mayfly_slo_requests_total counter
mayfly_slo_requests_total{fault="none"} 100
mayfly_slo_requests_total{fault="log"} %d
# TYPE mayfly_slo_issued_seconds histogram
mayfly_slo_issued_seconds_bucket{le="1"} 100
mayfly_slo_issued_seconds_bucket{le="+Inf"} 100
mayfly_slo_issued_seconds_sum 1
mayfly_slo_issued_seconds_count 100
`, bad.Load())
	}))
	t.Cleanup(s.Close)
	out, stderr, code := slo(t, "--admin", s.URL)
	if code != cli.ExitFound || !strings.Contains(out, "missed") || !strings.Contains(out, "fault of: log") ||
		!strings.Contains(out, "95.238 %") || !strings.Contains(stderr, "an objective is missed") {
		t.Errorf("status %d:\n%s%s", code, out, stderr)
	}
	if out, _, code := slo(t, "--admin", s.URL, "--over", "10ms"); code != 0 || !strings.Contains(out, "no requests") {
		t.Errorf("status %d:\n%s", code, out)
	}
	for want, args := range map[string][]string{
		"--within: certificates within 3s are not counted; write one of 1s": {"--admin", s.URL, "--within", "3s"},
		"--success 0: write a number above 0 and up to 100":                 {"--success", "0"},
		"--in-time 101: write a number":                                     {"--in-time", "101"},
		"--over 25h0m0s: write a duration up to 24h":                        {"--over", "25h"},
		`--admin "x": write a URL`:                                          {"--admin", "x"},
	} {
		if _, stderr, code := slo(t, args...); code != cli.ExitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: status %d, %s", args, code, stderr)
		}
	}
	s.Close()
	if _, stderr, code := slo(t, "--admin", s.URL); code != cli.ExitFailed ||
		!strings.Contains(stderr, "cannot be reached") {
		t.Errorf("status %d: %s", code, stderr)
	}
}
