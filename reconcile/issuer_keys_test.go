package reconcile

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	encasn1 "encoding/asn1"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// issuer is a certificate with its key.
type issuer struct {
	*x509.Certificate
	key crypto.Signer
}

// certify signs a CA certificate or an end-entity certificate.
func (p issuer) certify(t testing.TB, name string, ca bool, key crypto.Signer) issuer {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute),
		NotAfter:    time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, KeyUsage: x509.KeyUsageDigitalSignature,
		EmailAddresses: []string{name},
	}
	if ca {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.MaxPathLen, c.EmailAddresses = true, true,
			x509.KeyUsageCertSign, -1, nil
		c.Subject = pkix.Name{CommonName: name}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, p.Certificate, key.Public(), p.key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{out, key}
}

// G6: an entry matches wherever an issuing key is above it, whatever the names in the certificates, as a precertificate
// and as a final certificate.
func TestMatch(t *testing.T) {
	t.Parallel()
	for _, kind := range []pki.KeyType{pki.P256, pki.P384, pki.P521, pki.RSA2048, pki.Ed25519} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			p := pki.New(pki.Options{
				Key:          kind,
				Intermediate: func(c *x509.Certificate) { c.MaxPathLenZero, c.MaxPathLen = false, -1 },
			})
			other := pki.New(pki.Options{})
			root, issuing, foreign := issuer{p.Root, p.RootKey}, issuer{p.Intermediate, p.Key},
				issuer{other.Intermediate, other.Key}
			sub := issuing.certify(t, "subordinate CA", true, pki.NewKey(""))
			subsub := sub.certify(t, "subordinate CA of the subordinate CA", true, pki.NewKey(""))
			cross := issuer{other.Root, other.RootKey}.certify(t, "another name", true, p.Key)
			leaf := func(by issuer) issuer { return by.certify(t, "chief@example.com", false, pki.NewKey("")) }
			for name, c := range map[string]struct {
				leaf           issuer
				by             issuer
				chain          []issuer
				issuing, below bool
				other          bool
			}{
				"direct":           {leaf(issuing), issuing, []issuer{issuing, root}, true, false, false},
				"direct, no chain": {leaf(issuing), issuing, nil, true, false, false},
				"subordinate":      {leaf(sub), sub, []issuer{sub, issuing, root}, true, true, false},
				"subordinate, issuing certificate left out": {leaf(sub), sub, []issuer{sub}, true, true, false},
				"subordinate of a subordinate": {
					leaf(subsub), subsub,
					[]issuer{subsub, sub, issuing, root},
					true, true, false,
				},
				"the key under another name": {
					leaf(cross), cross,
					[]issuer{cross, {other.Root, nil}},
					true, false, true,
				},
				"another CA": {
					leaf(foreign), foreign,
					[]issuer{foreign, {other.Root, nil}},
					false, false, false,
				},
				"another CA, unrelated chain": {
					leaf(foreign), foreign,
					[]issuer{foreign, issuing, root},
					false, false, false,
				},
				"another CA with the same name": {func() issuer {
					twin := pki.New(pki.Options{Key: kind})
					return leaf(issuer{twin.Intermediate, twin.Key})
				}(), foreign, []issuer{foreign}, false, false, false},
			} {
				final := &monitor.Entry{Content: c.leaf.Raw}
				precert := &monitor.Entry{
					Precert: true, IssuerKeyHash: keyHash(c.by.Certificate),
					Content: c.leaf.RawTBSCertificate,
				}
				for _, one := range c.chain {
					final.Issuers = append(final.Issuers, one.Raw)
					precert.Issuers = append(precert.Issuers, one.Raw)
				}
				for what, e := range map[string]*monitor.Entry{"final": final, "precertificate": precert} {
					s, ok := newIssuerKeys(p.Chain[:1]).match(e)
					if ok != c.issuing || s.subordinate != c.below || (s.unknownCA != [32]byte{}) != c.other ||
						ok && s.key != keyHash(p.Intermediate) ||
						ok && s.tbs != sha256.Sum256(c.leaf.RawTBSCertificate) {
						t.Errorf("%s, %s: match %t, subordinate %t, unknown CA %x", name, what, ok,
							s.subordinate, s.unknownCA)
					}
				}
			}
			// The CA certificate itself is in the log.
			if s, ok := newIssuerKeys(p.Chain[:1]).match(&monitor.Entry{Content: sub.Raw}); !ok || !s.subordinate {
				t.Errorf("the CA certificate itself: %t %t", ok, s.subordinate)
			}
			// The key of a subordinate CA is remembered, also for entries without a chain.
			k := newIssuerKeys(p.Chain[:1])
			k.match(&monitor.Entry{Content: leaf(sub).Raw, Issuers: [][]byte{sub.Raw}})
			if s, ok := k.match(&monitor.Entry{
				Precert: true, IssuerKeyHash: keyHash(sub.Certificate),
				Content: []byte("x"),
			}); !ok || !s.subordinate {
				t.Errorf("a known subordinate CA: %t %t", ok, s.subordinate)
			}
			// Only a journal names the key, and the log serves its certificate.
			k = newIssuerKeys(nil)
			if !k.addKey(fmt.Sprintf("%x", keyHash(p.Intermediate))) || k.addKey("xyz") {
				t.Error("addKey")
			}
			if s, ok := k.match(&monitor.Entry{
				Content: leaf(sub).Raw,
				Issuers: [][]byte{sub.Raw, issuing.Raw, root.Raw},
			}); !ok || !s.subordinate {
				t.Errorf("below a key that a journal names: %t %t", ok, s.subordinate)
			}
		})
	}
}

// A certificate that Go's parser refuses matches if an issuing key signed it, because another parser may accept it.
func TestMatchUnparsable(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	// Version 1 with extensions, which x509.ParseCertificate refuses.
	parts, err := tbs.Split(p.Leaf(7, false))
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Replace(parts.TBS, []byte{0xa0, 3, 2, 1, 2}, []byte{0xa0, 3, 2, 1, 9}, 1)
	sum := sha256.Sum256(body)
	signature, err := p.Key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	der, err := tbs.Certificate(body, parts.Algorithm, signature)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParseCertificate(der); err == nil {
		t.Fatal("Go's parser accepts it")
	}
	if _, ok := newIssuerKeys(p.Chain[:1]).match(&monitor.Entry{Content: der}); !ok {
		t.Error("a certificate that Go's parser refuses does not match")
	}
	if of := subjectOf(body); of.identity != "rogue@example.com" {
		t.Errorf("the identity is %q", of.identity)
	}
}

// The identity in a finding is that of the certificate, escaped for a terminal.
func TestSubject(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	text := func(s string) []byte {
		der, err := encasn1.MarshalWithParams(s, "utf8")
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	arc := func(n int) encasn1.ObjectIdentifier { return encasn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n} }
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Minute),
		Subject: pkix.Name{CommonName: "not this"}, EmailAddresses: []string{"chief\x1b[2J@example.com"},
		DNSNames: []string{"second.example.com"},
		ExtraExtensions: []pkix.Extension{
			{Id: arc(1), Value: []byte("https://old.example.com")},
			{Id: arc(8), Value: text("https://idp.example.com/\u202e")},
		},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, p.Intermediate, p.Intermediate.PublicKey, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := tbs.Split(der)
	if err != nil {
		t.Fatal(err)
	}
	want := subject{
		identity: `second.example.com, chief\x1b[2J@example.com`, oidcIssuer: `https://idp.example.com/\u202e`,
		issuedBy: "CN=test issuing,O=test",
	}
	if got := subjectOf(parts.TBS); got != want {
		t.Errorf("%+v, not %+v", got, want)
	}
	f := Finding{Text: "a text", Identity: want.identity, Issuer: want.oidcIssuer, IssuedBy: want.issuedBy}
	if got := f.Summary(); !strings.Contains(got, want.identity) || !strings.Contains(got, want.oidcIssuer) ||
		!strings.Contains(got, want.issuedBy) {
		t.Error(got)
	}
	root, _ := tbs.Split(p.Root.Raw)
	if subjectOf(root.TBS) != (subject{identity: "CN=test root,O=test", issuedBy: "CN=test root,O=test", isCA: true}) {
		t.Errorf("a CA certificate: %+v", subjectOf(root.TBS))
	}
}

// Whatever is in an entry, its subject is short and printable, and parsing it does not fail.
func FuzzSubject(f *testing.F) {
	p := pki.New(pki.Options{})
	for _, der := range append(p.ChainDER(), p.Leaf(1, true), p.Leaf(2, false)) {
		parts, err := tbs.Split(der)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(parts.TBS)
		f.Add(der)
	}
	k := newIssuerKeys(p.Chain[:1])
	f.Fuzz(func(t *testing.T, data []byte) {
		of := subjectOf(data)
		for _, s := range []string{of.identity, of.oidcIssuer, of.issuedBy} {
			if _, hidden := printable.Hidden(s); hidden || !utf8.ValidString(s) || len(s) > 10*maxIdentity+10 {
				t.Errorf("not printable: %q", s)
			}
		}
		k.match(&monitor.Entry{Content: data, Issuers: [][]byte{data}})
		k.match(&monitor.Entry{Precert: true, Content: data, Precertificate: data})
		caCertificate(data)
	})
}

// An alarm that may mean a key compromise or a log violation is raised however many other alarms are open. Alarms of a
// bounded kind are counted in one alarm for each log and journal.
func TestAlarmsAreBoundedByKind(t *testing.T) {
	t.Parallel()
	for _, flood := range Kinds() {
		t.Run(string(flood), func(t *testing.T) {
			t.Parallel()
			var raised []Finding
			a, err := NewAuditor(AuditorOptions{
				Every: time.Minute, Logger: slog.New(slog.DiscardHandler),
				Raise: func(_ context.Context, f Finding) { raised = append(raised, f) },
			})
			if err != nil {
				t.Fatal(err)
			}
			const many = 3 * maxAlarmsPerClass
			for i := range many {
				a.addFinding(newFinding(Finding{Kind: flood, Log: "noisy", Text: "one of many"}, fmt.Sprint(i)))
			}
			want := many
			if kindTable[flood].bounded {
				want = maxAlarmsPerClass + 1
			}
			if len(raised) != want || len(a.alarms.open) != want {
				t.Errorf("of %d findings %d were raised and %d are open, want %d", many, len(raised),
					len(a.alarms.open), want)
			}
			if last := a.alarms.open[len(a.alarms.open)-1]; kindTable[flood].bounded &&
				last.Count != many-maxAlarmsPerClass {
				t.Errorf("the last alarm counts %d: %s", last.Count, last.Text)
			}
			raised = nil
			for _, k := range Kinds() {
				a.addFinding(newFinding(Finding{Kind: k, Log: "quiet", Text: "a single one"}, ""))
			}
			a.publish(nil)
			if len(raised) != len(Kinds()) || len(a.Alarms()) != want+len(Kinds()) {
				t.Errorf("after the flood %d of %d findings were raised, and %d are listed", len(raised), len(Kinds()),
					len(a.Alarms())-want)
			}
			for _, f := range raised {
				if f.Text != "a single one" {
					t.Errorf("the first alarm of another log is not raised: %+v", f)
				}
			}
			again := len(a.alarms.open)
			for _, f := range raised {
				a.addFinding(f)
			}
			if len(a.alarms.open) != again {
				t.Error("an open alarm was raised again")
			}
			a.applyOrder(t.Context(), Order{Alarm: a.alarms.open[0].ID})
			if len(a.alarms.open) != again-1 || a.alarms.byID[a.alarms.open[0].ID] != 0 {
				t.Error("one alarm was not closed")
			}
		})
	}
}

// Alarms for entries without a verified signature are bounded, apart from those with one.
func TestUnverifiedAlarmsAreBounded(t *testing.T) {
	t.Parallel()
	a, err := NewAuditor(AuditorOptions{Every: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxUnverifiedAlarms + 10 {
		a.addFinding(newFinding(Finding{Kind: UnintendedEntry, Log: "bad", Signature: SignatureUnverified},
			fmt.Sprint(i)))
	}
	a.addFinding(newFinding(Finding{Kind: UnintendedEntry, Log: "bad", Signature: SignatureVerified}, "verified"))
	if n := len(a.alarms.open); n != maxUnverifiedAlarms+2 || a.alarms.open[n-2].Count != 10 ||
		a.alarms.open[n-1].Signature != SignatureVerified {
		t.Errorf("%d alarms", n)
	}
}
