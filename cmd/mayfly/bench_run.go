package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/client"
)

// benchRun is one run of the steps.
type benchRun struct {
	flags    *benchFlags
	lab      *benchLab
	client   *client.Client
	requests []*client.Prepared
	next     atomic.Int64
	left     atomic.Int64 // requests that may still be made
	caKey    crypto.PublicKey
	steps    []benchStep
}

// benchStep is what one number of callers came to.
type benchStep struct {
	Callers      int     `json:"callers"`
	Certificates int     `json:"certificates"`
	PerSecond    float64 `json:"certificates_per_second"`
	P50          float64 `json:"p50_ms"`
	P99          float64 `json:"p99_ms"`
	Refused      int     `json:"refused"` // told to come back later
	Failed       int     `json:"failed"`
	FirstError   string  `json:"first_error,omitempty"`
	CPU          float64 `json:"server_cpu_us,omitempty"` // for one certificate
	Floor        float64 `json:"floor_us"`
	Ratio        float64 `json:"ratio,omitempty"`
	RSS          float64 `json:"server_rss_mb,omitempty"`
}

const preparedRequests = 500

// newBenchRun prepares requests of many people and makes the first one, whose answer must be a certificate.
func newBenchRun(ctx context.Context, f *benchFlags, l *benchLab) (*benchRun, error) {
	r := &benchRun{flags: f, lab: l}
	r.left.Store(int64(f.most))
	o := client.Options{URL: l.rest, SkipVerify: true, UserAgent: userAgent() + " bench"}
	if f.native {
		o.URL, o.GRPC = l.grpc, true
	}
	var err error
	if r.client, err = client.New(o); err != nil {
		return nil, err
	}
	for i := range preparedRequests {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		token, err := l.provider.Token(fmt.Sprintf("caller-%d@bench.mayfly.invalid", i), nil)
		if err != nil {
			return nil, err
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		p, err := client.Request{Token: token, Signer: key}.Prepare()
		if err != nil {
			return nil, err
		}
		r.requests = append(r.requests, p)
	}
	return r, r.first(ctx)
}

// first waits until the CA takes a request: with --listen-idp, its operator has to tell it of the provider.
func (r *benchRun) first(ctx context.Context) error {
	for deadline := time.Now().Add(5 * time.Minute); ; {
		a, err := r.client.Send(ctx, r.requests[0])
		if err == nil {
			certs, err := a.Certificates()
			if err != nil || len(certs) < 2 {
				return fmt.Errorf("the target does not answer with a chain: %w", err)
			}
			r.caKey = certs[1].PublicKey
			return nil
		}
		if r.flags.listenIDP == "" || time.Now().After(deadline) {
			return errors.New(client.Explain(err))
		}
		select {
		case <-ctx.Done():
			return errors.New(client.Explain(err))
		case <-time.After(time.Second):
		}
	}
}

// step has n callers ask for one step's time.
func (r *benchRun) step(ctx context.Context, n int) error {
	floor, err := benchFloor(r.caKey)
	if err != nil {
		return err
	}
	s := benchStep{Callers: n}
	var mu sync.Mutex
	var all []time.Duration
	before, began := r.lab.usage(ctx), time.Now()
	timed, cancel := context.WithTimeout(ctx, r.flags.step)
	defer cancel()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			mine := r.call(timed, ctx)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine.took...)
			s.Refused += mine.refused
			s.Failed += mine.failed
			if s.FirstError == "" {
				s.FirstError = mine.first
			}
		})
	}
	wg.Wait()
	took, after := time.Since(began), r.lab.usage(ctx)
	again, err := benchFloor(r.caKey)
	if err != nil {
		return err
	}
	floor = min(floor, again) // who else runs on this machine makes it slower, never faster
	slices.Sort(all)
	s.Certificates, s.PerSecond = len(all), float64(len(all))/took.Seconds()
	s.Floor = microseconds(floor)
	if k := len(all); k > 0 {
		s.P50, s.P99 = microseconds(all[k/2])/1e3, microseconds(all[k*99/100])/1e3
		if before.ok && after.ok {
			s.CPU = microseconds(after.cpu-before.cpu) / float64(k)
			s.Ratio, s.RSS = s.CPU/s.Floor, after.rss/(1<<20)
		}
	}
	r.steps = append(r.steps, s)
	return nil
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// tally is what one caller got.
type tally struct {
	took            []time.Duration
	refused, failed int
	first           string
}

// call asks until timed ends. A request under way may end: it is cut off by whole only. A refusal is obeyed.
func (r *benchRun) call(timed, whole context.Context) tally {
	var t tally
	for timed.Err() == nil && r.left.Add(-1) >= 0 {
		began := time.Now()
		_, err := r.client.Send(whole, r.requests[int(r.next.Add(1))%len(r.requests)])
		var refusal *client.Error
		switch {
		case err == nil:
			t.took = append(t.took, time.Since(began))
			continue
		case whole.Err() != nil:
			return t
		case errors.As(err, &refusal) && refusal.RetryAfter > 0:
			t.refused++
			select {
			case <-timed.Done():
			case <-time.After(refusal.RetryAfter):
			}
		default:
			t.failed++
		}
		if t.first == "" {
			t.first = client.Explain(err)
		}
	}
	return t
}

// benchFloor times what no certificate can do without: one RS256 verification (token), one P-256 verification (proof), two
// signatures by a key such as the CA's, one P-256 verification (SCT) and one verification of the CA's signature. The best of
// several runs counts.
func benchFloor(caKey crypto.PublicKey) (time.Duration, error) {
	token, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return 0, err
	}
	leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, err
	}
	issuing, verify, err := keyLike(caKey)
	if err != nil {
		return 0, err
	}
	short, long := sha256.Sum256([]byte("token, proof and SCT")), sha512.Sum384([]byte("certificate"))
	tokenSig, err1 := rsa.SignPKCS1v15(nil, token, crypto.SHA256, short[:])
	leafSig, err2 := ecdsa.SignASN1(rand.Reader, leaf, short[:])
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	digest, hash := long[:], crypto.SHA384
	switch k := caKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			digest, hash = short[:], crypto.SHA256
		}
	case *rsa.PublicKey:
		digest, hash = short[:], crypto.SHA256
	case ed25519.PublicKey:
		hash = 0
	}
	best := time.Hour
	for range 8 {
		const rounds = 25
		began := time.Now()
		for range rounds {
			ok := rsa.VerifyPKCS1v15(&token.PublicKey, crypto.SHA256, short[:], tokenSig) == nil
			ok = ecdsa.VerifyASN1(&leaf.PublicKey, short[:], leafSig) && ok
			ok = ecdsa.VerifyASN1(&leaf.PublicKey, short[:], leafSig) && ok
			first, err1 := issuing.Sign(rand.Reader, digest, hash)
			_, err2 := issuing.Sign(rand.Reader, digest, hash)
			if !ok || err1 != nil || err2 != nil || !verify(digest, first) {
				return 0, errors.New("a primitive does not work on this machine")
			}
		}
		best = min(best, time.Since(began)/rounds)
	}
	return best, nil
}

// keyLike makes a key of the kind of public, and a func that verifies its signatures.
func keyLike(public crypto.PublicKey) (crypto.Signer, func(digest, sig []byte) bool, error) {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		key, err := ecdsa.GenerateKey(k.Curve, rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		return key, func(d, s []byte) bool { return ecdsa.VerifyASN1(&key.PublicKey, d, s) }, nil
	case *rsa.PublicKey:
		key, err := rsa.GenerateKey(rand.Reader, k.N.BitLen())
		if err != nil {
			return nil, nil, err
		}
		return key, func(d, s []byte) bool { return rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, d, s) == nil }, nil
	case ed25519.PublicKey:
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		return key, func(d, s []byte) bool { return ed25519.Verify(pub, d, s) }, nil
	}
	return nil, nil, fmt.Errorf("the CA has a key of type %T, which cannot be timed", public)
}
