package ca_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/oracle"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// captured is a log that keeps the last precertificate.
type captured struct {
	ca.Log
	last tbs.Precertificate
}

func (c *captured) Submit(ctx context.Context, p tbs.Precertificate) ([][]byte, error) {
	c.last = p
	return c.Log.Submit(ctx, p)
}

// A1 // A4 // B1: through a precertificate signing certificate the CA's key signs once for each certificate, the log's
// SCT is for the certificate, and the certificate is as without it. The lab's log is built on
// certificate-transparency-go.
func TestPrecertIssuer(t *testing.T) {
	t.Parallel()
	for _, kind := range []pki.KeyType{pki.P256, pki.P384, pki.P521, pki.RSA2048, pki.Ed25519} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			p := pki.New(pki.Options{Key: kind})
			l := ct.New(t, ct.Options{Roots: []*x509.Certificate{p.Root}})
			log := &captured{Log: remoteLog(t, l)}
			var signatures atomic.Int64
			var trials []ca.Intent
			a, err := ca.New(ca.Options{
				Chain: p.Chain, Signer: p.Key, Backdate: 30 * time.Second, Log: log, PrecertIssuer: true,
				Signatures: &signatures,
				Trial:      func(_ context.Context, in ca.Intent) error { trials = append(trials, in); return nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			if n := signatures.Load(); n != 2 || len(trials) != 2 || trials[0].Text != "" ||
				trials[1].Text != "precertificate signing certificate" {
				t.Errorf("%d signatures at the start, with the records %v", n, trials)
			}
			r := request(t, alice())
			var intent ca.Intent
			var outcome ca.Outcome
			r.Intent = func(_ context.Context, in ca.Intent) error { intent = in; return nil }
			r.Outcome = func(_ context.Context, o ca.Outcome) error { outcome = o; return nil }
			got, err := a.Issue(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if n := signatures.Load() - 2; n != 1 || outcome.Signatures != 1 || !outcome.Signed {
				t.Errorf("%d signatures for a certificate, %+v", n, outcome)
			}
			oracle.Check(t, oracle.Expect{
				Chain: p.Chain, SPKI: r.SPKI, Email: "alice@example.com",
				Extensions: map[string]string{"1": issuer, "8": issuer, "24": "s1"}, Logs: []crypto.PublicKey{l.Key()},
			}, got.DER)
			bare, _, err := tbs.WithoutSCTList(got.DER)
			if err != nil || sha256.Sum256(bare) != intent.TBS ||
				intent.IssuerKeyHash != sha256.Sum256(p.Intermediate.RawSubjectPublicKeyInfo) {
				t.Errorf("the intent is not that of the certificate: %v", err)
			}
			checkPrecertChain(t, p, log.last, trials[1])
		})
	}
}

// checkPrecertChain checks what was submitted (RFC 6962 §3.1).
func checkPrecertChain(t *testing.T, p *pki.PKI, got tbs.Precertificate, recorded ca.Intent) {
	t.Helper()
	if len(got.Chain) != len(p.Chain)+1 {
		t.Fatalf("a chain of %d", len(got.Chain))
	}
	via, err := x509.ParseCertificate(got.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	pre, err := x509.ParseCertificate(got.DER)
	if err != nil {
		t.Fatal(err)
	}
	if err := pre.CheckSignatureFrom(via); err != nil {
		t.Error(err)
	}
	if err := via.CheckSignatureFrom(p.Intermediate); err != nil {
		t.Error(err)
	}
	if sha256.Sum256(via.RawTBSCertificate) != recorded.TBS {
		t.Error("the journal has another certificate")
	}
	if len(via.ExtKeyUsage) != 0 || len(via.UnknownExtKeyUsage) != 1 ||
		via.UnknownExtKeyUsage[0].String() != "1.3.6.1.4.1.11129.2.4.4" ||
		via.NotAfter.Sub(via.NotBefore) > 31*24*time.Hour {
		t.Errorf("usages %v %v, until %s", via.ExtKeyUsage, via.UnknownExtKeyUsage, via.NotAfter)
	}
	// nothing that its key signs is a code-signing certificate: both its usage and the path length forbid that
	intermediates, roots := x509.NewCertPool(), x509.NewCertPool()
	intermediates.AddCert(via)
	intermediates.AddCert(p.Intermediate)
	roots.AddCert(p.Root)
	pre.UnhandledCriticalExtensions = nil
	if _, err := pre.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}); err == nil {
		t.Error("a certificate below the precertificate signing certificate verifies")
	}
	content, err := tbs.ForIssuer(got.DER, tbs.Issuer{Name: p.Intermediate.RawSubject, AuthorityKey: extensionOf(via)})
	if err != nil || string(content) != string(got.Entry.TBS) {
		t.Errorf("the entry is not made from the precertificate: %v", err)
	}
}

func extensionOf(c *x509.Certificate) []byte {
	i := slices.IndexFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.String() == "2.5.29.35" })
	return c.Extensions[i].Value
}

// A renewal is made in time, in the background, with one signature; one that fails is repeated, and the CA issues with
// the old certificate until its end, with a warning.
func TestPrecertIssuerRenewal(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{Intermediate: func(c *x509.Certificate) {
		c.NotAfter = time.Now().Add(200 * 24 * time.Hour)
	}})
	log := &captured{Log: &silent{scts: oneSCT(t)}}
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	var refuse atomic.Bool
	var trials atomic.Int64
	a, err := ca.New(ca.Options{
		Chain: p.Chain, Signer: p.Key, Log: log, PrecertIssuer: true,
		Now: func() time.Time { return time.Unix(0, now.Load()) },
		Trial: func(context.Context, ca.Intent) error {
			trials.Add(1)
			if refuse.Load() {
				return errors.New("the journal is full")
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	issue := func() ([]byte, error) {
		_, err := a.Issue(t.Context(), request(t, alice()))
		if err != nil {
			return nil, err
		}
		return log.last.Chain[0], nil
	}
	advance := func(days float64) { now.Add(int64(days * 24 * float64(time.Hour))) }
	first, err := issue()
	if err != nil {
		t.Fatal(err)
	}
	until := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	advance(15)
	if next, err := issue(); err != nil || string(next) != string(first) || trials.Load() != 2 {
		t.Fatalf("renewed too early: %v", err)
	}
	advance(6)
	if _, err := issue(); err != nil {
		t.Fatal(err)
	}
	var second []byte
	until("not renewed", func() bool { second, err = issue(); return err != nil || string(second) != string(first) })
	if err != nil || trials.Load() != 3 {
		t.Fatalf("%v, %d trials", err, trials.Load())
	}
	refuse.Store(true)
	advance(26)
	if _, err := issue(); err != nil {
		t.Fatal(err)
	}
	until("no renewal", func() bool { return trials.Load() == 4 })
	until("no warning", func() bool {
		h := a.Health()
		return h.OK && strings.Contains(h.Warning, "was not renewed: the journal is full")
	})
	if next, err := issue(); err != nil || string(next) != string(second) {
		t.Errorf("%v", err)
	}
	advance(5)
	if _, err := issue(); err == nil || !strings.Contains(err.Error(),
		"the precertificate signing certificate has expired") {
		t.Errorf("%v", err)
	}
	until("still ready", func() bool { return !a.Health().OK })
	refuse.Store(false)
	advance(0.01)
	until("not renewed", func() bool { advance(0.001); _, err := issue(); return err == nil })
	if h := a.Health(); !h.OK {
		t.Errorf("%+v", h)
	}
}

// The settings that make a precertificate signing certificate impossible are refused, and a refusal of the journal
// stops the start.
func TestPrecertIssuerRefused(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	bare := *p.Intermediate
	bare.SubjectKeyId = nil
	calls := 0
	for name, c := range map[string]struct {
		o    ca.Options
		want string
	}{
		"no key identifier": {
			ca.Options{Chain: []*x509.Certificate{&bare, p.Root}},
			"precert_issuer: a precertificate signing certificate needs the subject key identifier",
		},
		"journal": {ca.Options{Chain: p.Chain, Trial: func(context.Context, ca.Intent) error {
			if calls++; calls == 2 {
				return errors.New("the journal is full")
			}
			return nil
		}}, "precert_issuer: precertificate signing certificate: the journal is full"},
	} {
		c.o.Signer, c.o.PrecertIssuer, c.o.Log = p.Key, true, &silent{scts: oneSCT(t)}
		if _, err := ca.New(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A log that refuses precertificates below an issuing certificate with path length 0: the error says what to do.
func TestPrecertIssuerPathLength(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	a, err := ca.New(ca.Options{Chain: p.Chain, Signer: p.Key, PrecertIssuer: true, Log: refusing{}})
	if err != nil {
		t.Fatal(err)
	}
	r := request(t, alice())
	var got error
	r.Outcome = func(_ context.Context, o ca.Outcome) error {
		if got = o.Err; o.Signatures != 0 || !o.Signed {
			t.Errorf("%+v", o)
		}
		return nil
	}
	if _, err := a.Issue(t.Context(), r); err == nil || got == nil ||
		!strings.Contains(got.Error(), "path length of 0") || !strings.Contains(got.Error(), "remove precert_issuer") {
		t.Errorf("%v, %v", err, got)
	}
}

type refusing struct{}

func (refusing) Submit(context.Context, tbs.Precertificate) ([][]byte, error) {
	return nil, errors.New("400: too many intermediates for path length constraint")
}
