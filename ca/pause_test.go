package ca_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// pauses counts the pauses of a request, and reports whether the request is paused now.
type pauses struct{ begun, now atomic.Int64 }

func (p *pauses) pause() func() {
	p.begun.Add(1)
	p.now.Add(1)
	return func() { p.now.Add(-1) }
}

// during is a log that records whether the request is paused.
type during struct {
	stub
	p       *pauses
	pausing bool
}

func (d *during) Submit(ctx context.Context, p tbs.Precertificate) ([][]byte, error) {
	d.pausing = d.p.now.Load() == 1
	return d.stub.Submit(ctx, p)
}

// C10 // F2: a request is paused while it waits for a log, or for a signer that may be outside this process, but not
// for a key in this process.
func TestPause(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	for name, c := range map[string]struct {
		options func(*ca.Options)
		want    int64
	}{
		"local key":      {func(*ca.Options) {}, 1},
		"foreign signer": {func(o *ca.Options) { o.Signer = &spy{Signer: p.Key} }, 3},
	} {
		counts := &pauses{}
		log := &during{stub: stub{scts: oneSCT(t)}, p: counts}
		o := ca.Options{Chain: p.Chain, Signer: p.Key, Log: log, Pause: counts.pause}
		c.options(&o)
		a, err := ca.New(o)
		if err != nil {
			t.Fatal(err)
		}
		counts.begun.Store(0) // the trial signs as well
		got, err := a.Issue(t.Context(), request(t, alice()))
		if err != nil {
			t.Fatal(err)
		}
		if n := counts.begun.Load(); n != c.want || counts.now.Load() != 0 || !log.pausing {
			t.Errorf("%s: paused %d times, want %d; now %d; during the submission %t", name, n, c.want,
				counts.now.Load(), log.pausing)
		}
		leaf, err := x509.ParseCertificate(got.DER)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Chain[0].CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate,
			leaf.Signature); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// panicking is a signer outside this process whose client library panics.
type panicking struct{ *spy }

func (p panicking) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if p.fail != nil {
		panic("canary")
	}
	return p.spy.Sign(r, digest, o)
}

// F5 // C10 // G4: a panic in a signer fails only its own request: the process continues, the slot is released, the
// signature counts, and each pause of the request is resumed.
func TestSignerPanics(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	counts := &pauses{}
	signer := panicking{&spy{Signer: p.Key}}
	a, err := ca.New(ca.Options{Chain: p.Chain, Signer: signer, Log: &stub{scts: oneSCT(t)}, Pause: counts.pause})
	if err != nil {
		t.Fatal(err)
	}
	signer.fail = errors.New("panic")
	for range 100 { // more than the number of slots
		signatures := 0
		r := request(t, alice())
		r.Outcome = func(_ context.Context, o ca.Outcome) error { signatures = o.Signatures; return nil }
		r.Intent = func(context.Context, ca.Intent) error { return nil }
		if _, err := a.Issue(t.Context(), r); fault.From(err).Reason != fault.SignerUnavailable || signatures != 1 {
			t.Fatalf("%v, %d signatures", err, signatures)
		}
	}
	signer.fail = nil
	if _, err := a.Issue(t.Context(), request(t, alice())); err != nil || counts.now.Load() != 0 || !a.Health().OK {
		t.Errorf("%v, %d pause, %+v", err, counts.now.Load(), a.Health())
	}
}

// slowKey is a key in a service that takes 15 ms for a signature.
type slowKey struct{ crypto.Signer }

func (k slowKey) Sign(_ context.Context, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	time.Sleep(15 * time.Millisecond)
	return k.Signer.Sign(rand.Reader, digest, o)
}

// C10: the CA makes as many signatures as the service of its key allows: each place of the service is always in use.
func TestSlowSignerIsTheOnlyLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const concurrent, requests = 16, 480
		p := pki.New(pki.Options{})
		signer := remote.New(remote.Options{
			Key: "test://key", Limits: remote.Limits{Concurrent: concurrent},
		}).Signer(slowKey{p.Key})
		a, err := ca.New(ca.Options{Chain: p.Chain, Signer: signer, Log: lonely{oneSCT(t)}})
		if err != nil {
			t.Fatal(err)
		}
		r := request(t, alice())
		start := time.Now()
		var all sync.WaitGroup
		for range 4 * concurrent {
			all.Go(func() {
				for range requests / (4 * concurrent) {
					if _, err := a.Issue(t.Context(), r); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		made := requests / (4 * concurrent) * 4 * concurrent
		ideal := time.Duration(2*made/concurrent) * 15 * time.Millisecond
		if share := float64(ideal) / float64(time.Since(start)); share < 0.95 {
			t.Errorf("%.3f of the signatures that the service can make", share)
		}
	})
}

// lonely is a log without state.
type lonely struct{ scts [][]byte }

func (l lonely) Submit(context.Context, tbs.Precertificate) ([][]byte, error) { return l.scts, nil }
