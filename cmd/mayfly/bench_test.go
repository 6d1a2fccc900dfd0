package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mayfly-ca/mayfly/client"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// BenchmarkServe drives a real "mayfly serve" on loopback. Beside the usual columns it reports certificates per second, latency,
// the server's own CPU time per certificate, and the floor: what the cryptography of one certificate costs, timed in the same
// run. Ratios are comparable between machines, times are not.
func BenchmarkServe(b *testing.B) {
	for _, bench := range serveBenchmarks() {
		b.Run(bench.name, func(b *testing.B) {
			provider := idp.New(b, idp.Options{})
			p := pki.New(pki.Options{Key: bench.key})
			s := startServe(b, serveSetup{pki: p, issuer: provider.URL(), embedded: bench.embedded, issuers: furtherIssuers(b, bench.issuers-1), more: bench.more})
			requests := makeRequests(b, provider)
			call, closeCall := s.caller(b, bench.rest)
			defer closeCall()
			for range 2 * bench.callers { // connections, caches
				if err := call(requests[0]); err != nil {
					b.Fatal(err)
				}
			}
			floor := measureFloor(b, bench.curve)
			made := b.N
			if bench.percent > 0 {
				made = measureOpen(b, s, provider, bench.percent)
			} else {
				measure(b, s, bench.callers, func(i int) error { return call(requests[i%len(requests)]) })
			}
			floor = min(floor, measureFloor(b, bench.curve))
			cpu := float64(s.cpu()-s.cpuBefore) / float64(made)
			b.ReportMetric(cpu/1e3, "server-cpu-µs/cert")
			b.ReportMetric(float64(floor)/1e3, "floor-µs/cert")
			b.ReportMetric(cpu/float64(floor), "cpu/floor")
			b.ReportMetric(float64(s.peakRSS())/(1<<20), "peak-rss-MB")
		})
	}
}

// journalOn is the setting that switches the journal on.
const journalOn = "audit: {file: journal.jsonl}\n"

type serveBenchmark struct {
	name     string
	key      pki.KeyType
	curve    elliptic.Curve
	rest     bool
	embedded bool
	callers  int
	issuers  int
	more     string  // settings
	percent  float64 // of the capacity, in an open loop, in place of callers
}

// serveBenchmarks are both curves over both transports with both kinds of log, for one caller and for many; a thousand issuers
// beside one; the journal; arrivals at half the capacity and at ten times as many; and a thousand connections, for the memory.
func serveBenchmarks() []serveBenchmark {
	var out []serveBenchmark
	for _, b := range []serveBenchmark{{key: pki.P256, curve: elliptic.P256()}, {key: pki.P384, curve: elliptic.P384()}} {
		b.issuers = 1
		for _, b.rest = range []bool{false, true} {
			for _, b.embedded = range []bool{false, true} {
				for _, b.callers = range []int{1, 64} {
					transport, log := "gRPC", "loopback"
					if b.rest {
						transport = "REST"
					}
					if b.embedded {
						log = "embedded"
					}
					b.name = fmt.Sprintf("%s/%s/log=%s/callers=%d", transport, b.curve.Params().Name, log, b.callers)
					out = append(out, b)
				}
			}
		}
	}
	many := out[1]
	many.name += "/issuers=1000"
	many.issuers = 1000
	journal := out[1]
	journal.name += "/journal"
	journal.more = journalOn
	embedded := out[3]
	embedded.name += "/journal"
	embedded.more = journalOn
	half, over := out[1], out[1]
	half.name, half.percent = "gRPC/P-256/log=loopback/half-load", 50
	over.name, over.percent = "gRPC/P-256/log=loopback/overload", 1000
	crowd := out[5]
	crowd.name, crowd.callers = "REST/P-256/log=loopback/callers=1000", 1000
	return append(out, many, journal, embedded, half, over, crowd)
}

// furtherIssuers are entries of the issuer file that no token comes from.
func furtherIssuers(tb testing.TB, n int) string {
	tb.Helper()
	if n <= 0 {
		return ""
	}
	keys := strings.TrimSpace(string(idp.New(tb, idp.Options{}).JWKS()))
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  \"https://idp-%d.example.com\": {client-id: sigstore, type: uri, subject-domain: \"https://idp-%d.example.com\", static-keys: {jwks: %q}}\n", i, i, keys)
	}
	return b.String()
}

// measure makes b.N calls from n callers and reports throughput and latency.
func measure(b *testing.B, s *serveProcess, n int, call func(i int) error) {
	b.Helper()
	latencies := make([]time.Duration, b.N)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	s.cpuBefore = s.cpu()
	b.ResetTimer()
	for range n {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.N {
					return
				}
				began := time.Now()
				if err := call(i); err != nil {
					failed.Store(&err)
					return
				}
				latencies[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	if err := failed.Load(); err != nil {
		b.Fatalf("%v; log:\n%s", *err, s.logs)
	}
	slices.Sort(latencies)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "certs/s")
	b.ReportMetric(float64(latencies[b.N/2].Microseconds())/1e3, "p50-ms")
	b.ReportMetric(float64(latencies[b.N*99/100].Microseconds())/1e3, "p99-ms")
}

// measureOpen measures the capacity with 64 callers and lets requests arrive at a percentage of it, for two seconds times b.N. It
// returns how many certificates there were.
func measureOpen(b *testing.B, s *serveProcess, provider *idp.Provider, percent float64) int {
	b.Helper()
	clients, err := openLanes(client.Options{URL: s.grpc, GRPC: true, SkipVerify: true})
	if err != nil {
		b.Fatal(err)
	}
	defer clients.close()
	requests := make([]*client.Prepared, 200)
	for i := range requests {
		key, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		email := fmt.Sprintf("user%d@example.com", i)
		token := provider.Token(map[string]any{"sub": email, "email": email, "email_verified": true, "exp": time.Now().Add(time.Hour).Unix()})
		var err2 error
		if requests[i], err2 = (client.Request{Token: token, Signer: key}).Prepare(); errors.Join(err1, err2) != nil {
			b.Fatal(errors.Join(err1, err2))
		}
	}
	left := &atomic.Int64{}
	left.Store(maxBenchRequests)
	g := newGenerator(clients, requests, left)
	began := time.Now()
	peak := float64(len(g.closed(b.Context(), capacityCallers, 2*time.Second).served)) / time.Since(began).Seconds()
	s.cpuBefore = s.cpu()
	b.ResetTimer()
	var step benchStep
	got := g.open(b.Context(), peak*percent/100, time.Duration(b.N)*2*time.Second).wait()
	b.StopTimer()
	step.fill(got, b.Elapsed())
	if step.Certificates == 0 || step.Failed > 0 {
		b.Fatalf("%d certificates, %d failures: %s; log:\n%s", step.Certificates, step.Failed, step.FirstError, s.logs)
	}
	b.ReportMetric(step.PerSecond, "certs/s")
	b.ReportMetric(step.P50, "p50-ms")
	b.ReportMetric(step.P99, "p99-ms")
	if percent > 100 {
		b.ReportMetric(step.PerSecond/peak, "goodput/peak")
		b.ReportMetric(step.RefusedP99, "refusal-p99-ms")
	}
	return step.Certificates
}

// measureFloor is the floor for a CA with a key on this curve.
func measureFloor(b *testing.B, curve elliptic.Curve) time.Duration {
	b.Helper()
	floor, err := benchFloor(&ecdsa.PublicKey{Curve: curve})
	if err != nil {
		b.Fatal(err)
	}
	return floor
}

// signRequest is one request in both forms.
type signRequest struct {
	pb   *fulciopb.CreateSigningCertificateRequest
	json []byte
}

func makeRequests(b testing.TB, provider *idp.Provider) []signRequest {
	b.Helper()
	out := make([]signRequest, 200)
	for i := range out {
		email := fmt.Sprintf("user%d@example.com", i)
		token := provider.Token(map[string]any{"sub": email, "email": email, "email_verified": true, "exp": time.Now().Add(time.Hour).Unix()})
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			b.Fatal(err)
		}
		content := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		digest := sha256.Sum256([]byte(email))
		proof, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		if err != nil {
			b.Fatal(err)
		}
		out[i].pb = &fulciopb.CreateSigningCertificateRequest{
			Credentials: &fulciopb.Credentials{Credentials: &fulciopb.Credentials_OidcIdentityToken{OidcIdentityToken: token}},
			Key: &fulciopb.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciopb.PublicKeyRequest{
				PublicKey: &fulciopb.PublicKey{Content: content}, ProofOfPossession: proof,
			}},
		}
		out[i].json, err = json.Marshal(map[string]any{
			"credentials":      map[string]any{"oidcIdentityToken": token},
			"publicKeyRequest": map[string]any{"publicKey": map[string]any{"algorithm": "ECDSA", "content": content}, "proofOfPossession": proof},
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return out
}

// serveSetup says how to run "mayfly serve".
type serveSetup struct {
	pki      *pki.PKI
	issuer   string
	embedded bool
	issuers  string // further entries of the issuer file
	ca       string // further settings of ca
	more     string // further settings, the first ones of ct
	one      bool   // REST and gRPC on one port
	admin    bool   // with an admin listener
}

// serveProcess is a running "mayfly serve".
type serveProcess struct {
	cmd        *exec.Cmd
	logs       *lockedBuffer
	dir        string
	http, grpc string
	admin      string
	cpuBefore  time.Duration
}

func startServe(tb testing.TB, set serveSetup) *serveProcess {
	tb.Helper()
	dir := tb.TempDir()
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	s := &serveProcess{logs: &lockedBuffer{}, dir: dir, http: freeAddress(tb), grpc: freeAddress(tb), admin: "off"}
	if set.one {
		s.grpc = s.http
	}
	if set.admin {
		s.admin = freeAddress(tb)
	}
	logs := "  embedded: {dir: log, origin: mayfly.local/ct}\n"
	if !set.embedded {
		log := ct.New(tb, ct.Options{Roots: []*x509.Certificate{set.pki.Root}})
		write("ct.pem", log.PublicKeyPEM())
		logs = fmt.Sprintf("  logs:\n    - {name: lab, url: %q, public_key: ct.pem}\n", log.URL())
	}
	write("chain.pem", set.pki.ChainPEM())
	write("key.pem", set.pki.KeyPEM())
	write("identity.yaml", fmt.Appendf(nil, "oidc-issuers:\n  %q: {issuer-url: %q, client-id: sigstore, type: email}\n%s", set.issuer, set.issuer, set.issuers))
	write("mayfly.yaml", fmt.Appendf(nil, "listen: {http: %q, grpc: %q, admin: %q}\nidentity: {file: identity.yaml}\n"+
		"ca:\n  file: {chain: chain.pem, key: key.pem}\n%sct:\n%s%s", s.http, s.grpc, s.admin, set.ca, logs, set.more))
	s.cmd = exec.Command(cmp.Or(os.Getenv("MAYFLY"), "mayfly"), "serve", "--config", filepath.Join(dir, "mayfly.yaml"), "--log-level", "warn")
	s.cmd.Stderr = s.logs
	if err := s.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = s.cmd.Process.Signal(os.Interrupt)
		_ = s.cmd.Wait()
	})
	for deadline := time.Now().Add(10 * time.Second); ; {
		resp, err := http.Get("http://" + s.http + "/api/v2/trustBundle")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s
			}
		}
		if time.Now().After(deadline) {
			tb.Fatalf("mayfly serve is not ready: %v; log:\n%s", err, s.logs)
		}
		time.Sleep(20 * time.Millisecond) // another process: there is nothing to wait on but its answers
	}
}

// givenOut counts the addresses that freeAddress has given out.
var givenOut atomic.Int64

// freeAddress returns an address on loopback that nothing listens on. Its port lies below those that the system gives
// to connections, of which other tests open thousands.
func freeAddress(tb testing.TB) string {
	tb.Helper()
	for range 1000 {
		port := 10000 + (int64(os.Getpid())*97+givenOut.Add(1))%20000
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	tb.Fatal("no free port between 10000 and 30000")
	return ""
}

// caller returns a func that makes one request, and one that releases the connections.
func (s *serveProcess) caller(b testing.TB, rest bool) (call func(signRequest) error, done func()) {
	b.Helper()
	if rest {
		transport := &http.Transport{MaxIdleConnsPerHost: 128}
		c := &http.Client{Transport: transport, Timeout: 30 * time.Second}
		return func(r signRequest) error {
			resp, err := c.Post("http://"+s.http+"/api/v2/signingCert", "application/json", bytes.NewReader(r.json))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Contains(body, []byte("signedCertificateEmbeddedSct"))) {
				err = fmt.Errorf("status %d: %s", resp.StatusCode, body)
			}
			return err
		}, transport.CloseIdleConnections
	}
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	c := fulciopb.NewCAClient(conn)
	return func(r signRequest) error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		got, err := c.CreateSigningCertificate(ctx, r.pb)
		if err == nil && got.GetSignedCertificateEmbeddedSct() == nil {
			err = errors.New("no embedded SCT")
		}
		return err
	}, func() { _ = conn.Close() }
}

// cpu is the processor time that the server has used, from /proc (clock ticks of 10 ms); 0 where there is no /proc.
func (s *serveProcess) cpu() time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if errors.Join(err1, err2) != nil {
		return 0
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// peakRSS is the server's largest resident size in bytes, from /proc; 0 where there is none.
func (s *serveProcess) peakRSS() int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), "VmHWM:")
	var kb int
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		return 0
	}
	return kb << 10
}
