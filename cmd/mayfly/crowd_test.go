package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"

	"github.com/mayfly-ca/mayfly/testkit/process"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// crowdSize returns the number of connections of a crowd: few by default, MAYFLY_CROWD with "make crowd".
func crowdSize(t *testing.T) (size int, full bool) {
	t.Helper()
	text := os.Getenv("MAYFLY_CROWD")
	if text == "" {
		return 300, false
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 15000 {
		t.Fatalf("MAYFLY_CROWD=%q: write a number of connections, up to 15000", text)
	}
	return n, true
}

// behavior is the activity of one connection of a crowd. It returns when the connection is closed.
type behavior func(context.Context, net.Conn)

// behaviors returns the ways to keep a connection open without a complete request.
func behaviors() map[string]behavior {
	halfStreams := func(streams int) behavior {
		return func(_ context.Context, c net.Conn) {
			f := preface(c)
			for i := range streams {
				halfStream(f, uint32(2*i+1), 51200)
			}
			answerPings(c, f)
		}
	}
	send := func(text string) behavior {
		return func(_ context.Context, c net.Conn) {
			_, _ = io.WriteString(c, text)
			_, _ = io.Copy(io.Discard, c)
		}
	}
	return map[string]behavior{
		"silent":        send(""),
		"half a header": send("POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\n"),
		"half a body": send("POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nContent-Type: " +
			"application/json\r\nContent-Length: 51200\r\n\r\n{\"a"),
		"idle HTTP/2":   halfStreams(0),
		"half a stream": halfStreams(1),
		"many streams":  halfStreams(256),
		"large streams": largeStreams,
		"half a frame": func(_ context.Context, c net.Conn) {
			f := preface(c)
			_ = f.Flush()
			_, _ = c.Write([]byte{0, 0x40, 0, 0, 0})
			_, _ = io.Copy(io.Discard, c)
		},
		"resets":         resets,
		"pings":          pings,
		"never reads":    neverReads,
		"never reads h2": neverReadsStreams,
		"handshakes":     handshakes(),
	}
}

// handshakes sends the first message of a TLS handshake, waits for the answer of the server, and begins again over a
// new connection. The message is made once, so that a handshake costs the client nothing and the server a key exchange
// and a signature.
func handshakes() behavior {
	here, there := net.Pipe()
	go func() {
		_ = tls.Client(here, &tls.Config{ServerName: "localhost"}).Handshake() // it ends when the pipe is closed
	}()
	hello := make([]byte, 1<<14)
	n, err := there.Read(hello)
	_ = there.Close()
	if err != nil {
		panic(err) // a pipe has no errors
	}
	return func(ctx context.Context, c net.Conn) {
		for ctx.Err() == nil {
			_, _ = c.Write(hello[:n])
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err := c.Read(make([]byte, 1))
			_ = c.Close()
			if err != nil {
				return // there is no room; crowd pauses
			}
			if c, err = from("127.0.0.1").DialContext(ctx, "tcp", c.RemoteAddr().String()); err != nil {
				return
			}
		}
	}
}

// bufferedFramer is a framer that sends its frames when Flush is called.
type bufferedFramer struct {
	*http2.Framer
	out *bytes.Buffer
	to  net.Conn
}

func (f *bufferedFramer) Flush() error {
	_, err := f.to.Write(f.out.Bytes())
	f.out.Reset()
	return err
}

func preface(c net.Conn) *bufferedFramer {
	out := new(bytes.Buffer)
	f := &bufferedFramer{http2.NewFramer(out, c), out, c}
	out.WriteString(http2.ClientPreface)
	_ = f.WriteSettings()
	return f
}

func headers(f *bufferedFramer, stream uint32, path string, end bool) {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	e.SetMaxDynamicTableSize(0)
	for _, h := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", path},
		{":authority", "localhost"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		_ = e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: block.Bytes(),
		EndHeaders: true, EndStream: end,
	})
}

const createPath = "/dev.sigstore.fulcio.v2.CA/CreateSigningCertificate"

// halfStream sends the first half of a message of the given size.
func halfStream(f *bufferedFramer, stream uint32, size int) {
	headers(f, stream, createPath, false)
	_ = f.WriteData(stream, false, []byte{0, 0, byte(size >> 8), byte(size), 'a', 'b', 'c'})
}

// answerPings behaves as a correct HTTP/2 client that sends no request.
func answerPings(c net.Conn, f *bufferedFramer) {
	if f.Flush() != nil {
		return
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.PingFrame:
			if !frame.IsAck() {
				_ = f.WritePing(true, frame.Data)
			}
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		}
		if f.out.Len() > 0 && f.Flush() != nil {
			return
		}
	}
}

// largeStreams sends all but the last byte of messages of 50 KiB.
func largeStreams(_ context.Context, c net.Conn) {
	f := preface(c)
	const size = 51200
	for i := range 16 {
		id := uint32(2*i + 1)
		halfStream(f, id, size)
		for sent := 3; sent < size-1; {
			n := min(16384, size-1-sent)
			_ = f.WriteData(id, false, make([]byte, n))
			sent += n
		}
	}
	answerPings(c, f)
}

// resets opens streams and resets them immediately, until the server closes the connection.
func resets(_ context.Context, c net.Conn) {
	go func() { _, _ = io.Copy(io.Discard, c) }()
	f := preface(c)
	for id := uint32(1); id < 1<<22; {
		for range 64 {
			halfStream(f, id, 51200)
			_ = f.WriteRSTStream(id, http2.ErrCodeCancel)
			id += 2
		}
		if f.Flush() != nil {
			return
		}
		time.Sleep(time.Millisecond) // the client shares the machine
	}
}

// pings sends frames that each require a response.
func pings(_ context.Context, c net.Conn) {
	go func() { _, _ = io.Copy(io.Discard, c) }()
	f := preface(c)
	for {
		for range 64 {
			_ = f.WritePing(false, [8]byte{1})
			_ = f.WriteSettings()
		}
		if f.Flush() != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// neverReads sends requests over HTTP/1.1 and reads no response.
func neverReads(_ context.Context, c net.Conn) {
	for {
		if _, err := io.WriteString(c, strings.Repeat("GET /api/v2/trustBundle HTTP/1.1\r\nHost: x\r\n\r\n",
			16)); err != nil {
			return
		}
	}
}

// neverReadsStreams does the same over gRPC.
func neverReadsStreams(_ context.Context, c net.Conn) {
	f := preface(c)
	for id := uint32(1); id < 1<<22; {
		for range 64 {
			headers(f, id, "/dev.sigstore.fulcio.v2.CA/GetTrustBundle", false)
			_ = f.WriteData(id, true, make([]byte, 5))
			id += 2
		}
		if f.Flush() != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// from returns a dialer that uses the given source address.
func from(address string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: 5 * time.Second}
}

// crowd keeps n connections open that behave like m, from 127.0.0.1, until ctx ends. A connection that is closed is
// opened again.
func crowd(ctx context.Context, n int, address string, m behavior) (wait func()) {
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for ctx.Err() == nil {
				c, err := from("127.0.0.1").DialContext(ctx, "tcp", address)
				if err == nil {
					stop := context.AfterFunc(ctx, func() { _ = c.Close() })
					m(ctx, c)
					stop()
					_ = c.Close()
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Second + rand.N(2*time.Second)): //nolint:gosec // jitter
				}
			}
		})
	}
	return all.Wait
}

// requester requests certificates from another source address, over a new connection each time, and counts failures.
type requester struct {
	asked, lost atomic.Int64
	last        atomic.Pointer[error]
}

func (s *requester) sign(rest bool, server *process.Server, r process.Request) {
	s.asked.Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var err error
	if rest {
		err = signREST(ctx, server, r)
	} else {
		err = signGRPC(ctx, server, r)
	}
	if err != nil {
		s.lost.Add(1)
		s.last.Store(&err)
	}
}

func signREST(ctx context.Context, s *process.Server, r process.Request) error {
	transport := &http.Transport{
		DialContext: from("127.0.0.2").DialContext, DisableKeepAlives: true, TLSClientConfig: s.TLS,
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"/api/v2/signingCert",
		bytes.NewReader(r.JSON))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // read to the end
	data, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, data)
	}
	return err
}

func signGRPC(ctx context.Context, s *process.Server, r process.Request) error {
	conn, err := grpc.NewClient("passthrough:///"+s.GRPC, grpc.WithTransportCredentials(s.Credentials()),
		grpc.WithContextDialer(func(ctx context.Context, at string) (net.Conn, error) {
			return from("127.0.0.2").DialContext(ctx, "tcp", at)
		}))
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // the call has ended
	_, err = fulciopb.NewCAClient(conn).CreateSigningCertificate(ctx, r.Proto)
	return err
}

// rss returns the resident memory of the process in bytes.
func rss(t *testing.T, s *process.Server) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Cmd.Process.Pid))
	if err != nil {
		t.Skip("there is no /proc")
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	var kb int
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// F2 // F3 // F8: with many connections from one address, whatever their behavior, less than a tenth of the requests of
// a client with another address fail, and the memory of the server grows by less than 100 MB. This holds for every
// listener and both kinds of requests.
func TestCrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a while")
	}
	size, full := crowdSize(t)
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	requests := process.Requests(t, provider)
	for _, mode := range []struct {
		name       string
		one        bool
		crowd      string // listener of the crowd
		rest, grpc bool   // transports of the client
	}{
		{"REST", false, "http", true, false},
		{"gRPC", false, "grpc", false, true},
		{"one port", true, "http", true, true},
	} {
		for name, m := range behaviors() {
			h2 := strings.Contains(name, "stream") || strings.Contains(name, "h2") ||
				strings.Contains(name, "HTTP/2") || strings.Contains(name, "frame") ||
				name == "resets" || name == "pings"
			flood := name == "resets" || name == "pings" || strings.HasPrefix(name, "never") ||
				name == "many streams" || name == "large streams"
			if flood && !full {
				continue // it would use all processors of the machine
			}
			secured := name == "handshakes"
			if secured && !mode.one {
				continue // two ports have the same handshakes
			}
			if mode.name == "REST" && h2 || mode.name == "gRPC" && !h2 && name != "silent" {
				continue // the listener would close it at the first byte
			}
			if onePort := secured || name == "silent" || name == "idle HTTP/2"; !full && mode.one != onePort {
				continue // each listener and each behavior, but not each pair, which "make crowd" has
			}
			t.Run(mode.name+"/"+name, func(t *testing.T) {
				if !full {
					t.Parallel()
				}
				set := process.Setup{
					PKI: pki.New(pki.Options{}), Issuer: provider.URL(), One: mode.one,
					Admin: true, TLS: secured,
				}
				n, last := size, 20*time.Second
				if secured {
					n = size / 10
				}
				if flood {
					n = size / 10 // each connection causes the work of a hundred idle ones
				}
				if !full {
					set.More, last = "limits: {connections: 128}\n", 3*time.Second
				}
				s := process.Serve(t, set)
				address := map[string]string{"http": s.HTTP, "grpc": s.GRPC}[mode.crowd]
				for i := range 20 { // fill buffers and caches
					for _, rest := range []bool{true, false} {
						if rest && mode.rest {
							_ = signREST(t.Context(), s, requests[i])
						} else if !rest && mode.grpc {
							_ = signGRPC(t.Context(), s, requests[i])
						}
					}
				}
				before := rss(t, s)
				ctx, cancel := context.WithCancel(t.Context())
				wait := crowd(ctx, n, address, m)
				defer wait()
				defer cancel()
				var client requester
				most := before
				var calls sync.WaitGroup
				for i, end := 0, time.Now().Add(last); time.Now().Before(end); i++ {
					calls.Go(func() {
						rest := mode.rest && (!mode.grpc || i%2 == 0)
						client.sign(rest, s, requests[i%len(requests)])
					})
					time.Sleep(50 * time.Millisecond) // the interval of the client's requests
					most = max(most, rss(t, s))
				}
				calls.Wait()
				t.Logf("%d connections: %d of %d requests lost, %d -> %d MB", n, client.lost.Load(),
					client.asked.Load(), before>>20, most>>20)
				if 10*client.lost.Load() >= client.asked.Load() {
					t.Errorf("%d of %d requests are lost: %v", client.lost.Load(), client.asked.Load(),
						*client.last.Load())
				}
				room := 100 << 20
				if process.RaceDetector {
					room *= 4
				}
				if grown := most - before; grown >= room {
					t.Errorf("the memory grew by %d MB", grown>>20)
				}
				if secured {
					_, page := process.Get(t, "http://"+s.Admin+"/metrics")
					t.Log(regexp.MustCompile(`(?m)^mayfly_tls_handshakes.*$`).FindAllString(string(page), -1))
				}
				if n > 128 && !full {
					_, page := process.Get(t, "http://"+s.Admin+"/metrics")
					if want := fmt.Sprintf(`mayfly_server_connections_refused_total{cause="source_limit",listener=%q} 0`, mode.crowd); strings.Contains(string(page), want) {
						t.Error("no connection was refused")
					}
					if _, page := process.Get(t, "http://"+s.Admin+"/readyz"); !strings.Contains(string(page),
						"one source has reached its limit of connections, or floods the server: 127.0.0.1") {
						t.Errorf("readiness: %s", page)
					}
				}
			})
		}
	}
}
