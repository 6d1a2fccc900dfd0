package server_test

import (
	"context"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/server/admission"
)

// maxWait is how long a test waits for an event: a busy machine is slow, but a test must not hang.
const maxWait = 60 * time.Second

// await receives from a channel.
func await[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(maxWait):
		t.Fatalf("there is not: %s", what)
		panic("unreachable")
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(maxWait); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come true: %s", what)
		}
	}
}

func firstOf(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}

// httpGet sends a request to a handler.
func httpGet(h http.Handler, path string) *httptest.ResponseRecorder {
	out := httptest.NewRecorder()
	h.ServeHTTP(out, httptest.NewRequest(http.MethodGet, path, nil))
	return out
}

// prefixes parses prefixes that are separated by commas.
func prefixes(t *testing.T, text string) (out []netip.Prefix) {
	t.Helper()
	for _, one := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		p, err := netip.ParsePrefix(one)
		must(t, err)
		out = append(out, p)
	}
	return out
}

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx, cancel
}

// localAddr is the context of a request that was received at an address of this machine.
func localAddr(ctx context.Context, address string) context.Context {
	return context.WithValue(ctx, http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(address), Port: 2112})
}

// withSource is ctx for a request from an address.
func withSource(ctx context.Context, address string) context.Context {
	s := admission.SourceOf(netip.MustParseAddr(address))
	return context.WithValue(ctx, admission.ContextKey{}, &s)
}

// postTo sends a request for a certificate to a handler and returns the body of the response.
func postTo(h http.Handler, body string) string {
	out := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/api/v2/signingCert", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	h.ServeHTTP(out, r)
	return out.Body.String()
}

// pemText is a certificate in the JSON of a response.
func pemText(der []byte) string {
	block := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return strings.ReplaceAll(strings.TrimSuffix(block, "\n"), "\n", `\n`)
}
