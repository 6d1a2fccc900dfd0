package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// BenchmarkServe sends requests to "mayfly serve" on loopback. It also reports certificates per second, latency, the
// CPU time of the server per certificate, and the floor: the time of the cryptography of one certificate, measured in
// the same run. Ratios are comparable between machines, times are not.
func BenchmarkServe(b *testing.B) {
	for _, bench := range serveBenchmarks() {
		b.Run(bench.name, func(b *testing.B) {
			provider := idp.New(b, idp.Options{})
			p := pki.New(pki.Options{Key: bench.key})
			s := process.Serve(b, process.Setup{
				PKI: p, Issuer: provider.URL(), Embedded: bench.embedded,
				Issuers: furtherIssuers(b, bench.issuers-1), More: bench.more, TLS: bench.tls,
			})
			requests := process.Requests(b, provider)
			call, closeCall := s.Caller(b, bench.rest)
			defer closeCall()
			for range 2 * bench.callers { // warms up connections and caches
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
			cpu := float64(s.CPU()-s.CPUBefore) / float64(made)
			b.ReportMetric(cpu/1e3, "server-cpu-µs/cert")
			b.ReportMetric(float64(floor)/1e3, "floor-µs/cert")
			b.ReportMetric(cpu/float64(floor), "cpu/floor")
			b.ReportMetric(float64(s.PeakRSS())/(1<<20), "peak-rss-MB")
		})
	}
}

// journalOn is the setting that enables the journal.
const journalOn = "audit: {file: journal.jsonl}\n"

type serveBenchmark struct {
	name     string
	key      pki.KeyType
	curve    elliptic.Curve
	rest     bool
	embedded bool
	callers  int
	issuers  int
	more     string // settings
	tls      bool
	percent  float64 // load of an open loop in percent of the capacity, instead of callers
}

// serveBenchmarks returns the benchmarks: both curves, both transports and both kinds of log, for one caller and for
// many; a thousand further issuers; the journal; arrivals at 50 % and 1000 % of the capacity; TLS over connections that
// are kept; and a thousand connections, for the memory.
func serveBenchmarks() []serveBenchmark {
	var out []serveBenchmark
	for _, b := range []serveBenchmark{
		{key: pki.P256, curve: elliptic.P256()},
		{key: pki.P384, curve: elliptic.P384()},
	} {
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
	secureGRPC, secureREST := out[1], out[5]
	secureGRPC.name, secureGRPC.tls = secureGRPC.name+"/TLS", true
	secureREST.name, secureREST.tls = secureREST.name+"/TLS", true
	crowd := out[5]
	crowd.name, crowd.callers = "REST/P-256/log=loopback/callers=1000", 1000
	return append(out, many, journal, embedded, half, over, secureGRPC, secureREST, crowd)
}

// furtherIssuers returns n entries of an issuer file that no token uses.
func furtherIssuers(tb testing.TB, n int) string {
	tb.Helper()
	if n <= 0 {
		return ""
	}
	keys := strings.TrimSpace(string(idp.New(tb, idp.Options{}).JWKS()))
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b,
			"  \"https://idp-%d.example.com\": {client-id: sigstore, type: uri, subject-domain: "+
				"\"https://idp-%d.example.com\", static-keys: {jwks: %q}}\n", i, i, keys)
	}
	return b.String()
}

// measure makes b.N calls from n callers and reports throughput and latency.
func measure(b *testing.B, s *process.Server, n int, call func(i int) error) {
	b.Helper()
	latencies := make([]time.Duration, b.N)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	s.CPUBefore = s.CPU()
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
		b.Fatalf("%v; log:\n%s", *err, s.Logs)
	}
	slices.Sort(latencies)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "certs/s")
	b.ReportMetric(float64(latencies[b.N/2].Microseconds())/1e3, "p50-ms")
	b.ReportMetric(float64(latencies[b.N*99/100].Microseconds())/1e3, "p99-ms")
}

// measureOpen measures the capacity with 64 callers and then sends requests at a percentage of it, for two seconds
// times b.N. It returns the number of certificates.
func measureOpen(b *testing.B, s *process.Server, provider *idp.Provider, percent float64) int {
	b.Helper()
	clients, err := openLanes(client.Options{URL: s.GRPC, GRPC: true, SkipVerify: true})
	if err != nil {
		b.Fatal(err)
	}
	defer clients.close()
	requests := make([]*client.Prepared, 200)
	for i := range requests {
		key, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		email := fmt.Sprintf("user%d@example.com", i)
		token := provider.Token(map[string]any{
			"sub": email, "email": email, "email_verified": true,
			"exp": time.Now().Add(time.Hour).Unix(),
		})
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
	s.CPUBefore = s.CPU()
	b.ResetTimer()
	var step benchStep
	got := g.open(b.Context(), peak*percent/100, time.Duration(b.N)*2*time.Second).wait()
	b.StopTimer()
	step.fill(got, b.Elapsed())
	if step.Certificates == 0 || step.Failed > 0 {
		b.Fatalf("%d certificates, %d failures: %s; log:\n%s", step.Certificates, step.Failed, step.FirstError, s.Logs)
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

// measureFloor returns the floor for a CA with a key on this curve.
func measureFloor(b *testing.B, curve elliptic.Curve) time.Duration {
	b.Helper()
	floor, err := benchFloor(&ecdsa.PublicKey{Curve: curve})
	if err != nil {
		b.Fatal(err)
	}
	return floor
}
