// Package remote is the guard around a CA key that is outside this process: in a key management service, in a hardware
// module, in another process.
//
// A backend writes a [Raw] signer, which makes one call and classifies its errors as [Error] values. The guard adds
// what every such key needs: a time limit for a signature and for each call, a limit on how many calls run at once and
// a bounded queue before it, retries of the failures that pass, a probe that signs, metrics, and errors that name the
// key. Each signature is verified with the public key that was read when the key was opened. A signature that does not
// verify MUST NOT be returned: a service that lies, signs with another version of the key or damages a signature costs
// requests, and never lets a certificate out.
//
// A call that does not return keeps its place until it does, so that at most [Limits.Concurrent] goroutines can hang.
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
)

// Raw is a key outside this process, without any guard.
type Raw interface {
	// Public returns the public key. It makes no call, and returns the same key for as long as the signer exists.
	Public() crypto.PublicKey
	// Sign makes one call that signs. If opts.HashFunc() is not 0, digest is the hash of the message, and the message
	// itself otherwise (Ed25519, ML-DSA). The signature has the form of [crypto.Signer]: for ECDSA the ASN.1 of RFC
	// 3279 §2.2.3. Sign returns soon after ctx has ended, does not retry, and returns an [*Error] for a failure whose
	// kind it knows. It is called by several goroutines at once.
	Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// Options for [New].
type Options struct {
	// Key names the key and its place for the operator, such as "awskms:///alias/ca". It has no secret.
	Key string
	Limits
}

// Guard limits and measures the calls of one key service. It is safe for concurrent use.
type Guard struct {
	key     string
	limits  settled
	slots   chan struct{}
	waiting atomic.Int64
	hung    atomic.Int64 // calls that have not returned although their time was over
	metrics *metrics
}

// New returns a guard. The limits MUST have passed [Limits.Check].
func New(o Options) *Guard {
	limits := o.settle()
	g := &Guard{key: o.Key, limits: limits, slots: make(chan struct{}, limits.concurrent)}
	g.metrics = newMetrics(g)
	return g
}

// The operations of the guard itself. A backend has further ones, for [Guard.Do].
const (
	opSign  = "sign"
	opProbe = "probe"
)

// Do makes a call that is not a signature, such as one that reads the public key or logs in, with the same limits,
// retries and metrics. The name of the operation is one of few constants. The error is an [*Error], or the cause of the
// end of ctx.
func (g *Guard) Do(ctx context.Context, operation string, call func(context.Context) error) error {
	_, err := g.run(ctx, operation, func(ctx context.Context) ([]byte, error) { return nil, call(ctx) })
	return err
}

// Get makes a call that is not a signature and returns bytes, as [Guard.Do] makes one that returns none.
func (g *Guard) Get(ctx context.Context, operation string, call func(context.Context) ([]byte, error)) ([]byte, error) {
	return g.run(ctx, operation, call)
}

// Collectors returns the metrics of the guard.
func (g *Guard) Collectors() []prometheus.Collector { return g.metrics.all() }

// Concurrent is how many calls may run at once, for the size of a pool of connections.
func (g *Guard) Concurrent() int { return g.limits.concurrent }

// Hung reports whether no call can begin because all that may run have not returned in time.
func (g *Guard) Hung() bool { return g.hung.Load() >= int64(cap(g.slots)) }

// run makes a call, and repeats it as long as the failure may pass, within the limits.
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

// attempt waits for a slot and makes one call. The call runs in a goroutine of its own, which is left behind if it does
// not return in time.
func (g *Guard) attempt(ctx context.Context, operation string, call func(context.Context) ([]byte, error)) (
	[]byte, error,
) {
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
	var over atomic.Bool // set by whichever of call and waiting ends first
	start := time.Now()
	go func() {
		var a answer
		defer func() {
			if v := recover(); v != nil { // an unrecovered panic would end the process (F5)
				a.out, a.err = nil, &Error{Kind: Failed, Err: fmt.Errorf("panic: %v", v)}
			}
			g.metrics.seconds.WithLabelValues(operation).Observe(time.Since(start).Seconds())
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
		if ctx.Err() == nil { // a call that follows its context has a better error
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

// grace is how long a call may take to notice that its context has ended.
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

// pause is how long to wait before the next attempt: what the service asks for, or a time that doubles, with jitter.
func pause(attempt int, after time.Duration) time.Duration {
	if after > 0 {
		return after
	}
	d := min(firstPause<<(attempt-1), longestPause)
	return d/2 + mrand.N(d/2+1) //nolint:gosec // jitter is no secret
}

// rest waits, and reports whether there is time for another attempt after it.
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

// Public returns the public key as it was when the key was opened. All signatures verify with it.
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

// request is one signature to make.
type request struct {
	operation string
	digest    []byte
	opts      crypto.SignerOpts
}

func (s *Signer) sign(ctx context.Context, r request) ([]byte, error) {
	signature, err := s.run(ctx, r.operation, func(ctx context.Context) ([]byte, error) {
		return s.raw.Sign(ctx, r.digest, r.opts)
	})
	if err == nil { // outside of the slot: the service can work on the next signature
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

// remember keeps the result for the probe. That a caller left, or that many wait, says nothing about the key.
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
	// ProbeEvery is how old the last good signature may be before a probe makes one: about 8,900 signatures a month for
	// a CA that issues nothing, and none for a CA that issues.
	ProbeEvery = 5 * time.Minute
	// probeTime bounds a probe, so that the readiness, which waits a little longer, gets its error.
	probeTime = 3 * time.Second
	// sharedFor is how long a failure that is the load's alone is not held against a key that signs.
	sharedFor = 30 * time.Second
)

// Probe returns nil if the key signs: because it did in the last minutes and did not fail since, or because it signs
// now. What a probe signs is no certificate, no request for one and no message of any protocol.
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
		return nil // the calls of requests get through
	}
	return err
}

// probeText begins what a probe signs. It is no ASN.1, so that no part of it parses as something to be certified.
const probeText = "mayfly: this message proves that the key signs, and means nothing else. "
