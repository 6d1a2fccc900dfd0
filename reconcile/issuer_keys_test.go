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

// party is somebody who can certify.
type party struct {
	*x509.Certificate
	key crypto.Signer
}

// certify makes a certificate under p: a CA certificate, or one with a name.
func (p party) certify(t testing.TB, name string, ca bool, key crypto.Signer) party {
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
	return party{out, key}
}

// G6: our key is found wherever it stands above an entry, whatever names the certificates bear, in the form of each
// kind of log.
func TestSight(t *testing.T) {
	t.Parallel()
	for _, kind := range []pki.KeyType{pki.P256, pki.P384, pki.P521, pki.RSA2048, pki.Ed25519} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			p := pki.New(pki.Options{
				Key:          kind,
				Intermediate: func(c *x509.Certificate) { c.MaxPathLenZero, c.MaxPathLen = false, -1 },
			})
			other := pki.New(pki.Options{})
			root, ours, foreign := party{p.Root, p.RootKey}, party{p.Intermediate, p.Key},
				party{other.Intermediate, other.Key}
			sub := ours.certify(t, "CA below", true, pki.NewKey(""))
			subsub := sub.certify(t, "CA below the CA below", true, pki.NewKey(""))
			cross := party{other.Root, other.RootKey}.certify(t, "another name", true, p.Key)
			leaf := func(by party) party { return by.certify(t, "chief@example.com", false, pki.NewKey("")) }
			for name, c := range map[string]struct {
				leaf        party
				by          party
				chain       []party
				ours, below bool
				other       bool
			}{
				"direct":                      {leaf(ours), ours, []party{ours, root}, true, false, false},
				"direct, no chain":            {leaf(ours), ours, nil, true, false, false},
				"below":                       {leaf(sub), sub, []party{sub, ours, root}, true, true, false},
				"below, our certificate left": {leaf(sub), sub, []party{sub}, true, true, false},
				"two below": {
					leaf(subsub), subsub,
					[]party{subsub, sub, ours, root},
					true, true, false,
				},
				"our key under another name": {
					leaf(cross), cross,
					[]party{cross, {other.Root, nil}},
					true, false, true,
				},
				"another CA": {
					leaf(foreign), foreign,
					[]party{foreign, {other.Root, nil}},
					false, false, false,
				},
				"another CA, our chain beside": {
					leaf(foreign), foreign,
					[]party{foreign, ours, root},
					false, false, false,
				},
				"another CA, one of the same name": {func() party {
					twin := pki.New(pki.Options{Key: kind})
					return leaf(party{twin.Intermediate, twin.Key})
				}(), foreign, []party{foreign}, false, false, false},
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
					s, ok := newKeyring(p.Chain[:1]).sight(e)
					if ok != c.ours || s.below != c.below || (s.other != [32]byte{}) != c.other ||
						ok && s.key != keyHash(p.Intermediate) ||
						ok && s.tbs != sha256.Sum256(c.leaf.RawTBSCertificate) {
						t.Errorf("%s, %s: ours %t, below %t, other %x", name, what, ok, s.below, s.other)
					}
				}
			}
			// A CA certificate in the log itself.
			if s, ok := newKeyring(p.Chain[:1]).sight(&monitor.Entry{Content: sub.Raw}); !ok || !s.below {
				t.Errorf("the CA certificate itself: %t %t", ok, s.below)
			}
			// The key of a CA below ours is known from then on, also where a log serves no chain.
			k := newKeyring(p.Chain[:1])
			k.sight(&monitor.Entry{Content: leaf(sub).Raw, Issuers: [][]byte{sub.Raw}})
			if s, ok := k.sight(&monitor.Entry{
				Precert: true, IssuerKeyHash: keyHash(sub.Certificate),
				Content: []byte("x"),
			}); !ok || !s.below {
				t.Errorf("a known CA below ours: %t %t", ok, s.below)
			}
			// A key that only a journal names, whose certificate the log serves.
			k = newKeyring(nil)
			if !k.learn(fmt.Sprintf("%x", keyHash(p.Intermediate))) || k.learn("xyz") {
				t.Error("the key of a journal")
			}
			if s, ok := k.sight(&monitor.Entry{
				Content: leaf(sub).Raw,
				Issuers: [][]byte{sub.Raw, ours.Raw, root.Raw},
			}); !ok || !s.below {
				t.Errorf("below a key of a journal: %t %t", ok, s.below)
			}
		})
	}
}

// What Go's parser refuses is ours all the same, if our key signed it: another parser may take it.
func TestSightUnreadable(t *testing.T) {
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
		t.Fatal("Go's parser takes it")
	}
	if _, ok := newKeyring(p.Chain[:1]).sight(&monitor.Entry{Content: der}); !ok {
		t.Error("a certificate that Go's parser refuses is not seen")
	}
	if who := bearerOf(body); who.identity != "thief@example.com" {
		t.Errorf("its identity is %q", who.identity)
	}
}

// The identity in a finding is that of the certificate, in one line that a terminal may be given.
func TestBearer(t *testing.T) {
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
	want := bearer{
		identity: `second.example.com, chief\x1b[2J@example.com`, issuer: `https://idp.example.com/\u202e`,
		by: "CN=test issuing,O=test",
	}
	if got := bearerOf(parts.TBS); got != want {
		t.Errorf("%+v, not %+v", got, want)
	}
	f := Finding{Text: "a text", Identity: want.identity, Issuer: want.issuer, IssuedBy: want.by}
	if got := f.Words(); !strings.Contains(got, want.identity) || !strings.Contains(got, want.issuer) ||
		!strings.Contains(got, want.by) {
		t.Error(got)
	}
	if root,
		_ := tbs.Split(p.Root.Raw); bearerOf(root.TBS) != (bearer{identity: "CN=test root,O=test", by: "CN=test root,O=test", ca: true}) {
		t.Errorf("a CA certificate: %+v", bearerOf(root.TBS))
	}
}

// Whatever an entry holds, what is said of it is short and visible, and reading it neither fails nor takes memory.
func FuzzBearer(f *testing.F) {
	p := pki.New(pki.Options{})
	for _, der := range append(p.ChainDER(), p.Leaf(1, true), p.Leaf(2, false)) {
		parts, err := tbs.Split(der)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(parts.TBS)
		f.Add(der)
	}
	k := newKeyring(p.Chain[:1])
	f.Fuzz(func(t *testing.T, data []byte) {
		who := bearerOf(data)
		for _, s := range []string{who.identity, who.issuer, who.by} {
			if _, hidden := printable.Hidden(s); hidden || !utf8.ValidString(s) || len(s) > 10*maxIdentity+10 {
				t.Errorf("shown: %q", s)
			}
		}
		k.sight(&monitor.Entry{Content: data, Issuers: [][]byte{data}})
		k.sight(&monitor.Entry{Precert: true, Content: data, Precertificate: data})
		isAuthority(data)
	})
}

// Alarms that mean a lost key or a broken log are raised, kept and told of, however many others there are; those that
// one log or journal can make any number of are summed up, for each log and journal.
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
			const many = 3 * mostAlike
			for i := range many {
				a.found(newFinding(Finding{Kind: flood, Log: "noisy", Text: "one of many"}, fmt.Sprint(i)))
			}
			want := many
			if rules[flood].bounded {
				want = mostAlike + 1
			}
			if len(raised) != want || len(a.open) != want {
				t.Errorf("of %d findings %d were raised and %d are open, not %d", many, len(raised), len(a.open), want)
			}
			if last := a.open[len(a.open)-1]; rules[flood].bounded && last.Count != many-mostAlike {
				t.Errorf("the last alarm sums up %d: %s", last.Count, last.Text)
			}
			raised = nil
			for _, k := range Kinds() {
				a.found(newFinding(Finding{Kind: k, Log: "quiet", Text: "the one that counts"}, ""))
			}
			a.publish(nil)
			if len(raised) != len(Kinds()) || len(a.Alarms()) != want+len(Kinds()) {
				t.Errorf("after the flood %d of %d findings were raised, and %d are listed", len(raised), len(Kinds()),
					len(a.Alarms())-want)
			}
			for _, f := range raised {
				if f.Text != "the one that counts" {
					t.Errorf("the first alarm of another log is summed up: %+v", f)
				}
			}
			again := len(a.open)
			for _, f := range raised {
				a.found(f)
			}
			if len(a.open) != again {
				t.Error("an alarm that is open was raised again")
			}
			a.clear(t.Context(), Order{Alarm: a.open[0].ID})
			if len(a.open) != again-1 || a.known[a.open[0].ID] != 0 {
				t.Error("one alarm was not closed")
			}
		})
	}
}

// What only a log claims is bounded, too, and apart from what our key signed.
func TestClaimsOfALog(t *testing.T) {
	t.Parallel()
	a, err := NewAuditor(AuditorOptions{Every: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	for i := range mostUnverified + 10 {
		a.found(newFinding(Finding{Kind: UnintendedEntry, Log: "liar", Signature: SignatureUnverified}, fmt.Sprint(i)))
	}
	a.found(newFinding(Finding{Kind: UnintendedEntry, Log: "liar", Signature: SignatureVerified}, "ours"))
	if n := len(a.open); n != mostUnverified+2 || a.open[n-2].Count != 10 ||
		a.open[n-1].Signature != SignatureVerified {
		t.Errorf("%d alarms", n)
	}
}
