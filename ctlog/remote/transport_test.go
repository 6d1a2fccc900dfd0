package remote

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
)

// rawLog answers requests with bytes that the test chooses.
type rawLog struct {
	net.Listener
	dials  atomic.Int64
	closes atomic.Int64                                        // by the client
	serve  func(c net.Conn, r *http.Request, body []byte) bool // false closes the connection
	served sync.WaitGroup
}

func newRawLog(t testing.TB, serve func(net.Conn, *http.Request, []byte) bool) *rawLog {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &rawLog{Listener: listener, serve: serve}
	l.served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			l.served.Go(func() { l.handle(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Listener.Close()
		l.served.Wait()
	})
	return l
}

func (l *rawLog) handle(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || !l.serve(c, r, body) {
			return
		}
	}
}

// open opens the client of the log, which counts connections.
func (l *rawLog) open(t testing.TB) *Log {
	t.Helper()
	c := openURL(t, "http://"+l.Addr().String()+"/lab")
	c.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		l.dials.Add(1)
		return &countedConn{Conn: conn, closes: &l.closes}, nil
	}
	return c
}

func openURL(t testing.TB, url string) *Log {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(Config{Name: "lab", URL: url, Insecure: true}, Options{
		PublicKeyPEM: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}),
		UserAgent:    "lab/1", Timeout: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close) // before the server's cleanup, which waits for the ends of connections
	return c
}

// countedConn counts its first Close.
type countedConn struct {
	net.Conn
	once   sync.Once
	closes *atomic.Int64
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.closes.Add(1) })
	return c.Conn.Close()
}

// awaitClosed waits until the client has closed every connection.
func (l *rawLog) awaitClosed(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); l.closes.Load() < l.dials.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d connections were closed", l.closes.Load(), l.dials.Load())
		}
	}
}

// post sends a precertificate; any JSON is an acceptable answer.
func post(ctx context.Context, l *Log) (reply, error) {
	return l.call(ctx, maxSCTBody, func(c client) error {
		var answer any
		_, _, err := c.PostAndParse(ctx, ct.AddPreChainPath, ct.AddChainRequest{Chain: someChain}, &answer) //nolint:bodyclose // closed inside
		return err
	})
}

func write(c net.Conn, text string) { _, _ = io.WriteString(c, text) }

var someChain = [][]byte{bytes.Repeat([]byte("precert"), 200), []byte("issuer"), []byte("root")}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

// The request is that of RFC 6962 §4.2, and one connection carries requests that follow each other.
func TestRequest(t *testing.T) {
	t.Parallel()
	l := newRawLog(t, func(c net.Conn, r *http.Request, body []byte) bool {
		var got struct{ Chain [][]byte }
		err := json.Unmarshal(body, &got)
		if err != nil || len(got.Chain) != 3 || !bytes.Equal(got.Chain[0], someChain[0]) ||
			string(got.Chain[1])+string(got.Chain[2]) != "issuerroot" {
			t.Errorf("body is %s, %v", body, err)
		}
		if r.Method != http.MethodPost || r.RequestURI != "/lab/ct/v1/add-pre-chain" ||
			r.Host != c.LocalAddr().String() || r.Proto != "HTTP/1.1" || r.ContentLength != int64(len(body)) {
			t.Errorf("%s %s %s to %s", r.Method, r.RequestURI, r.Proto, r.Host)
		}
		want := "map[Content-Length:[" + fmt.Sprint(len(body)) + "] Content-Type:[application/json] User-Agent:[lab/1]]"
		if h := fmt.Sprint(r.Header); h != want {
			t.Errorf("header is %s", h)
		}
		write(c, okAnswer)
		return true
	})
	client := l.open(t)
	for range 5 {
		if got, err := post(t.Context(), client); err != nil || got.status != 200 || string(got.body) != "{}" {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if n := l.dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// answers are what a log may write, the status or result that follows, and how many connections two requests then take;
// 0 where net/http decides whether to drain the rest of an answer.
var answers = []struct {
	name, text string
	close      bool // by the log
	want       string
	dials      int64
}{
	{"plain", okAnswer, false, "200", 1},
	{"busy", "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy", false, "503", 1},
	{"no body", "HTTP/1.1 204 No Content\r\n\r\n", false, "204", 1},
	{"empty body", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, "200", 1},
	{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", false, "200", 1},
	{"interim answers", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" +
		okAnswer, false, "200", 1},
	{"until the end", "HTTP/1.1 200 OK\r\n\r\n{}", true, "200", 2},
	{"close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", false, "200", 2},
	{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", true, "200", 2},
	{"closed without notice", okAnswer, true, "200", 2},
	{
		"redirect", "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
		false,
		"307", 1,
	},
	{
		"redirect to GET", "HTTP/1.1 303 See Other\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
		false,
		"303", 1,
	},
	{"nothing", "", true, "unreachable", 2},
	{"half a line", "HTTP/1.1 20", true, "unreachable", 2},
	{"half a head", "HTTP/1.1 200 OK\r\nContent-", true, "unreachable", 2},
	{"half a body", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", true, "unreachable", 2},
	{"half a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}", true, "unreachable", 2},
	{"not HTTP", "SSH-2.0-lab\r\n\r\n", true, "unreachable", 2},
	{"no status", "HTTP/1.1 OK\r\n\r\n", true, "unreachable", 2},
	{"no length", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}", true, "unreachable", 2},
	{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", true, "unreachable", 2},
	{
		"long body", "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat(" ", 100000), false,
		"garbled", 0,
	},
	{
		"long chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n" + strings.Repeat(" ", 100000) +
			"\r\n0\r\n\r\n", false, "garbled", 0,
	},
	{"long body without end", "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat(" ", 200000), true, "garbled", 2},
}

// B11: whatever a log answers is classified, redirects are not followed, and the connection is used again only if the
// end of the answer is known.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, row := range answers {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := newRawLog(t, func(c net.Conn, _ *http.Request, _ []byte) bool {
				write(c, row.text)
				return !row.close
			})
			client := l.open(t)
			for range 2 {
				got, err := post(t.Context(), client)
				result := fmt.Sprint(got.status)
				if got.status == 0 {
					result = string(client.failure(got, err).Result)
				}
				if result != row.want {
					t.Errorf("%s, %v; want %s", result, err, row.want)
				}
				if row.name == "busy" && got.retryAfter != 7*time.Second {
					t.Errorf("Retry-After is %s", got.retryAfter)
				}
				if row.close {
					l.awaitClosed(t)
				}
			}
			if n := l.dials.Load(); row.dials > 0 && n != row.dials {
				t.Errorf("%d connections for two requests, want %d", n, row.dials)
			}
		})
	}
}

// B11: headers without end, and interim answers without end, are read up to a limit.
func TestAnswerIsBounded(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"head": "HTTP/1.1 200 OK\r\nX: ", "line": "HTTP/1.1 200 ", "headers": "HTTP/1.1 200 OK\r\n", "interim": "",
	} {
		var written atomic.Int64
		more := map[string]string{
			"head": "xxxxxxxxxxxxxxxx", "line": "xxxxxxxxxxxxxxxx", "headers": "X-Y: zzzzzz\r\n",
			"interim": "HTTP/1.1 103 Early Hints\r\n\r\n",
		}[name]
		l := newRawLog(t, func(c net.Conn, _ *http.Request, _ []byte) bool {
			write(c, text)
			for written.Load() < 64<<20 {
				n, err := io.WriteString(c, strings.Repeat(more, 1000))
				if written.Add(int64(n)); err != nil {
					break
				}
			}
			return false
		})
		if got, err := post(t.Context(), l.open(t)); err == nil {
			t.Errorf("%s: no error, but %+v", name, got)
		}
		_ = l.Listener.Close()
		l.served.Wait()
		if n := written.Load(); n >= 64<<20 {
			t.Errorf("%s: %d bytes were read", name, n)
		}
	}
}

// B11: bytes that a log sends on an idle connection are not an answer, and a connection that it closed is not used.
func TestUnsolicitedAnswer(t *testing.T) {
	t.Parallel()
	for name, unsolicited := range map[string]string{
		"late": "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", "at once": okAnswer, "end": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newRawLog(t, func(c net.Conn, _ *http.Request, _ []byte) bool {
				if name == "at once" {
					write(c, okAnswer+unsolicited)
					return true
				}
				write(c, okAnswer)
				write(c, unsolicited)
				return name != "end"
			})
			client := l.open(t)
			for range 2 {
				if got, err := post(t.Context(), client); err != nil || got.status != http.StatusOK {
					t.Fatalf("%+v, %v", got, err)
				}
				l.awaitClosed(t)
			}
			if n := l.dials.Load(); n != 2 {
				t.Errorf("%d connections, want 2", n)
			}
		})
	}
}

// B8: a call ends with its context, wherever the request is, and the connection is not used again.
func TestCallerLeavesInAnswer(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
	for name, first := range map[string]string{
		"before the answer": "", "in the head": "HTTP/1.1 200 OK\r\nX-", "in the body": head + "{",
		"after an interim answer": "HTTP/1.1 100 Continue\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reached := make(chan struct{})
			var calls atomic.Int64
			l := newRawLog(t, func(c net.Conn, _ *http.Request, _ []byte) bool {
				if calls.Add(1) > 1 {
					write(c, okAnswer)
					return true
				}
				write(c, first)
				close(reached)
				_, _ = c.Read(make([]byte, 1)) // until the client closes
				return false
			})
			client := l.open(t)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-reached
				cancel()
			}()
			if _, err := post(ctx, client); !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v", err)
			}
			if _, err := post(ctx, client); !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v", err)
			}
			if got, err := post(t.Context(), client); err != nil || string(got.body) != "{}" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// The number of connections is bounded; a call that waits for a connection ends with its context; Close closes idle
// connections, and the log may still be used.
func TestConnections(t *testing.T) {
	t.Parallel()
	release, received := make(chan struct{}), make(chan struct{}, 10)
	l := newRawLog(t, func(c net.Conn, _ *http.Request, _ []byte) bool {
		received <- struct{}{}
		<-release
		write(c, okAnswer)
		return true
	})
	client := l.open(t)
	client.transport.MaxConnsPerHost = 3
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, err := post(t.Context(), client); err != nil {
				t.Error(err)
			}
		})
	}
	for range 3 {
		<-received
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := post(ctx, client); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	close(release)
	all.Wait()
	if n := l.dials.Load(); n != 3 {
		t.Errorf("%d connections", n)
	}
	client.Close()
	l.awaitClosed(t)
	if _, err := post(t.Context(), client); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

// B11: whatever bytes a log writes, a call neither hangs nor panics, and its answer stays within the limit.
func FuzzAnswerBytes(f *testing.F) {
	for _, row := range answers {
		f.Add([]byte(row.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		client := openURL(t, "http://ct.example.com")
		client.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				if r, err := http.ReadRequest(bufio.NewReader(theirs)); err == nil {
					_, _ = io.Copy(io.Discard, r.Body)
					_, _ = theirs.Write(text)
				}
			}()
			return ours, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if got, err := post(ctx, client); len(got.body) > maxSCTBody || err == nil && got.status != http.StatusOK {
			t.Errorf("answer %+v, %v", got, err)
		}
	})
}
