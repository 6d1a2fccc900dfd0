package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
)

// proxyDialer connects as a proxy does, for a client at an address.
func proxyDialer(version byte, client string) func(_ context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		from := &net.TCPAddr{IP: net.ParseIP(client), Port: 4711}
		_, err = proxyproto.HeaderProxyFromAddrs(version, from,
			&net.TCPAddr{IP: net.ParseIP(client), Port: 443}).WriteTo(c)
		return c, err
	}
}

// With the PROXY protocol, the source of a request is the address in the header, over REST and gRPC and on one port. An
// X-Forwarded-For that the client wrote is ignored. A proxy that sends no header is refused, and delays nobody.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	for _, one := range []bool{false, true} {
		w := newFixture(t, false)
		log := &logbuf.Buffer{}
		s := w.serve(server.Options{
			ProxyProtocol: true, Proxies: prefixes(t, "127.0.0.0/8"), Logger: slog.New(slog.NewJSONHandler(log, nil)),
		}, true, true, one)
		silent, err := net.Dial("tcp", s.rest) // a connection whose header does not come
		must(t, err)
		defer silent.Close()
		source := func() string {
			t.Helper()
			var last struct{ Msg, Source string }
			for line := range strings.SplitSeq(log.String(), "\n") {
				var r struct{ Msg, Source string }
				if json.Unmarshal([]byte(line), &r) == nil && r.Source != "" {
					last = r
				}
			}
			return last.Source
		}
		for version, client := range map[byte]string{1: "203.0.113.9", 2: "2001:db8::17"} {
			dial := proxyDialer(version, client)
			c := &http.Client{
				Timeout:   20 * time.Second,
				Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.rest+"/api/v2/signingCert",
				bytes.NewReader([]byte(w.body(w.idp.Token(nil)))))
			must(t, err)
			req.Header.Set("X-Forwarded-For", "198.51.100.1")
			res, err := c.Do(req)
			must(t, err)
			data, err := io.ReadAll(res.Body)
			must(t, err)
			_ = res.Body.Close()
			if res.StatusCode != http.StatusOK {
				t.Errorf("%d %s", res.StatusCode, data)
			}
			eventually(t, "the log has the source", func() bool { return source() == client })
		}
		conn, err := grpc.NewClient("passthrough:///"+s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return proxyDialer(2, "203.0.113.77")(ctx, "tcp", address)
			}))
		must(t, err)
		defer conn.Close() //nolint:errcheck // nothing is lost
		_, err = fulciopb.NewCAClient(conn).CreateSigningCertificate(t.Context(), w.message(w.idp.Token(nil)))
		must(t, err)
		eventually(t, "the log has the source", func() bool { return source() == "203.0.113.77" })

		plain := &http.Client{Timeout: 20 * time.Second}
		if res, err := plain.Get("http://" + s.rest + "/healthz"); err == nil {
			_ = res.Body.Close()
			t.Error("a connection of a trusted proxy without a header is served")
		}
		eventually(t, "the log says so", func() bool { return strings.Contains(log.String(), "PROXY protocol header") })
		s.stop()
		must(t, <-s.done)
	}
}

// A connection of another address has no header: what looks like one is data of a client.
func TestProxyProtocolUntrusted(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	s := w.serve(server.Options{ProxyProtocol: true, Proxies: prefixes(t, "192.0.2.0/24")}, true, false, false)
	res, err := http.Get("http://" + s.rest + "/healthz")
	must(t, err)
	_ = res.Body.Close()
	c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: proxyDialer(1, "203.0.113.9")}}
	if res, err := c.Get("http://" + s.rest + "/healthz"); err == nil {
		_ = res.Body.Close()
		if res.StatusCode == http.StatusOK {
			t.Error("a header of an untrusted address is read")
		}
	}
}
