package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/oracle"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

const issuer = "https://accounts.example.com"

func alice() identity.Identity {
	id := identity.Identity{
		Issuer: issuer, Subject: "s1",
		SAN: identity.SAN{Kind: identity.Email, Value: "alice@example.com"},
	}
	id.Extensions.Set(identity.IssuerV1, issuer)
	id.Extensions.Set(identity.Issuer, issuer)
	id.Extensions.Set(identity.Subject, "s1")
	return id
}

func request(t *testing.T, id identity.Identity) ca.Request {
	t.Helper()
	key := pki.NewKey(pki.P256)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return ca.Request{Identity: &id, SPKI: spki, PublicKey: key.Public()}
}

// remote connects the product's submission to the log of the lab.
func remoteLog(t *testing.T, l *ct.Log) *ctlog.Set {
	t.Helper()
	r, err := remote.Open(remote.Config{Name: "lab", URL: l.URL(), PublicKey: "-"},
		remote.Options{PublicKeyPEM: l.PublicKeyPEM()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	set, err := ctlog.New(ctlog.Options{
		Logs:   []ctlog.Log{{Log: r.Log, Submitter: r}},
		Policy: ctlog.PolicyConfig{Budget: 15 * time.Second, Attempt: 10 * time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// A1 // A5 // A8 // A9 // A10 // A14 // B1 // B13: the oracle accepts the certificates of each type of CA key.
func TestIssue(t *testing.T) {
	t.Parallel()
	for _, kind := range []pki.KeyType{pki.P256, pki.P384, pki.P521, pki.RSA2048, pki.Ed25519} {
		for _, logged := range []bool{true, false} {
			t.Run(string(kind), func(t *testing.T) {
				t.Parallel()
				p := pki.New(pki.Options{Key: kind})
				o := ca.Options{Chain: p.Chain, Signer: p.Key, Backdate: 30 * time.Second}
				r := request(t, alice())
				want := oracle.Expect{
					Chain: p.Chain, SPKI: r.SPKI, Email: "alice@example.com",
					Extensions: map[string]string{"1": issuer, "8": issuer, "24": "s1"},
				}
				if logged {
					l := ct.New(t, ct.Options{Roots: []*x509.Certificate{p.Root}})
					o.Log, want.Logs = remoteLog(t, l), []crypto.PublicKey{l.Key()}
				}
				a, err := ca.New(o)
				if err != nil {
					t.Fatal(err)
				}
				got, err := a.Issue(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				if got.Embedded != logged {
					t.Errorf("embedded is %t", got.Embedded)
				}
				oracle.Check(t, want, got.DER)
			})
		}
	}
}

// C9 // A6 // C1: a chain under which no certificate can be issued now is refused, with the reason.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	now := time.Now()
	good := pki.New(pki.Options{})
	for name, c := range map[string]struct {
		pki   *pki.PKI
		chain []*x509.Certificate
		key   crypto.Signer
		want  string
	}{
		"another key": {good, nil, pki.NewKey(pki.P256), "is not the key"},
		"no root":     {good, good.Chain[:1], nil, "not a root"},
		"wrong order": {
			good,
			[]*x509.Certificate{good.Root, good.Intermediate},
			nil,
			"issuing certificate first",
		},
		"empty": {good, []*x509.Certificate{}, nil, "empty"},
		"not a CA": {
			pki.New(pki.Options{Intermediate: func(c *x509.Certificate) {
				c.IsCA, c.MaxPathLenZero = false, false
			}}), nil, nil, "not",
		},
		"no keyCertSign": {
			pki.New(pki.Options{Intermediate: func(c *x509.Certificate) {
				c.KeyUsage = x509.KeyUsageCRLSign
			}}), nil, nil, "keyCertSign",
		},
		"no code signing": {
			pki.New(pki.Options{Intermediate: func(c *x509.Certificate) {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
			}}), nil, nil, "codeSigning",
		},
		"usage at the root": {
			pki.New(pki.Options{Root: func(c *x509.Certificate) {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			}}), nil, nil, "usage",
		},
		"path length": {
			pki.New(pki.Options{Root: func(c *x509.Certificate) { c.MaxPathLenZero = true }}), nil,
			nil, "intermediates",
		},
		"expired": {
			pki.New(pki.Options{Intermediate: func(c *x509.Certificate) {
				c.NotAfter = now.Add(-time.Second)
			}}), nil, nil, "expired",
		},
		"expires too soon": {
			pki.New(pki.Options{Intermediate: func(c *x509.Certificate) {
				c.NotAfter = now.Add(5 * time.Minute)
			}}), nil, nil, "too soon",
		},
		"root ends too soon": {
			pki.New(pki.Options{Root: func(c *x509.Certificate) {
				c.NotAfter = now.Add(5 * time.Minute)
			}}), nil, nil, "too soon",
		},
		"not yet valid": {
			pki.New(pki.Options{Intermediate: func(c *x509.Certificate) {
				c.NotBefore = now.Add(time.Hour)
			}}), nil, nil, "not valid before",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := ca.Options{Chain: c.pki.Chain, Signer: c.pki.Key}
			if c.chain != nil {
				o.Chain = c.chain
			}
			if c.key != nil {
				o.Signer = c.key
			}
			if _, err := ca.New(o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// spy signs and records what it signed. It can be set to misbehave.
type spy struct {
	crypto.Signer
	mu      sync.Mutex
	digests [][]byte
	fail    error
	other   crypto.Signer // replaces the signature
}

func (s *spy) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.digests = append(s.digests, digest)
	if s.fail != nil {
		return nil, s.fail
	}
	if s.other != nil {
		return s.other.Sign(r, digest, o)
	}
	return s.Signer.Sign(r, digest, o)
}

// stub is a log that returns a given answer.
type stub struct {
	scts [][]byte
	err  error
	got  []tbs.Precertificate
	now  func()
}

func (s *stub) Submit(_ context.Context, p tbs.Precertificate) ([][]byte, error) {
	s.got = append(s.got, p)
	if s.now != nil {
		s.now()
	}
	return s.scts, s.err
}

func oneSCT(t *testing.T) [][]byte {
	t.Helper()
	sct, err := tbs.SCT{Timestamp: 1, Hash: 4, Sig: 3, Signature: []byte{1}}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{sct}
}

// A2 // A3 // B12: there are two signatures for a certificate, the second only after the log has answered. Each covers
// the exact bytes of the precertificate or the certificate.
func TestSignsOnlyWhatIsReleased(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	signer := &spy{Signer: p.Key}
	log := &stub{scts: oneSCT(t)}
	a, err := ca.New(ca.Options{Chain: p.Chain, Signer: signer, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	trials := len(signer.digests)
	if trials != 1 {
		t.Errorf("the trial made %d signatures with the CA's key", trials)
	}
	got, err := a.Issue(t.Context(), request(t, alice()))
	if err != nil {
		t.Fatal(err)
	}
	var want [][32]byte
	for _, der := range [][]byte{log.got[0].DER, got.DER} {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, sha256.Sum256(c.RawTBSCertificate))
	}
	if n := len(signer.digests) - trials; n != 2 {
		t.Fatalf("%d signatures, want 2", n)
	}
	for i, d := range signer.digests[trials:] {
		if [32]byte(d) != want[i] {
			t.Errorf("signature %d is over something else", i)
		}
	}

	log.err = fault.New(fault.LogUnavailable, errors.New("down"))
	if _, err := a.Issue(t.Context(), request(t, alice())); fault.From(err).Reason != fault.LogUnavailable {
		t.Errorf("got %v", err)
	}
	if n := len(signer.digests) - trials; n != 3 {
		t.Errorf("%d signatures after the log failed, want 3", n)
	}
	log.err = nil
	ctx, cancel := context.WithCancel(t.Context())
	log.now = cancel // the caller cancels while the log works
	if _, err := a.Issue(ctx, request(t, alice())); fault.From(err).Reason != fault.CallerCanceled {
		t.Errorf("got %v", err)
	}
	if n := len(signer.digests) - trials; n != 4 {
		t.Errorf("%d signatures after the caller left, want 4", n)
	}
}

// A3 // A4 // B1: what the lint or the correspondence check refuses is never released. Nothing is signed before the
// first lint, there is no second signature before the second lint, and a log that modifies the precertificate in memory
// gets no certificate.
func TestIssueRefusesItsOwnMistakes(t *testing.T) {
	t.Parallel()
	large := alice()
	for x := range identity.Known() {
		if large.Extensions.Get(x) == "" {
			large.Extensions.Set(x, "https://"+strings.Repeat("a", 1900)+".example.com")
		}
	}
	sct, err := tbs.SCT{Timestamp: 1, Hash: 4, Sig: 3, Signature: make([]byte, 6000)}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		id         identity.Identity
		log        *stub
		damage     bool // the log modifies the precertificate
		want       string
		signatures int
	}{
		"a TBSCertificate that is too large":      {large, &stub{scts: oneSCT(t)}, false, "lint: ", 0},
		"SCTs that are too large":                 {alice(), &stub{scts: [][]byte{sct, sct, sct}}, false, "lint: ", 1},
		"a precertificate that the log changed":   {alice(), &stub{scts: oneSCT(t)}, true, "correspond: ", 2},
		"a precertificate that the log let alone": {alice(), &stub{scts: oneSCT(t)}, false, "", 2},
	} {
		p := pki.New(pki.Options{})
		signer := &spy{Signer: p.Key}
		a, err := ca.New(ca.Options{Chain: p.Chain, Signer: signer, Log: c.log})
		if err != nil {
			t.Fatal(err)
		}
		if c.damage {
			c.log.now = func() {
				pre := c.log.got[0].DER
				c, err := x509.ParseCertificate(pre)
				if err != nil {
					t.Error(err)
					return
				}
				at := bytes.Index(pre, c.SubjectKeyId)
				pre[at] ^= 1
			}
		}
		trials := len(signer.digests)
		got, err := a.Issue(t.Context(), request(t, c.id))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (got != nil || err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
		if n := len(signer.digests) - trials; n != c.signatures {
			t.Errorf("%s: %d signatures, want %d", name, n, c.signatures)
		}
	}
}

// C1 // C10 // F6: if a signer fails or signs with another key, no certificate is released and the client learns no
// details.
func TestSignerFaults(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	signer := &spy{Signer: p.Key}
	a, err := ca.New(ca.Options{Chain: p.Chain, Signer: signer, Log: &stub{scts: oneSCT(t)}})
	if err != nil {
		t.Fatal(err)
	}
	for name, set := range map[string]func(){
		"error":       func() { signer.fail = errors.New("canary") },
		"another key": func() { signer.fail, signer.other = nil, pki.NewKey(pki.P256) },
	} {
		set()
		_, err := a.Issue(t.Context(), request(t, alice()))
		f := fault.From(err)
		if f.Reason != fault.SignerUnavailable || strings.Contains(f.Public, "canary") {
			t.Errorf("%s: got %v, public %q", name, err, f.Public)
		}
	}
}

// A5 // A6 // A7 // C7: the validity follows the clock.
func TestClock(t *testing.T) {
	t.Parallel()
	start := time.Now()
	p := pki.New(pki.Options{
		Now:          start,
		Intermediate: func(c *x509.Certificate) { c.NotAfter = start.Add(40 * 24 * time.Hour) },
	})
	now := start
	log := &stub{scts: oneSCT(t)}
	a, err := ca.New(ca.Options{
		Chain: p.Chain, Signer: p.Key, Log: log, Now: func() time.Time { return now },
		Backdate: 30 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	end := p.Intermediate.NotAfter
	for _, c := range []struct {
		at          time.Time
		ok, warning bool
		issues      bool
	}{
		{start, true, false, true},
		{end.Add(-20 * 24 * time.Hour), true, false, true}, // half of its life
		{end.Add(-10 * 24 * time.Hour), true, true, true},
		{end.Add(-30 * time.Minute), false, false, true},
		{end.Add(-10 * time.Minute), false, false, false},
		{end.Add(time.Minute), false, false, false},
	} {
		now = c.at
		if h := a.Health(); h.OK != c.ok || (h.Warning != "") != c.warning {
			t.Errorf("%s before the end: health %+v", end.Sub(c.at), h)
		}
		got, err := a.Issue(t.Context(), request(t, alice()))
		if (err == nil) != c.issues {
			t.Errorf("%s before the end: %v", end.Sub(c.at), err)
		}
		if err == nil && (got.NotBefore.After(now) || now.Sub(got.NotBefore) > 31*time.Second ||
			got.NotAfter.Sub(got.NotBefore) != ca.Validity || got.NotAfter.After(end)) {
			t.Errorf("validity %s to %s at %s", got.NotBefore, got.NotAfter, now)
		}
	}
	now = start
	if a, err = ca.New(ca.Options{
		Chain: p.Chain, Signer: p.Key, Log: log,
		Now: func() time.Time { return now },
	}); err != nil {
		t.Fatal(err)
	}
	log.now = func() { now = now.Add(2 * time.Minute) } // a log that takes longer than the certificate is valid
	if _, err := a.Issue(t.Context(), request(t, alice())); fault.From(err).Reason != fault.LogUnavailable {
		t.Errorf("got %v", err)
	}
}

// A16: the chain's name constraints are checked before the CA signs.
func TestNameConstraints(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{Intermediate: func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedEmailAddresses = true, []string{"example.com"}
	}})
	signer := &spy{Signer: p.Key}
	a, err := ca.New(ca.Options{Chain: p.Chain, Signer: signer, Log: &stub{scts: oneSCT(t)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(t.Context(), request(t, alice())); err != nil {
		t.Fatal(err)
	}
	before := len(signer.digests)
	mallory := alice()
	mallory.SAN.Value = "mallory@example.org"
	if _, err := a.Issue(t.Context(), request(t, mallory)); fault.From(err).Reason != fault.PolicyDenied {
		t.Errorf("got %v", err)
	}
	if len(signer.digests) != before {
		t.Error("it signed before it looked")
	}
}

// A17 // D12: a value that a certificate cannot carry exactly is reported as the caller's fault.
func TestIdentityRefused(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	a, err := ca.New(ca.Options{Chain: p.Chain, Signer: p.Key})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{
		"", "älice@example.com", "a\x00@example.com",
		strings.Repeat("a", 5000) + "@example.com",
	} {
		id := alice()
		id.SAN.Value = v
		if _, err := a.Issue(t.Context(), request(t, id)); fault.From(err).Reason != fault.ClaimInvalid {
			t.Errorf("%.20q: got %v", v, err)
		}
	}
}

func FuzzParseChain(f *testing.F) {
	f.Add(pki.New(pki.Options{}).ChainPEM())
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		chain, err := ca.ParseChain(data)
		if err == nil && len(chain) == 0 {
			t.Error("an empty chain without an error")
		}
	})
}

func BenchmarkIssue(b *testing.B) {
	p := pki.New(pki.Options{})
	a, err := ca.New(ca.Options{Chain: p.Chain, Signer: p.Key})
	if err != nil {
		b.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(p.RootKey.Public())
	if err != nil {
		b.Fatal(err)
	}
	id := alice()
	for b.Loop() {
		if _, err := a.Issue(b.Context(), ca.Request{Identity: &id, SPKI: spki}); err != nil {
			b.Fatal(err)
		}
	}
}
