// Package remote protects the calls to a CA key outside this process: in a key management service, a hardware security
// module or another process.
//
// A backend writes a [Raw] signer, which makes one call and classifies its errors as [Error] values. A [Guard] adds
// what every such key needs: a time limit for a signature and for each call, a limit of concurrent calls with a bounded
// queue, retries after temporary failures, a probe that signs, metrics, and errors that name the key. Each signature is
// verified with the public key that was read when the key was opened. A signature that does not verify MUST NOT be
// returned: if the service signs with another key or version, or returns a damaged signature, the request fails and no
// certificate is released.
//
// A call occupies its slot until it returns, so that at most [Limits.Concurrent] goroutines can hang.
package remote

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/span"
)

// Raw is a key outside this process, without a guard.
type Raw interface {
	// Public returns the public key. It makes no call, and always returns the same key.
	Public() crypto.PublicKey
	// Sign makes one call that signs. If opts.HashFunc() is not 0, digest is the hash of the message; otherwise digest
	// is the message itself (Ed25519, ML-DSA). The signature has the form of [crypto.Signer]: for ECDSA the ASN.1 of
	// RFC 3279 §2.2.3. Sign returns soon after ctx has ended, does not retry, and returns an [*Error] for a failure
	// whose kind it knows. It MUST be safe for concurrent use.
	Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// Options for [New].
type Options struct {
	// Key names the key for the operator, such as "awskms:///alias/ca". It has no secret.
	Key string
	Limits
}

// Guard limits and measures the calls of one key service. It is safe for concurrent use.
type Guard struct {
	key     string
	limits  settled
	slots   chan struct{}
	waiting atomic.Int64
	hung    atomic.Int64 // calls that have exceeded their time limit and have not returned
	metrics *metrics
}

// New returns a guard. The limits MUST have passed [Limits.Check].
func New(o Options) *Guard {
	limits := o.settle()
	g := &Guard{key: o.Key, limits: limits, slots: make(chan struct{}, limits.concurrent)}
	g.metrics = newMetrics(g)
	return g
}

// The operations of the guard itself. A backend can have further operations, for [Guard.Do].
const (
	opSign  = "sign"
	opProbe = "probe"
)

// Do makes a call that is not a signature, such as one that reads the public key or logs in, with the same limits,
// retries and metrics. The name of the operation is a label of metrics and MUST be a constant. The error is an
// [*Error], or the cause of the end of ctx.
func (g *Guard) Do(ctx context.Context, operation string, call func(context.Context) error) error {
	_, err := g.run(ctx, operation, func(ctx context.Context) ([]byte, error) { return nil, call(ctx) })
	return err
}

// Get is like [Guard.Do], for a call that returns bytes.
func (g *Guard) Get(ctx context.Context, operation string, call func(context.Context) ([]byte, error)) ([]byte, error) {
	return g.run(ctx, operation, call)
}

// Collectors returns the metrics of the guard.
func (g *Guard) Collectors() []prometheus.Collector { return g.metrics.all() }

// Concurrent returns the limit of concurrent calls, for the size of a connection pool.
func (g *Guard) Concurrent() int { return g.limits.concurrent }

// Hung reports whether no call can begin because all slots are occupied by calls that exceeded their time limit.
func (g *Guard) Hung() bool { return g.hung.Load() >= int64(cap(g.slots)) }

// run makes a call, and retries it after temporary failures, within the limits.
func (g *Guard) run(ctx context.Context, operation string, call func(context.Context) ([]byte, error)) ([]byte, error) {
	whole, cancel := context.WithTimeout(ctx, g.limits.timeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		out, err := g.attempt(whole, operation, call)
		if err == nil {
			return out, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		failure := g.failure(operation, err)
		if attempt == g.limits.attempts || !failure.Kind.passes() || !rest(whole, pause(attempt, failure.After)) {
			return nil, failure
		}
	}
}

// failure returns err as an [Error] that names key and operation.
func (g *Guard) failure(operation string, err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Kind: Failed, Err: err}
	}
	named := *e
	named.key, named.operation = g.key, operation
	return &named
}

// attempt waits for a slot and makes one call. The call runs in a separate goroutine. If the call does not return in
// time, attempt does not wait for the goroutine.
func (g *Guard) attempt(ctx context.Context, operation string, call func(context.Context) ([]byte, error)) (
	out []byte, err error,
) {
	ctx, step := span.Call(ctx, "signer call")
	step.Set(span.Operation, operation)
	defer func() { step.EndCall(resultOf(err), err != nil && !errors.Is(err, context.Canceled)) }()
	if err := g.acquire(ctx); err != nil {
		g.metrics.count(operation, err)
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, g.limits.attempt)
	type answer struct {
		out []byte
		err error
	}
	done := make(chan answer, 1)
	var over atomic.Bool // set by the call or by the wait for it, whichever ends first
	start := time.Now()
	go func() {
		var a answer
		defer func() {
			if v := recover(); v != nil { // an unrecovered panic would end the process (F5)
				a.out, a.err = nil, &Error{Kind: Failed, Err: fmt.Errorf("panic: %v", v)}
			}
			step.Observe(g.metrics.seconds.WithLabelValues(operation), time.Since(start).Seconds())
			if !over.CompareAndSwap(false, true) {
				g.hung.Add(-1)
			}
			<-g.slots
			done <- a
			cancel()
		}()
		a.out, a.err = call(limited)
	}()
	var a answer
	select {
	case a = <-done:
	case <-limited.Done():
		a.err = context.Cause(limited)
		if ctx.Err() == nil { // a call that observes its context returns a better error
			select {
			case a = <-done:
			case <-time.After(grace):
			}
		}
		if over.CompareAndSwap(false, true) {
			g.hung.Add(1)
		}
	}
	if a.err != nil && errors.Is(context.Cause(limited), context.DeadlineExceeded) && kindOf(a.err).vague() {
		a.err = &Error{Kind: TimedOut, Err: fmt.Errorf("no answer within %s",
			time.Since(start).Round(time.Millisecond))}
	}
	if ctx.Err() == nil || a.err == nil || kindOf(a.err) == TimedOut {
		g.metrics.count(operation, a.err)
	}
	return a.out, a.err
}

// grace is how long a call may take to return after its context has ended.
const grace = 50 * time.Millisecond

// acquire takes a slot, or waits for one in the queue.
func (g *Guard) acquire(ctx context.Context) error {
	start := time.Now()
	select {
	case g.slots <- struct{}{}:
		g.metrics.wait.Observe(0)
		return nil
	default:
	}
	if n := g.waiting.Add(1); n > g.limits.queue {
		g.waiting.Add(-1)
		return &Error{Kind: Busy, Err: fmt.Errorf("%d calls run and %d wait", cap(g.slots), g.limits.queue)}
	}
	defer g.waiting.Add(-1)
	defer func() { g.metrics.wait.Observe(time.Since(start).Seconds()) }()
	select {
	case g.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
	}
	if hung := g.hung.Load(); hung > 0 {
		return &Error{Kind: TimedOut, Err: fmt.Errorf(
			"no call could begin within %s: of the %d that may run at once, %d have not returned",
			g.limits.timeout, cap(g.slots), hung)}
	}
	return &Error{Kind: Busy, Err: fmt.Errorf("no call could begin within %s: %d run, and %d wait", g.limits.timeout,
		cap(g.slots), g.waiting.Load())}
}

const (
	firstPause   = 40 * time.Millisecond
	longestPause = time.Second
)

// pause returns the wait before the next attempt: what the service asks for, or a time that doubles with each attempt,
// with jitter.
func pause(attempt int, after time.Duration) time.Duration {
	if after > 0 {
		return after
	}
	d := min(firstPause<<(attempt-1), longestPause)
	return d/2 + mrand.N(d/2+1) //nolint:gosec // jitter is no secret
}

// rest waits, and reports whether there is time for another attempt afterwards.
func rest(ctx context.Context, d time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= d {
		return false
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// Signer is a key behind a guard. It is safe for concurrent use.
type Signer struct {
	*Guard
	raw    Raw
	public crypto.PublicKey

	mu   sync.Mutex
	good time.Time // of the last signature that verified
	bad  error     // the last failure, if no signature verified after it
}

// Signer returns the key behind the guard. It makes no call.
func (g *Guard) Signer(raw Raw) *Signer { return &Signer{Guard: g, raw: raw, public: raw.Public()} }

// Public returns the public key that was read when the key was opened. All signatures verify with it.
func (s *Signer) Public() crypto.PublicKey { return s.public }

// Sign implements [crypto.Signer], for callers without a context.
func (s *Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.SignContext(context.Background(), digest, opts)
}

// SignContext returns a signature that verifies with the public key. The error is an [*Error], or the cause of the end
// of ctx.
func (s *Signer) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.sign(ctx, request{opSign, digest, opts})
}

// request describes one signature.
type request struct {
	operation string
	digest    []byte
	opts      crypto.SignerOpts
}

func (s *Signer) sign(ctx context.Context, r request) ([]byte, error) {
	signature, err := s.run(ctx, r.operation, func(ctx context.Context) ([]byte, error) {
		return s.raw.Sign(ctx, r.digest, r.opts)
	})
	if err == nil { // after the slot is released, so that the service can work on the next signature
		if err = verify(s.public, r, signature); err != nil {
			wrong := &Error{Kind: WrongKey, Err: err}
			s.metrics.count("verify", wrong)
			err = s.failure(r.operation, wrong)
		}
	}
	s.remember(err)
	if err != nil {
		return nil, err
	}
	return signature, nil
}

// remember keeps the result for the probe. It ignores canceled callers and a full queue, which say nothing about the
// key.
func (s *Signer) remember(err error) {
	var e *Error
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.good, s.bad = time.Now(), nil
	case !errors.As(err, &e) || e.Kind == Busy:
	default:
		s.bad = err
	}
}

const (
	// ProbeEvery is the maximum age of the last valid signature before a probe makes another one: about 8,900
	// signatures a month for a CA that issues nothing, and none for a CA that issues certificates.
	ProbeEvery = 5 * time.Minute
	// probeTime bounds a probe. The readiness check waits a little longer, so that it gets the error of the probe.
	probeTime = 3 * time.Second
	// sharedFor is how long after a valid signature the probe ignores failures that only the load causes.
	sharedFor = 30 * time.Second
)

// Probe returns nil if the key signs: it made a signature within [ProbeEvery] and has not failed since, or it signs
// now. The signed text is neither a certificate nor a certificate signing request nor a message of any protocol.
func (s *Signer) Probe(ctx context.Context) error {
	s.mu.Lock()
	good, bad := s.good, s.bad
	s.mu.Unlock()
	if bad == nil && !good.IsZero() && time.Since(good) < ProbeEvery {
		return nil
	}
	if s.Hung() {
		return s.failure(opProbe, &Error{Kind: TimedOut, Err: fmt.Errorf(
			"none of the %d concurrent calls has returned", cap(s.slots))})
	}
	message := append([]byte(probeText), make([]byte, 16)...)
	if _, err := rand.Read(message[len(probeText):]); err != nil {
		return err
	}
	opts := CertificateOptions(s.public)
	late := &Error{Kind: TimedOut, Err: fmt.Errorf("no answer within %s", probeTime)}
	ctx, cancel := context.WithTimeoutCause(ctx, probeTime, s.failure(opProbe, late))
	defer cancel()
	_, err := s.sign(ctx, request{opProbe, hashed(message, opts), opts})
	var e *Error
	if errors.As(err, &e) && (e.Kind == Busy || e.Kind == Throttled) && time.Since(good) < sharedFor {
		return nil // the calls of requests succeed
	}
	return err
}

// probeText begins the text that a probe signs. It is not ASN.1, so that the text cannot be parsed as a TBSCertificate.
const probeText = "mayfly: this message proves that the key signs, and means nothing else. "
