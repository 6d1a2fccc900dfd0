package ctlog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/tbs"
)

// rawLog answers requests with bytes of the test's.
type rawLog struct {
	net.Listener
	dials  atomic.Int64
	serve  func(c net.Conn, r *http.Request, body []byte) bool // false closes the connection
	closed sync.WaitGroup
}

func newRawLog(t testing.TB, serve func(net.Conn, *http.Request, []byte) bool) *rawLog {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &rawLog{Listener: listener, serve: serve}
	l.closed.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			l.dials.Add(1)
			l.closed.Go(func() { l.talk(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		l.closed.Wait()
	})
	return l
}

func (l *rawLog) talk(c net.Conn) {
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

// wire opens the product's side.
func (l *rawLog) wire(t testing.TB) *wire {
	t.Helper()
	u := &url.URL{Scheme: "http", Host: l.Addr().String(), Path: "/lab/ct/v1/add-pre-chain"}
	w := newWire(u, names{u.Host, "lab/1"}, &net.Dialer{Timeout: time.Second})
	t.Cleanup(w.close) // before the log's: it waits for the ends of connections
	return w
}

// heard waits until what the log said, or the end of the connection, has come to the idle connections.
func (w *wire) heard(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		quiet := slices.ContainsFunc(w.idle, func(l *line) bool { return silent(l.conn) })
		w.mu.Unlock()
		if !quiet {
			return
		}
		if time.Now().After(end) {
			t.Fatal("nothing came")
		}
	}
}

func write(c net.Conn, text string) { _, _ = io.WriteString(c, text) }

var somePrecert = &tbs.Precertificate{DER: bytes.Repeat([]byte("precert"), 200), Chain: [][]byte{[]byte("issuer"), []byte("root")}}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

// The request is what RFC 6962 §4.2 asks for, and one connection serves those that come one after the other.
func TestWireRequest(t *testing.T) {
	t.Parallel()
	l := newRawLog(t, func(c net.Conn, r *http.Request, body []byte) bool {
		var got struct{ Chain [][]byte }
		err := json.Unmarshal(body, &got)
		if err != nil || len(got.Chain) != 3 || !bytes.Equal(got.Chain[0], somePrecert.DER) || string(got.Chain[1])+string(got.Chain[2]) != "issuerroot" {
			t.Errorf("body is %s, %v", body, err)
		}
		if r.Method != http.MethodPost || r.RequestURI != "/lab/ct/v1/add-pre-chain" || r.Host != c.LocalAddr().String() || r.Proto != "HTTP/1.1" || r.ContentLength != int64(len(body)) {
			t.Errorf("%s %s %s to %s", r.Method, r.RequestURI, r.Proto, r.Host)
		}
		if h := fmt.Sprint(r.Header); h != "map[Content-Length:["+fmt.Sprint(len(body))+"] Content-Type:[application/json] User-Agent:[lab/1]]" {
			t.Errorf("header is %s", h)
		}
		write(c, fine)
		return true
	})
	w := l.wire(t)
	for range 5 {
		if got, err := w.post(t.Context(), somePrecert); err != nil || got.status != 200 || string(got.body) != "{}" {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if n := l.dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// What is no business of a plain connection goes over the library's transport.
func TestWireIsNotForAll(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"http://127.0.0.1:6962/x": "127.0.0.1:6962", "http://localhost/x": "localhost:80", "http://[::1]/x": "[::1]:80", "http://[::1]:90/x": "[::1]:90",
		"https://127.0.0.1/x": "", "http://bücher.example/x": "",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		w := newWire(u, names{host: u.Host}, nil)
		if got := ""; w != nil && w.address != want || w == nil && want != got {
			t.Errorf("%s: %+v", text, w)
		}
	}
}

// answers are what a log may write, and how many connections two requests then take over a wire.
var answers = []struct {
	name, text string
	close      bool // by the log
	dials      int64
}{
	{"plain", fine, false, 1},
	{"busy", "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy", false, 1},
	{"no body", "HTTP/1.1 204 No Content\r\n\r\n", false, 1},
	{"empty body", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 1},
	{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", false, 1},
	{"interim answers", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" + fine, false, 1},
	{"until the end", "HTTP/1.1 200 OK\r\n\r\n{}", true, 2},
	{"close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", false, 2},
	{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", true, 2},
	{"closed without a word", fine, true, 2},
	{"redirect", "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", false, 1},
	{"nothing", "", true, 2},
	{"half a line", "HTTP/1.1 20", true, 2},
	{"half a head", "HTTP/1.1 200 OK\r\nContent-", true, 2},
	{"half a body", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", true, 2},
	{"half a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}", true, 2},
	{"no HTTP", "SSH-2.0-lab\r\n\r\n", true, 2},
	{"no status", "HTTP/1.1 OK\r\n\r\n", true, 2},
	{"no length", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}", true, 2},
	{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", true, 2},
	{"long body", "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat(" ", 100000), false, 2},
	{"long chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n" + strings.Repeat(" ", 100000) + "\r\n0\r\n\r\n", false, 2},
	{"long body without end", "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat(" ", 200000), true, 2},
}

// B11: whatever a log answers, a wire says of it what the library's transport says, and keeps the connection only where both know
// where the answer ends.
func TestWireAnswers(t *testing.T) {
	t.Parallel()
	for _, row := range answers {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := newRawLog(t, func(c net.Conn, _ *http.Request, _ []byte) bool {
				write(c, row.text)
				return !row.close
			})
			transport := newTransport(nil, &net.Dialer{}, time.Second)
			defer transport.CloseIdleConnections()
			w := l.wire(t)
			theirs := newSubmission(&url.URL{Scheme: "http", Host: w.address, Path: "/"},
				names{host: w.address}, transport)
			want, wantErr := theirs.post(t.Context(), somePrecert)
			before := l.dials.Load()
			for range 2 {
				got, err := w.post(t.Context(), somePrecert)
				switch {
				case (err == nil) != (wantErr == nil):
					t.Errorf("error is %v; the transport's %v", err, wantErr)
				case err != nil && callFailure(err).Result != callFailure(wantErr).Result:
					t.Errorf("error is %v; the transport's %v", callFailure(err), callFailure(wantErr))
				case err == nil && (got.status != want.status || got.retryAfter != want.retryAfter || !bytes.Equal(got.body, want.body)):
					t.Errorf("answer is %+v; the transport's %+v", got, want)
				}
				if row.close {
					w.heard(t)
				}
			}
			if n := l.dials.Load() - before; n != row.dials {
				t.Errorf("%d connections for two requests, want %d", n, row.dials)
			}
		})
	}
}

// B11: heads without end, and interim answers without end, are read up to a limit.
func TestWireIsBounded(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"head": "HTTP/1.1 200 OK\r\nX: ", "line": "HTTP/1.1 200 ", "headers": "HTTP/1.1 200 OK\r\n", "interim": "",
	} {
		var written atomic.Int64
		more := map[string]string{"head": "xxxxxxxxxxxxxxxx", "line": "xxxxxxxxxxxxxxxx", "headers": "X-Y: zzzzzz\r\n", "interim": "HTTP/1.1 103 Early Hints\r\n\r\n"}[name]
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
		if got, err := l.wire(t).post(t.Context(), somePrecert); err == nil {
			t.Errorf("%s: no error, but %+v", name, got)
		}
		_ = l.Close()
		l.closed.Wait()
		if n := written.Load(); n >= 64<<20 {
			t.Errorf("%s: %d bytes were taken", name, n)
		}
	}
}

// B11: what a log says without being asked is not taken for an answer, and a connection that it closed is not used.
func TestWireListensFirst(t *testing.T) {
	t.Parallel()
	for name, unasked := range map[string]string{"late": "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", "at once": fine, "end": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newRawLog(t, func(c net.Conn, _ *http.Request, _ []byte) bool {
				if name == "at once" {
					write(c, fine+unasked)
					return true
				}
				write(c, fine)
				write(c, unasked)
				if name == "end" {
					_ = c.Close()
				}
				return name != "end"
			})
			w := l.wire(t)
			for range 2 {
				if got, err := w.post(t.Context(), somePrecert); err != nil || got.status != http.StatusOK {
					t.Fatalf("%+v, %v", got, err)
				}
				if name != "at once" {
					w.heard(t)
				}
			}
			if n := l.dials.Load(); n != 2 {
				t.Errorf("%d connections, want 2", n)
			}
		})
	}
}

// B8: a caller who leaves is not kept, wherever the request is, and the connection is not used again.
func TestWireCallerLeaves(t *testing.T) {
	t.Parallel()
	const body = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
	for name, first := range map[string]string{"before the answer": "", "in the head": "HTTP/1.1 200 OK\r\nX-", "in the body": body + "{", "after an interim answer": "HTTP/1.1 100 Continue\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reached := make(chan struct{})
			var calls atomic.Int64
			l := newRawLog(t, func(c net.Conn, _ *http.Request, _ []byte) bool {
				if calls.Add(1) > 1 {
					write(c, fine)
					return true
				}
				write(c, first)
				close(reached)
				_, _ = c.Read(make([]byte, 1)) // until the other side closes
				return false
			})
			w := l.wire(t)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-reached
				cancel()
			}()
			if _, err := w.post(ctx, somePrecert); !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v", err)
			}
			if _, err := w.post(ctx, somePrecert); !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v", err)
			}
			if got, err := w.post(t.Context(), somePrecert); err != nil || string(got.body) != "{}" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// No more connections than may be; those who wait for one leave when their time is up; idle ones are closed.
func TestWireConnections(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	l := newRawLog(t, func(c net.Conn, _ *http.Request, _ []byte) bool {
		<-release
		write(c, fine)
		return true
	})
	w := l.wire(t)
	w.places = make(chan struct{}, 3)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, err := w.post(t.Context(), somePrecert); err != nil {
				t.Error(err)
			}
		})
	}
	for len(w.places) < cap(w.places) {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := w.post(ctx, somePrecert); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	close(release)
	all.Wait()
	if n := l.dials.Load(); n > 3 || len(w.idle) != int(n) {
		t.Errorf("%d connections, %d idle", n, len(w.idle))
	}
	w.idle[0].since = time.Now().Add(-2 * idleTime)
	n := len(w.idle)
	if w.reap(time.Now().Add(-idleTime)); len(w.idle) != n-1 || (w.reaper == nil) != (n == 1) {
		t.Errorf("%d of %d are idle", len(w.idle), n)
	}
	w.close()
	if _, err := w.post(t.Context(), somePrecert); err != nil || len(w.idle) != 0 || w.reaper != nil {
		t.Errorf("%v, %d idle after the end", err, len(w.idle))
	}
}

// B11: a wire neither hangs nor panics on what a log writes, and agrees with the library's transport on every answer that both take.
func FuzzWireAnswer(f *testing.F) {
	for _, row := range answers {
		f.Add([]byte(row.text))
	}
	pipe := func(text []byte) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
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
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		dial := pipe(text)
		transport := newTransport(nil, &net.Dialer{}, 5*time.Second)
		transport.DialContext = dial
		defer transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // the transport waits for the end of what is none
		defer cancel()
		want, wantErr := newSubmission(&url.URL{Scheme: "http", Host: "ct.example.com", Path: "/"},
			names{host: "ct.example.com"}, transport).post(ctx, somePrecert)
		conn, _ := dial(t.Context(), "", "")
		l := &line{conn: conn}
		l.in = bufio.NewReader(l)
		got, _, err := l.ask("POST / HTTP/1.1\r\nHost: ct.example.com\r\nContent-Length: ", somePrecert)
		_ = conn.Close()
		if wantErr == nil && err == nil && (got.status != want.status || got.retryAfter != want.retryAfter || !bytes.Equal(got.body, want.body)) {
			t.Errorf("answer is %+v; the transport's %+v", got, want)
		}
	})
}
