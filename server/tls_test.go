package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/servertls"
)

// The API over TLS: REST and gRPC, on two ports and on one, and the pages for the operator. Plain text is refused, and
// the source address of a request is that of its connection.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	source, err := servertls.Open(servertls.Config{SelfSigned: true}, servertls.Options{StateDir: dir})
	must(t, err)
	data, err := os.ReadFile(filepath.Join(dir, "tls", "certificate.pem"))
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(data)
	for _, one := range []bool{false, true} {
		w := newFixture(t, false)
		srv, err := server.New(server.Options{
			TLS: server.TLS{API: source, Admin: source}, Registry: prometheus.NewRegistry(),
		})
		must(t, err)
		srv.SetCore(w.core)
		var l server.Listeners
		for _, at := range []*net.Listener{&l.HTTP, &l.GRPC, &l.Admin} {
			*at, err = net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
		}
		if one {
			must(t, l.GRPC.Close())
			l.GRPC = l.HTTP
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- srv.Serve(ctx, l) }()
		defer func() { cancel(); must(t, <-done) }()

		client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
		}}
		type answer struct {
			status, protocol int
			tls              *tls.ConnectionState
			body             string
		}
		ask := func(method, url, body string) answer {
			t.Helper()
			req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
			must(t, err)
			res, err := client.Do(req)
			must(t, err)
			defer res.Body.Close() //nolint:errcheck // read to the end
			data, err := io.ReadAll(res.Body)
			must(t, err)
			return answer{res.StatusCode, res.ProtoMajor, res.TLS, string(data)}
		}
		rest := "https://" + l.HTTP.Addr().String()
		a := ask(http.MethodPost, rest+"/api/v2/signingCert", w.body(w.idp.Token(nil)))
		if a.status != http.StatusOK || !strings.Contains(a.body, "CERTIFICATE") || a.tls.Version != tls.VersionTLS13 {
			t.Errorf("one port %v: %+v", one, a)
		}
		if got, want := a.protocol, map[bool]int{false: 1, true: 2}[one]; got != want {
			t.Errorf("one port %v: HTTP/%d", one, got)
		}
		conn, err := grpc.NewClient(l.GRPC.Addr().String(),
			grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots})))
		must(t, err)
		defer conn.Close() //nolint:errcheck // nothing is lost
		if _, err := fulciopb.NewCAClient(conn).CreateSigningCertificate(t.Context(),
			w.message(w.idp.Token(nil))); err != nil {
			t.Errorf("one port %v: %v", one, err)
		}
		if a := ask(http.MethodGet, "https://"+l.Admin.Addr().String()+"/livez", ""); a.status != http.StatusOK {
			t.Errorf("admin: %+v", a)
		}
		if a := ask(http.MethodGet, "http://"+l.HTTP.Addr().String()+"/healthz",
			""); a.status != http.StatusBadRequest {
			t.Errorf("plain text is answered: %+v", a)
		}
	}
}
