package ship_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/journal/ship"
)

// received collects the records that a receiver accepted.
type received struct {
	mu    sync.Mutex
	lines []string
}

func (r *received) add(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
}

// seqs returns the numbers of the records, each once, in the order of their first arrival.
func (r *received) seqs(t *testing.T) (out []uint64) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[uint64]bool{}
	for _, l := range r.lines {
		rec, err := journal.ParseRecord([]byte(l))
		must(t, err)
		if !seen[rec.Seq] {
			out = append(out, rec.Seq)
		}
		seen[rec.Seq] = true
	}
	return out
}

func upTo(n uint64) (out []uint64) {
	for i := range n {
		out = append(out, i+1)
	}
	return out
}

var syslogHeader = regexp.MustCompile(`^<(\d+)>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ mayfly \d+ (\w+) - (\{.*\})$`)

// message parses an RFC 5424 message.
func (r *received) message(t *testing.T, text []byte) {
	m := syslogHeader.FindSubmatch(text)
	if m == nil {
		t.Errorf("not a message: %q", text)
		return
	}
	if pri, err := strconv.Atoi(string(m[1])); err != nil || pri>>3 != 16 {
		t.Errorf("priority %s", m[1])
	}
	r.add(string(m[3]))
}

// stream reads octet-counted messages (RFC 6587 §3.4.1) until the connection ends.
func (r *received) stream(t *testing.T, c io.Reader) {
	in := bufio.NewReader(c)
	for {
		size, err := in.ReadString(' ')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSuffix(size, " "))
		if err != nil || n <= 0 || n > 1<<20 {
			t.Errorf("length %q", size)
			return
		}
		text := make([]byte, n)
		if _, err := io.ReadFull(in, text); err != nil {
			return
		}
		r.message(t, text)
	}
}

// accept serves a listener until it closes.
func (r *received) accept(t *testing.T, l net.Listener, wait *sync.WaitGroup) {
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { defer c.Close(); r.stream(t, c) })
		}
	})
}

// Copies over syslog, with each transport: everything arrives, in order.
func TestSyslog(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"unixgram", "unix", "udp", "tcp", "tls"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			var got received
			var wait sync.WaitGroup
			var address, roots string
			switch scheme {
			case "tls":
				srv := httptest.NewTLSServer(nil) // for its certificate
				defer srv.Close()
				roots = filepath.Join(t.TempDir(), "roots.pem")
				must(t, os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{
					Type:  "CERTIFICATE",
					Bytes: srv.Certificate().Raw,
				}), 0o600))
				l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: srv.TLS.Certificates})
				must(t, err)
				got.accept(t, l, &wait)
				defer wait.Wait()
				defer l.Close()
				address = "tls://" + l.Addr().String()
			case "unix", "tcp":
				at := "127.0.0.1:0"
				if scheme == "unix" {
					at = filepath.Join(t.TempDir(), "log")
				}
				l, err := net.Listen(scheme, at)
				must(t, err)
				got.accept(t, l, &wait)
				defer wait.Wait()
				defer l.Close()
				address = scheme + "://" + l.Addr().String()
			default:
				at := "127.0.0.1:0"
				if scheme == "unixgram" {
					at = filepath.Join(t.TempDir(), "log")
				}
				l, err := net.ListenPacket(scheme, at)
				must(t, err)
				wait.Go(func() {
					for buf := make([]byte, 1<<16); ; {
						n, _, err := l.ReadFrom(buf)
						if err != nil {
							return
						}
						got.message(t, buf[:n])
					}
				})
				defer wait.Wait()
				defer l.Close()
				address = strings.TrimSuffix(scheme, "gram") + "://" + l.LocalAddr().String()
			}
			c := journal.Config{
				File:   filepath.Join(t.TempDir(), "journal.jsonl"),
				Config: ship.Config{Syslog: &ship.SyslogConfig{Address: address, Facility: "local0", CACert: roots}},
			}
			must(t, c.Check())
			j := open(t, c, journal.Options{})
			for n := range 50 {
				must(t, j.Append(t.Context(), intent(n+1)))
			}
			shut(t, j, 0)
			eventually(t, "everything arrives", func() bool { return len(got.seqs(t)) == 52 })
			if diff := cmp.Diff(upTo(52), got.seqs(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A receiver is down, comes back and is down again while the CA restarts: no record is lost, and the lag is known.
func TestSyslogOutage(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	must(t, l.Close()) // so that no process listens
	c := journal.Config{
		File: filepath.Join(t.TempDir(), "journal.jsonl"), MaxSize: "64KiB",
		Config: ship.Config{Syslog: &ship.SyslogConfig{Address: "tcp://" + address, Facility: "local0"}},
	}
	var got received
	n := 0
	write := func(j *journal.Journal, count int) {
		for range count {
			n++
			must(t, j.Append(t.Context(), intent(n)))
		}
	}
	j := open(t, c, journal.Options{})
	write(j, 150)
	if lag := gauge(t, j, "mayfly_journal_copy_lag_records"); lag != 151 {
		t.Errorf("lag %v", lag)
	}
	closeSoon(t, j)

	listen := func() (stop func()) {
		l, err := net.Listen("tcp", address)
		must(t, err)
		var wait sync.WaitGroup
		var mu sync.Mutex
		var conns []net.Conn
		wait.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
				wait.Go(func() { got.stream(t, c) })
			}
		})
		return func() {
			l.Close()
			mu.Lock()
			for _, c := range conns {
				c.Close()
			}
			mu.Unlock()
			wait.Wait()
		}
	}
	stop := listen()
	j = open(t, c, journal.Options{})
	write(j, 50)
	eventually(t, "the copy catches up", func() bool { return gauge(t, j, "mayfly_journal_copy_lag_records") == 0 })
	sofar, err := journal.Last(c.File)
	must(t, err)
	eventually(t, "the receiver has read it", func() bool { return uint64(len(got.seqs(t))) == sofar })
	stop()
	write(j, 50)
	stop = listen()
	defer func() { stop() }()
	write(j, 50)
	eventually(t, "the copy catches up again",
		func() bool { return gauge(t, j, "mayfly_journal_copy_lag_records") == 0 })
	shut(t, j, 0)
	last, err := journal.Last(c.File)
	must(t, err)
	eventually(t, "everything has been read", func() bool { return uint64(len(got.seqs(t))) == last })
	if diff := cmp.Diff(upTo(last), got.seqs(t)); diff != "" {
		t.Error(diff)
	}
}

// closeSoon closes a journal whose copies cannot catch up.
func closeSoon(t *testing.T, j *journal.Journal) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	must(t, j.Close(ctx, 0))
}

// gauge returns the value of a metric of the journal.
func gauge(t *testing.T, j *journal.Journal, name string) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(j.Collectors()...)
	families, err := registry.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// collector is an OpenTelemetry collector that fails on demand.
type collector struct {
	received
	t      *testing.T
	fail   int    // requests that are answered with 503
	answer string // body of the others
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	if c.fail > 0 {
		c.fail--
		c.mu.Unlock()
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	c.mu.Unlock()
	if r.URL.Path != "/v1/logs" || r.Header.Get("Content-Type") != "application/json" ||
		r.Header.Get("X-Key") != "canary-header" {
		c.t.Errorf("%s %v", r.URL, r.Header)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Error(err)
	}
	var in collogs.ExportLogsServiceRequest // the protocol's own types; an unknown member is an error
	if err := protojson.Unmarshal(body, &in); err != nil {
		c.t.Error(err)
		return
	}
	if a := in.GetResourceLogs()[0].GetResource().GetAttributes(); len(a) != 1 || a[0].GetKey() != "service.name" ||
		a[0].GetValue().GetStringValue() != "mayfly" {
		c.t.Errorf("resource %v", a)
	}
	for _, l := range in.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords() {
		rec, err := journal.ParseRecord([]byte(l.GetBody().GetStringValue()))
		if err != nil || l.GetTimeUnixNano() != uint64(rec.Time.UnixNano()) || l.GetSeverityNumber() == 0 ||
			l.GetAttributes()[0].GetValue().GetStringValue() != fmt.Sprint(rec.Seq) {
			c.t.Errorf("%v: %v", err, l)
		}
		c.add(l.GetBody().GetStringValue())
	}
	_, _ = io.WriteString(w, c.answer)
}

func (c *collector) config(url string) *ship.OTLPConfig {
	c.t.Setenv("MAYFLY_TEST_OTLP", "canary-header")
	return &ship.OTLPConfig{URL: url, Headers: map[string]*secret.Source{"X-Key": {Env: "MAYFLY_TEST_OTLP"}}}
}

// Copies to a collector over TLS that fails at first.
func TestOTLP(t *testing.T) { //nolint:paralleltest // it sets the environment
	c := &collector{t: t, fail: 2, answer: `{"partialSuccess":{}}`}
	srv := httptest.NewTLSServer(c)
	defer srv.Close()
	roots := filepath.Join(t.TempDir(), "roots.pem")
	must(t, os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}),
		0o600))
	cfg := journal.Config{
		File:   filepath.Join(t.TempDir(), "journal.jsonl"),
		Config: ship.Config{OTLP: c.config(srv.URL)},
	}
	cfg.OTLP.CACert = roots
	must(t, cfg.Check())
	j := open(t, cfg, journal.Options{})
	r := intent(1)
	r.Subject = "\"\\\x00\u2028é"
	must(t, j.Append(t.Context(), r))
	for n := range 600 {
		j.Note(intent(n + 2))
	}
	eventually(t, "the copy catches up", func() bool { return gauge(t, j, "mayfly_journal_copy_lag_records") == 0 })
	shut(t, j, 0)
	if diff := cmp.Diff(upTo(603), c.seqs(t)); diff != "" {
		t.Error(diff)
	}
	data, err := os.ReadFile(cfg.File)
	must(t, err)
	if bytes.Contains(data, []byte("canary-header")) {
		t.Error("a header's secret is in the journal")
	}
}

// G4: without a file, a record counts only if the receiver has acknowledged it.
func TestWithoutFile(t *testing.T) { //nolint:paralleltest // it sets the environment
	c := &collector{t: t}
	srv := httptest.NewServer(c)
	defer srv.Close()
	cfg := journal.Config{Config: ship.Config{OTLP: c.config(srv.URL)}}
	must(t, cfg.Check())
	j := open(t, cfg, journal.Options{})
	must(t, j.Append(t.Context(), intent(1)))
	c.mu.Lock()
	c.fail = 3
	c.mu.Unlock()
	if err := j.Append(t.Context(), outcome(1)); err == nil || !strings.Contains(err.Error(), "503") {
		t.Fatalf("acknowledged: %v", err)
	}
	eventually(t, "the journal recovers", func() bool { return j.Health().OK })
	c.mu.Lock()
	c.answer = `{"partialSuccess":{"rejectedLogRecords":"1"}}`
	c.mu.Unlock()
	if err := j.Append(t.Context(), intent(2)); err == nil || !strings.Contains(err.Error(), "rejected") {
		t.Fatalf("acknowledged: %v", err)
	}
	c.mu.Lock()
	c.answer = ""
	c.mu.Unlock()
	eventually(t, "the journal recovers", func() bool { return j.Health().OK })
	shut(t, j, 1)
	seqs := c.seqs(t)
	for i := range seqs[1:] {
		if seqs[i] >= seqs[i+1] {
			t.Errorf("numbers were used again: %v", seqs)
		}
	}
	srv.Close()
	if _, err := journal.Open(cfg, journal.Options{}); err == nil {
		t.Error("it starts without a receiver")
	}
}

// Standard output without a file, and with one.
func TestStdout(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"", filepath.Join(t.TempDir(), "journal.jsonl")} {
		out, err := os.Create(filepath.Join(t.TempDir(), "stdout"))
		must(t, err)
		j := open(t, journal.Config{File: file, Config: ship.Config{Stdout: true}}, journal.Options{Stdout: out})
		must(t, j.Append(t.Context(), intent(1)))
		shut(t, j, 0)
		data, err := os.ReadFile(out.Name())
		must(t, err)
		lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
		if len(lines) != 3 {
			t.Errorf("%d lines", len(lines))
		}
		for _, l := range lines {
			_, err := journal.ParseRecord([]byte(l))
			must(t, err)
		}
		must(t, out.Close())
		if file == "" {
			if _, err := journal.Open(journal.Config{Config: ship.Config{Stdout: true}},
				journal.Options{Stdout: out}); err == nil {
				t.Error("it starts although no process reads standard output")
			}
		}
	}
}

// counted, and catches up when it is read. A first copy begins with the present.
func TestHungReaderIsSeen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	shut(t, open(t, journal.Config{File: path}, journal.Options{}), 0)
	r, w, err := os.Pipe()
	must(t, err)
	j := open(t, journal.Config{File: path, Config: ship.Config{Stdout: true}}, journal.Options{Stdout: w})
	for n := range 200 { // more than a pipe holds
		big := intent(n)
		big.Text = strings.Repeat("x", 2000)
		must(t, j.Append(t.Context(), big))
	}
	if h := j.Health(); !h.OK || gauge(t, j, "mayfly_journal_copy_lag_records") == 0 {
		t.Errorf("health %+v, nothing is behind", h)
	}
	var got received
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			got.add(lines.Text())
		}
	}()
	eventually(t, "the copy catches up", func() bool { return gauge(t, j, "mayfly_journal_copy_lag_records") == 0 })
	shut(t, j, 0)
	must(t, w.Close())
	<-drained
	if seqs := got.seqs(t); len(seqs) != 202 || seqs[0] != 3 { // behind the records of the first process
		t.Errorf("%d records from %d", len(seqs), seqs[0])
	}
	// The other end of the pipe is closed.
	must(t, r.Close())
	gone, w, err := os.Pipe()
	must(t, err)
	must(t, gone.Close())
	j = open(t, journal.Config{File: path, Config: ship.Config{Stdout: true}}, journal.Options{Stdout: w})
	must(t, j.Append(t.Context(), intent(1000)))
	closeSoon(t, j)
	must(t, w.Close())
}

// G4: records that were written to a connection which is then reset are sent again on the next one, although the write
// succeeded.
func TestSyslogResendsTail(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	c := journal.Config{
		File:   filepath.Join(t.TempDir(), "journal.jsonl"),
		Config: ship.Config{Syslog: &ship.SyslogConfig{Address: "tcp://" + l.Addr().String(), Facility: "local0"}},
	}
	j := open(t, c, journal.Options{})
	must(t, j.Append(t.Context(), intent(1)))
	first, err := l.Accept()
	must(t, err)
	eventually(t, "the copy has written both records", func() bool {
		return gauge(t, j, "mayfly_journal_copy_lag_records") == 0
	})
	must(t, first.(*net.TCPConn).SetLinger(0)) // so that closing resets the connection and drops what was not read
	must(t, first.Close())
	var got received
	var wait sync.WaitGroup
	got.accept(t, l, &wait)
	defer wait.Wait()
	defer l.Close()
	must(t, j.Append(t.Context(), intent(2)))
	shut(t, j, 0)
	eventually(t, "the records of the first connection arrive on the second one",
		func() bool { return len(got.seqs(t)) == 4 })
	if diff := cmp.Diff(upTo(4), got.seqs(t)); diff != "" {
		t.Error(diff)
	}
}
