package remote_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/testkit/spans"
)

// device is a raw signer that can be told what to do.
type device struct {
	crypto.Signer

	calls atomic.Int64
	mu    sync.Mutex
	do    func(ctx context.Context, call int64) error // before the signature
	bend  func([]byte) []byte                         // after it
	seen  [][]byte
	other crypto.Signer // signs instead
}

func (d *device) Sign(ctx context.Context, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	n := d.calls.Add(1)
	d.mu.Lock()
	do, bend, key := d.do, d.bend, d.Signer
	d.seen = append(d.seen, digest)
	if d.other != nil {
		key = d.other
	}
	d.mu.Unlock()
	if do != nil {
		if err := do(ctx, n); err != nil {
			return nil, err
		}
	}
	signature, err := key.Sign(rand.Reader, digest, o)
	if bend != nil {
		signature = bend(signature)
	}
	return signature, err
}

func (d *device) set(f func(*device)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

func newDevice(t testing.TB) *device {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &device{Signer: key}
}

func guard(raw remote.Raw, l remote.Limits) *remote.Signer {
	return remote.New(remote.Options{Key: "test://key", Limits: l}).Signer(raw)
}

func digest(text string) []byte { d := sha256.Sum256([]byte(text)); return d[:] }

func kind(err error) remote.Kind {
	var e *remote.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 99
}

func failing(k remote.Kind) func(context.Context, int64) error {
	return func(context.Context, int64) error { return &remote.Error{Kind: k, Err: errors.New("the cause")} }
}

// C1: a signature is returned only if it verifies with the public key that was read at first, for every kind of key.
func TestVerifies(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	otherRSA, err2 := rsa.GenerateKey(rand.Reader, 2048)
	_, edwards, err3 := ed25519.GenerateKey(rand.Reader)
	_, otherEdwards, err4 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	curve := func(c elliptic.Curve) crypto.Signer {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	lattice := func(p mldsa.Parameters) crypto.Signer {
		key, err := mldsa.GenerateKey(p)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	for name, c := range map[string]struct {
		key, other crypto.Signer
		opts       crypto.SignerOpts
	}{
		"P-256":     {curve(elliptic.P256()), curve(elliptic.P256()), crypto.SHA256},
		"P-384":     {curve(elliptic.P384()), curve(elliptic.P384()), crypto.SHA384},
		"P-521":     {curve(elliptic.P521()), curve(elliptic.P521()), crypto.SHA512},
		"RSA":       {rsaKey, otherRSA, crypto.SHA256},
		"RSA-PSS":   {rsaKey, otherRSA, pss},
		"Ed25519":   {edwards, otherEdwards, crypto.Hash(0)},
		"ML-DSA-44": {lattice(mldsa.MLDSA44()), lattice(mldsa.MLDSA44()), crypto.Hash(0)},
		"ML-DSA-87": {lattice(mldsa.MLDSA87()), lattice(mldsa.MLDSA87()), crypto.Hash(0)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			message := []byte("message")
			if h := c.opts.HashFunc(); h != 0 {
				hash := h.New()
				hash.Write(message)
				message = hash.Sum(nil)
			}
			d := &device{Signer: c.key}
			s := guard(d, remote.Limits{})
			if _, err := s.SignContext(t.Context(), message, c.opts); err != nil {
				t.Errorf("a good signature: %v", err)
			}
			if err := s.Probe(t.Context()); err != nil {
				t.Errorf("probe: %v", err)
			}
			for lie, f := range map[string]func(*device){
				"another key":   func(d *device) { d.other = c.other },
				"one bit":       func(d *device) { d.bend = func(s []byte) []byte { s[len(s)/2] ^= 1; return s } },
				"cut":           func(d *device) { d.bend = func(s []byte) []byte { return s[:len(s)-1] } },
				"one byte more": func(d *device) { d.bend = func(s []byte) []byte { return append(s, 0) } },
				"none":          func(d *device) { d.bend = func([]byte) []byte { return nil } },
			} {
				liar := &device{Signer: c.key}
				s := guard(liar, remote.Limits{})
				f(liar)
				got, err := s.Sign(nil, message, c.opts)
				if got != nil || kind(err) != remote.WrongKey || liar.calls.Load() != 1 {
					t.Errorf("%s: %x, %v, %d calls", lie, got, err, liar.calls.Load())
				}
				if err := s.Probe(t.Context()); kind(err) != remote.WrongKey ||
					!strings.Contains(err.Error(), "probe with the key test://key: not the key of the chain") {
					t.Errorf("%s: probe: %v", lie, err)
				}
			}
		})
	}
}

// Ed25519 and ML-DSA keys cannot sign digests; the verifier says so instead of comparing.
func TestVerifyRefusesDigests(t *testing.T) {
	t.Parallel()
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{Signer: edwards}
	s := guard(d, remote.Limits{})
	sum := make([]byte, 64)
	if _, err := s.SignContext(t.Context(), sum, crypto.SHA512); kind(err) != remote.WrongKey {
		t.Errorf("%v", err)
	}
}

// Failures that may pass are repeated, others are not; the error names operation, key, kind and permission.
func TestRetries(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind  remote.Kind
		calls int64
	}{
		{remote.Failed, 1},
		{remote.Denied, 1},
		{remote.WrongKey, 1},
		{remote.Throttled, 3},
		{remote.Unavailable, 3},
		{remote.TimedOut, 3},
	} {
		t.Run(c.kind.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t)
				d.do = failing(c.kind)
				s := guard(d, remote.Limits{})
				_, err := s.SignContext(t.Context(), digest("a"), crypto.SHA256)
				if kind(err) != c.kind || d.calls.Load() != c.calls {
					t.Errorf("%v, %d calls", err, d.calls.Load())
				}
				if text := err.Error(); !strings.HasPrefix(text, "sign with the key test://key: ") ||
					!strings.HasSuffix(text, "the cause") {
					t.Errorf("%s", text)
				}
				// The second call works.
				d.calls.Store(0)
				d.do = func(ctx context.Context, n int64) error {
					if n == 1 {
						return failing(c.kind)(ctx, n)
					}
					return nil
				}
				if _, err := s.SignContext(t.Context(), digest("a"), crypto.SHA256); (err == nil) != (c.calls > 1) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

func TestErrorNamesThePermission(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.do = func(context.Context, int64) error {
		return fmt.Errorf("aws: %w", &remote.Error{
			Kind: remote.Denied, Permission: "kms:Sign on the key",
			Err: errors.New("AccessDenied\n" + strings.Repeat("é", 1000)),
		})
	}
	_, err := guard(d, remote.Limits{}).SignContext(t.Context(), digest("a"), crypto.SHA256)
	if text := err.Error(); !strings.HasPrefix(text,
		"sign with the key test://key: permission missing: grant kms:Sign on the key: AccessDenied é") ||
		len(text) > 700 || strings.Contains(text, "\n") {
		t.Errorf("%s", text)
	}
}

// A service that says when to come back is not asked before, and not at all if that is too late.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for after, want := range map[time.Duration]struct {
		calls int64
		took  time.Duration
	}{
		time.Second:      {3, 2 * time.Second},
		10 * time.Second: {1, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDevice(t)
			d.do = func(context.Context, int64) error { return &remote.Error{Kind: remote.Throttled, After: after} }
			start := time.Now()
			_, err := guard(d, remote.Limits{}).SignContext(t.Context(), digest("a"), crypto.SHA256)
			if kind(err) != remote.Throttled || d.calls.Load() != want.calls || time.Since(start) != want.took {
				t.Errorf("%s: %v, %d calls in %s", after, err, d.calls.Load(), time.Since(start))
			}
		})
	}
}

// C10: calls that never return cost their slots and nothing else: each request ends in time, the readiness says so, and
// when they return the key works again.
func TestHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		release := make(chan struct{})
		d.do = func(context.Context, int64) error { <-release; return nil } // does not look at its context
		s := guard(d, remote.Limits{Concurrent: 4})
		for i := range 3 { // each request tries twice, and hangs two slots
			start := time.Now()
			_, err := s.SignContext(t.Context(), digest("a"), crypto.SHA256)
			if took := time.Since(start); kind(err) != remote.TimedOut || took > 4*time.Second+100*time.Millisecond {
				t.Errorf("request %d: %v after %s", i, err, took)
			}
		}
		if !s.Hung() || d.calls.Load() != 4 {
			t.Errorf("hung: %t, %d calls", s.Hung(), d.calls.Load())
		}
		if err := s.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "concurrent calls has returned") {
			t.Errorf("probe: %v", err)
		}
		if n := value(t, s, "mayfly_signer_hung_calls", nil); n != 4 {
			t.Errorf("the metric says %v hung calls", n)
		}
		close(release)
		synctest.Wait()
		if s.Hung() || value(t, s, "mayfly_signer_hung_calls", nil) != 0 ||
			value(t, s, "mayfly_signer_running_calls", nil) != 0 {
			t.Error("slots were not given back")
		}
		if err := s.Probe(t.Context()); err != nil {
			t.Errorf("probe: %v", err)
		}
	})
}

// A call that follows its context gives its slot back at once, and its own error text is not needed.
func TestTimesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.do = func(ctx context.Context, _ int64) error {
			<-ctx.Done()
			return &remote.Error{Kind: remote.Unavailable, Err: ctx.Err()}
		}
		timeout := time.Second
		s := guard(d, remote.Limits{Timeout: &timeout})
		start := time.Now()
		_, err := s.SignContext(t.Context(), digest("a"), crypto.SHA256)
		if kind(err) != remote.TimedOut || time.Since(start) > timeout || d.calls.Load() != 2 || s.Hung() {
			t.Errorf("%v after %s and %d calls", err, time.Since(start), d.calls.Load())
		}
		if n := value(t, s, "mayfly_signer_calls_total", map[string]string{
			"operation": "sign", "result": "timeout",
		}); n != 2 {
			t.Errorf("the metric says %v", n)
		}
	})
}

// A caller that leaves gets the cause of its context at once, and says nothing about the key.
func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.do = func(ctx context.Context, _ int64) error { <-ctx.Done(); return ctx.Err() }
		s := guard(d, remote.Limits{})
		left := errors.New("the caller left")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(100*time.Millisecond, func() { cancel(left) })
		start := time.Now()
		if _, err := s.SignContext(ctx, digest("a"), crypto.SHA256); !errors.Is(err, left) ||
			time.Since(start) != 100*time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		d.set(func(d *device) { d.do = nil })
		if err := s.Probe(t.Context()); err != nil {
			t.Errorf("probe: %v", err)
		}
		if n := value(t, s, "mayfly_signer_calls_total", map[string]string{"operation": "sign"}); n != 0 {
			t.Errorf("%v calls of a caller that left are counted", n)
		}
	})
}

// F5: after a panic in a client library, only one call fails.
func TestPanic(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.do = func(context.Context, int64) error { panic("canary") }
	s := guard(d, remote.Limits{Concurrent: 1})
	for range 3 {
		if _, err := s.SignContext(t.Context(), digest("a"), crypto.SHA256); kind(err) != remote.Failed ||
			!strings.Contains(err.Error(), "panic: canary") {
			t.Fatalf("%v", err)
		}
	}
}

// The queue is bounded: further calls are refused at once, which does not make the probe fail.
func TestQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.do = func(context.Context, int64) error { time.Sleep(15 * time.Millisecond); return nil }
		s := guard(d, remote.Limits{Concurrent: 1})
		var refused, served, failed atomic.Int64
		var all sync.WaitGroup
		for range 300 {
			all.Go(func() {
				start := time.Now()
				switch _, err := s.SignContext(t.Context(), digest("a"), crypto.SHA256); {
				case kind(err) == remote.Busy && time.Since(start) == 0:
					refused.Add(1)
				case err == nil:
					served.Add(1)
				default:
					failed.Add(1)
				}
			})
		}
		all.Wait()
		// 256 wait, one runs; all are served within 257 × 15 ms < 4 s
		if refused.Load() != 43 || served.Load() != 257 || failed.Load() != 0 {
			t.Errorf("%d refused, %d served, %d failed", refused.Load(), served.Load(), failed.Load())
		}
		if err := s.Probe(t.Context()); err != nil || d.calls.Load() != 257 {
			t.Errorf("probe: %v, %d calls", err, d.calls.Load())
		}
	})
}

// The guard does not reduce the throughput: with a service that takes 15 ms, it makes as many signatures as the service
// can, and the histogram of the wait has the 99th percentile.
func TestThroughput(t *testing.T) {
	t.Parallel()
	const took = 15 * time.Millisecond
	for _, concurrent := range []int{1, 4, 16, 64} {
		synctest.Test(t, func(t *testing.T) {
			d := newDevice(t)
			d.do = func(context.Context, int64) error { time.Sleep(took); return nil }
			s := guard(d, remote.Limits{Concurrent: concurrent})
			const each = 20
			start := time.Now()
			var all sync.WaitGroup
			for range 3 * concurrent { // clients, each with the next request as soon as the last one is done
				all.Go(func() {
					for range each {
						if _, err := s.SignContext(t.Context(), digest("a"), crypto.SHA256); err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
			ideal := time.Duration(3*each) * took // every slot is always in use
			if share := float64(ideal) / float64(time.Since(start)); share < 0.95 {
				t.Errorf("%d at once: %.3f of what the service can do", concurrent, share)
			}
			// Each waits for the two that are before it.
			if p := quantile(t, s, "mayfly_signer_wait_seconds", 0.99); p < took.Seconds() || p > 3*took.Seconds() {
				t.Errorf("%d at once: 99 %% wait less than %v s", concurrent, p)
			}
		})
	}
}

// A probe signs only if there was no recent signature; after a failure, it signs each time.
func TestProbePace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		s := guard(d, remote.Limits{})
		probe := func(want error, calls int64) {
			t.Helper()
			d.calls.Store(0)
			if err := s.Probe(t.Context()); (err == nil) != (want == nil) || d.calls.Load() != calls {
				t.Errorf("probe: %v, %d calls, want %v, %d", err, d.calls.Load(), want, calls)
			}
		}
		broken := errors.New("broken")
		probe(nil, 1) // nothing is known
		probe(nil, 0)
		time.Sleep(remote.ProbeEvery - time.Second)
		probe(nil, 0)
		time.Sleep(time.Second)
		probe(nil, 1)
		time.Sleep(remote.ProbeEvery / 2)
		if _, err := s.SignContext(t.Context(), digest("a"), crypto.SHA256); err != nil {
			t.Error(err)
		}
		time.Sleep(remote.ProbeEvery / 2)
		probe(nil, 0) // the request was proof
		d.do = func(context.Context, int64) error { return broken }
		probe(nil, 0)
		if _, err := s.SignContext(t.Context(), digest("a"), crypto.SHA256); !errors.Is(err, broken) {
			t.Error(err)
		}
		probe(broken, 1)
		probe(broken, 1)
		d.do = nil
		probe(nil, 1)
		probe(nil, 0)
		// While signatures are made, throttling does not make the probe fail; later it does.
		d.do = failing(remote.Throttled)
		if _, err := s.SignContext(t.Context(), digest("a"), crypto.SHA256); kind(err) != remote.Throttled {
			t.Error(err)
		}
		probe(nil, 3)
		time.Sleep(time.Minute)
		probe(broken, 3)
	})
}

// Readiness reports a probe without an answer, although it waits for less time than a signature may take.
func TestProbeTimesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.do = func(ctx context.Context, _ int64) error { <-ctx.Done(); return ctx.Err() }
		long := 10 * time.Second
		s := guard(d, remote.Limits{Timeout: &long})
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		start := time.Now()
		if err := s.Probe(ctx); kind(err) != remote.TimedOut || time.Since(start) >= 4*time.Second ||
			err.Error() != "probe with the key test://key: timed out: no answer within 3s" {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

// The text that a probe signs cannot be taken for anything else.
func TestProbeMessage(t *testing.T) {
	t.Parallel()
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{Signer: edwards} // signs messages, so that the test can read them
	for range 2 {
		if err := guard(d, remote.Limits{}).Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(d.seen) != 2 || bytes.Equal(d.seen[0], d.seen[1]) ||
		!bytes.HasPrefix(d.seen[0], []byte("mayfly: this message")) {
		t.Errorf("%q", d.seen)
	}
}

// Calls that are no signatures have the same limits.
func TestDo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := remote.New(remote.Options{Key: "test://key"})
		n := 0
		err := g.Do(t.Context(), "public_key", func(context.Context) error {
			n++
			return &remote.Error{Kind: remote.Unavailable, Err: errors.New("down")}
		})
		if n != 3 || err == nil ||
			err.Error() != "public_key with the key test://key: the service does not work or cannot be reached: down" {
			t.Errorf("%v, %d calls", err, n)
		}
		if err := g.Do(t.Context(), "public_key", func(context.Context) error { return nil }); err != nil {
			t.Error(err)
		}
	})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	long, short, good := time.Minute, time.Millisecond, 2*time.Second
	for name, c := range map[string]struct {
		limits remote.Limits
		want   string
	}{
		"none":     {remote.Limits{}, ""},
		"all":      {remote.Limits{Timeout: &good, Attempts: 1, Concurrent: 1024}, ""},
		"long":     {remote.Limits{Timeout: &long}, "timeout: timeout 1m0s is out of range; write 100ms to 10s"},
		"short":    {remote.Limits{Timeout: &short}, "timeout: "},
		"attempts": {remote.Limits{Attempts: 11}, "attempts: attempts 11 is out of range; write 1 to 10"},
		"negative": {remote.Limits{Attempts: -1}, "attempts: "},
		"calls":    {remote.Limits{Concurrent: 1025}, "concurrent: concurrent 1025 is out of range; write 1 to 1024"},
	} {
		err := c.limits.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// BenchmarkSign measures the guard in real time, with a service of 15 ms that takes 16 calls at once: "share" is the
// share of the time in which the slots of the service are in use.
func BenchmarkSign(b *testing.B) {
	const took, concurrent = 15 * time.Millisecond, 16
	d := newDevice(b)
	var used atomic.Int64
	d.do = func(context.Context, int64) error {
		start := time.Now()
		time.Sleep(took)
		used.Add(int64(time.Since(start)))
		return nil
	}
	s := guard(d, remote.Limits{Concurrent: concurrent})
	b.SetParallelism(3 * concurrent)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.SignContext(b.Context(), digest("a"), crypto.SHA256); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(time.Duration(used.Load()).Seconds()/concurrent/b.Elapsed().Seconds(), "share")
}

// gather returns a metric family of s.
func gather(t *testing.T, s *remote.Signer, name string) []*dto.Metric {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(s.Collectors()...)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()
		}
	}
	return nil
}

// value is the sum of the series of a counter or a gauge with these labels.
func value(t *testing.T, s *remote.Signer, name string, labels map[string]string) (sum float64) {
	t.Helper()
series:
	for _, m := range gather(t, s, name) {
		for _, l := range m.GetLabel() {
			if want, ok := labels[l.GetName()]; ok && want != l.GetValue() {
				continue series
			}
		}
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return sum
}

// quantile is the upper bound of the bucket with the quantile, as a dashboard computes it.
func quantile(t *testing.T, s *remote.Signer, name string, q float64) float64 {
	t.Helper()
	h := gather(t, s, name)[0].GetHistogram()
	for _, b := range h.GetBucket() {
		if float64(b.GetCumulativeCount()) >= q*float64(h.GetSampleCount()) {
			return b.GetUpperBound()
		}
	}
	return -1
}

// Each call of a sampled request is a span with its operation and its result.
func TestCallSpans(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.do = func(_ context.Context, n int64) error {
			if n == 1 {
				return &remote.Error{Kind: remote.Throttled, Err: errors.New("canary")}
			}
			return nil
		}
		ctx, recorder := spans.Request(t)
		if _, err := guard(d, remote.Limits{}).SignContext(ctx, digest("a"), crypto.SHA256); err != nil {
			t.Fatal(err)
		}
		want := "signer call mayfly.operation=sign mayfly.result=throttled failed\n" +
			"signer call mayfly.operation=sign mayfly.result=success\n"
		if got := recorder.Tree(); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
}
