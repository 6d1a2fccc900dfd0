package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/admission"
	"github.com/mayfly-ca/mayfly/tbs"
)

// modes are the ways to listen. The server must behave the same in all of them.
var modes = []struct {
	name       string
	http, grpc bool
	one        bool
}{
	{"two ports", true, true, false},
	{"one port", true, true, true},
	{"REST", true, false, false},
	{"gRPC", false, true, false},
}

// deferred is a log that answers when the test lets it.
type deferred struct {
	ca.Log
	asked chan struct{}
	go_   chan struct{}
}

func (d deferred) Submit(ctx context.Context, p tbs.Precertificate) ([][]byte, error) {
	d.asked <- struct{}{}
	select {
	case <-d.go_:
		return d.Log.Submit(ctx, p)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// served is a server with the core of the test server on its own listeners.
type served struct {
	srv        *server.Server
	rest, grpc string
	stop       context.CancelFunc
	done       chan error
}

func (w *fixture) serve(o server.Options, http, grpc, one bool) *served {
	w.t.Helper()
	srv, err := server.New(o)
	must(w.t, err)
	srv.SetCore(w.core)
	var l server.Listeners
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(w.t, err)
		return ln
	}
	s := &served{srv: srv, done: make(chan error, 1)}
	if http {
		l.HTTP = listen()
		s.rest = l.HTTP.Addr().String()
	}
	if one {
		l.GRPC = l.HTTP
	} else if grpc {
		l.GRPC = listen()
	}
	if l.GRPC != nil {
		s.grpc = l.GRPC.Addr().String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() { s.done <- srv.Serve(ctx, l) }()
	w.t.Cleanup(cancel)
	return s
}

// askers are functions that send a request to a server of a mode, by name.
func (w *fixture) askers(s *served) map[string]func(context.Context) error {
	out := map[string]func(context.Context) error{}
	if s.rest != "" {
		out["REST"] = func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.rest+"/api/v2/signingCert",
				strings.NewReader(w.body(w.idp.Token(nil))))
			if err != nil {
				return err
			}
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			res, err := tr.RoundTrip(req)
			if err != nil {
				return err
			}
			defer res.Body.Close() //nolint:errcheck // read to the end
			data, err := io.ReadAll(res.Body)
			if err == nil && (res.StatusCode != http.StatusOK || !strings.Contains(string(data), "CERTIFICATE")) {
				err = fmt.Errorf("%d %s", res.StatusCode, data)
			}
			return err
		}
	}
	if s.grpc != "" {
		out["gRPC"] = func(ctx context.Context) error {
			conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return err
			}
			defer conn.Close() //nolint:errcheck // nothing is lost
			_, err = fulciopb.NewCAClient(conn).CreateSigningCertificate(ctx, w.message(w.idp.Token(nil)))
			return err
		}
	}
	return out
}

// F11: when a server stops, requests that wait for a log are completed, over every listener. No new request is
// accepted, and readiness ends at once.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			w := newFixture(t, false)
			log := deferred{w.set, make(chan struct{}, 8), make(chan struct{})}
			var err error
			w.core.Authority, err = ca.New(ca.Options{Chain: w.pki.Chain, Signer: w.pki.Key, Log: log})
			must(t, err)
			s := w.serve(server.Options{Limits: server.Limits{Drain: 20 * time.Second}}, m.http, m.grpc, m.one)
			askers := w.askers(s)
			ended := make(chan error, len(askers))
			for name, ask := range askers {
				go func() {
					if err := ask(t.Context()); err != nil {
						ended <- fmt.Errorf("%s: %w", name, err)
						return
					}
					ended <- nil
				}()
			}
			for range askers {
				await(t, "a request that waits for the log", log.asked)
			}
			s.stop()
			page := func() string {
				out := httpGet(s.srv.AdminHandler(), "/readyz")
				return fmt.Sprint(out.Code, out.Body)
			}
			eventually(t, "not ready while it stops",
				func() bool { return strings.HasPrefix(page(), "503") && strings.Contains(page(), "stopping") })
			eventually(t, "no new connection", func() bool {
				c, err := net.Dial("tcp", firstOf(s.rest, s.grpc))
				if err == nil {
					_ = c.Close()
				}
				return err != nil
			})
			select {
			case err := <-ended:
				t.Fatalf("a request ended before the log answered: %v", err)
			case err := <-s.done:
				t.Fatalf("the server stopped before its requests: %v", err)
			default:
			}
			close(log.go_)
			for range askers {
				must(t, await(t, "the end of a request", ended))
			}
			must(t, await(t, "the end of the server", s.done))
		})
	}
}

// F11: requests that do not end within the drain time are aborted, over every listener, and the server ends.
func TestStopCuts(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			w := newFixture(t, false)
			log := deferred{w.set, make(chan struct{}, 8), make(chan struct{})}
			var err error
			w.core.Authority, err = ca.New(ca.Options{Chain: w.pki.Chain, Signer: w.pki.Key, Log: log})
			must(t, err)
			s := w.serve(server.Options{Limits: server.Limits{Drain: 200 * time.Millisecond}}, m.http, m.grpc, m.one)
			askers := w.askers(s)
			ended := make(chan error, len(askers))
			for _, ask := range askers {
				go func() { ended <- ask(t.Context()) }()
			}
			for range askers {
				await(t, "a request that waits for the log", log.asked)
			}
			s.stop()
			for range askers {
				if err := await(t, "the end of a request", ended); err == nil {
					t.Error("a certificate without an answer of the log")
				}
			}
			must(t, await(t, "the end of the server", s.done))
		})
	}
}

// F3: a request that is not received completely within the time limit is ended, over every listener, and the client
// gets the reason.
func TestReceiptHasADeadline(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		if m.grpc {
			t.Run("gRPC, "+m.name, func(t *testing.T) {
				t.Parallel()
				w := newFixture(t, false)
				s := w.serve(server.Options{}, m.http, m.grpc, m.one)
				began := time.Now()
				trailer := halfStream(t, s.grpc)
				if took := time.Since(began); took < 9*time.Second || took > 40*time.Second {
					t.Errorf("it ended after %s", took)
				}
				if trailer["grpc-status"] != fmt.Sprint(int(codes.DeadlineExceeded)) ||
					!strings.Contains(trailer["grpc-message"], "not received within 10s") {
					t.Errorf("trailers %v", trailer)
				}
			})
		}
		if m.http {
			t.Run("REST, "+m.name, func(t *testing.T) {
				t.Parallel()
				w := newFixture(t, false)
				s := w.serve(server.Options{}, m.http, m.grpc, m.one)
				c, err := net.Dial("tcp", s.rest)
				must(t, err)
				defer c.Close() //nolint:errcheck // the server has closed it
				_, err = io.WriteString(c, "POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 51200\r\n\r\n{\"a")
				must(t, err)
				must(t, c.SetReadDeadline(time.Now().Add(40*time.Second)))
				began := time.Now()
				_, err = io.ReadAll(c)
				if took := time.Since(began); err != nil && !errors.Is(err, net.ErrClosed) &&
					strings.Contains(err.Error(), "timeout") || took < 9*time.Second {
					t.Errorf("it ended after %s: %v", took, err)
				}
			})
		}
	}
}

// halfStream sends the beginning of a request over HTTP/2 and returns the trailers of its end.
func halfStream(t *testing.T, address string) map[string]string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	must(t, err)
	defer c.Close() //nolint:errcheck // nothing is lost
	must(t, c.SetDeadline(time.Now().Add(60*time.Second)))
	_, err = io.WriteString(c, http2.ClientPreface)
	must(t, err)
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	must(t, f.WriteSettings())
	var block strings.Builder
	e := hpack.NewEncoder(&block)
	for _, h := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", "/dev.sigstore.fulcio.v2.CA/CreateSigningCertificate"},
		{":authority", "localhost"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		must(t, e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}))
	}
	must(t, f.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: []byte(block.String()),
		EndHeaders: true,
	}))
	must(t, f.WriteData(1, false, []byte{0, 0, 0, 200, 0, 'a', 'b', 'c'}))
	out := map[string]string{}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("%v; so far %v", err, out)
		}
		switch frame := frame.(type) {
		case *http2.PingFrame:
			if !frame.IsAck() {
				must(t, f.WritePing(true, frame.Data))
			}
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				must(t, f.WriteSettingsAck())
			}
		case *http2.MetaHeadersFrame:
			for _, h := range frame.Fields {
				out[h.Name] = h.Value
			}
			if frame.StreamEnded() {
				return out
			}
		case *http2.RSTStreamFrame:
			t.Fatalf("reset: %v; so far %v", frame.ErrCode, out)
		}
	}
}

// The source of a request is the address of the connection, unless that is a trusted proxy: then it is the last address
// in X-Forwarded-For that is not a trusted proxy. The entries before it are not trusted. This holds for every listener.
func TestSource(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		for _, c := range []struct{ trusted, forwarded, want string }{
			{"", "203.0.113.9", "127.0.0.1"},
			{"10.0.0.0/8", "203.0.113.9", "127.0.0.1"},
			{"127.0.0.0/8", "203.0.113.9", "203.0.113.9"},
			{"127.0.0.0/8", "198.51.100.1, 203.0.113.9", "203.0.113.9"},
			{"127.0.0.0/8,10.0.0.0/8", "198.51.100.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"},
		} {
			t.Run(m.name+"/"+c.trusted+"/"+c.forwarded, func(t *testing.T) {
				t.Parallel()
				w := newFixture(t, false)
				s := w.serve(server.Options{Logger: w.logger, Proxies: prefixes(t, c.trusted)}, m.http, m.grpc, m.one)
				if s.rest != "" {
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
						"http://"+s.rest+"/api/v2/signingCert", strings.NewReader(w.body("x")))
					must(t, err)
					req.Header.Set("X-Forwarded-For", c.forwarded)
					req.Header.Set("X-Request-Id", "over-rest")
					res, err := http.DefaultClient.Do(req)
					must(t, err)
					must(t, res.Body.Close())
					w.logged(t, "over-rest", "source", c.want)
				}
				if s.grpc != "" {
					conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
					must(t, err)
					defer conn.Close() //nolint:errcheck // nothing is lost
					ctx := metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-for", c.forwarded,
						"x-request-id", "over-grpc")
					if _, err = fulciopb.NewCAClient(conn).CreateSigningCertificate(ctx,
						w.message("x")); status.Code(err) != codes.InvalidArgument {
						t.Fatal(err)
					}
					w.logged(t, "over-grpc", "source", c.want)
				}
			})
		}
	}
}

// logged checks an attribute of the record of a request.
func (w *fixture) logged(t *testing.T, id, key, want string) {
	t.Helper()
	var got any
	eventually(t, "logged "+id, func() bool {
		for line := range strings.Lines(w.logs.String()) {
			var record map[string]any
			if json.Unmarshal([]byte(line), &record) == nil && record["request_id"] == id {
				got = record[key]
				return true
			}
		}
		return false
	})
	if got != want {
		t.Errorf("%s of %s is %v, want %s", key, id, got, want)
	}
}

// The request ID of a caller is used only if it is short and consists of letters, digits and "._-"; otherwise the
// request gets a new one. This holds for answers and refusals over every transport, so that no ID can break the JSON of
// an answer or a record.
func TestRequestIDs(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			w := newFixture(t, false)
			control := admission.New(admission.Options{Requests: 1})
			s := w.serve(server.Options{Admission: control}, m.http, m.grpc, m.one)
			for _, full := range []bool{false, true} {
				if full {
					must(t, control.Acquire(withSource(t.Context(), "127.0.0.1")))
				}
				for id, sane := range map[string]bool{
					"my-id.1_A": true, strings.Repeat("a", 64): true, strings.Repeat("a", 65): false, `a"b`: false,
					"a b": false, "a/b": false, "é": false, `"},{"x":"`: false,
				} {
					if s.rest != "" {
						req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
							"http://"+s.rest+"/api/v2/signingCert", strings.NewReader(w.body("x")))
						must(t, err)
						req.Header.Set("X-Request-Id", id)
						res, err := http.DefaultClient.Do(req)
						must(t, err)
						data, err := io.ReadAll(res.Body)
						must(t, errors.Join(err, res.Body.Close()))
						var a answer
						if err := json.Unmarshal(data, &a.status); err != nil || len(a.status.Details) == 0 {
							t.Fatalf("full %t: %v: %s", full, err, data)
						}
						head, inside := res.Header.Get("X-Request-Id"), a.status.Details[0].Metadata["request_id"]
						if head != inside || (head == id) != sane || head == "" {
							t.Errorf("full %t: %q: the header has %q, the error %q", full, id, head, inside)
						}
					}
					if s.grpc != "" && id != "é" { // the client library refuses this ID
						conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
						must(t, err)
						var header metadata.MD
						_, err = fulciopb.NewCAClient(conn).CreateSigningCertificate(metadata.AppendToOutgoingContext(t.Context(), "x-request-id", id), w.message("x"), grpc.Header(&header))
						must(t, conn.Close())
						if got := strings.Join(header.Get("x-request-id"), ","); err == nil ||
							(got == id) != sane || got == "" {
							t.Errorf("full %t: %q: the header has %q; %v", full, id, got, err)
						}
					}
				}
			}
		})
	}
}

// F3: a request for a certificate takes no longer than its limit, over every listener, and the client is told that the
// server is at fault.
func TestRequestLimit(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			w := newFixture(t, false)
			log := deferred{w.set, make(chan struct{}, 8), make(chan struct{})}
			var err error
			w.core.Authority, err = ca.New(ca.Options{Chain: w.pki.Chain, Signer: w.pki.Key, Log: log})
			must(t, err)
			s := w.serve(server.Options{Limits: server.Limits{Request: 300 * time.Millisecond}}, m.http, m.grpc, m.one)
			for name, ask := range w.askers(s) {
				began := time.Now()
				err := ask(t.Context())
				if took := time.Since(began); err == nil || took > 15*time.Second ||
					!strings.Contains(err.Error(), "not ready") {
					t.Errorf("%s: after %s: %v", name, took, err)
				}
			}
		})
	}
}
