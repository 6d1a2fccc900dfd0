package reconcile_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// forger is somebody with a key that can certify, and the certificates above it.
type forger struct {
	certificate *x509.Certificate
	key         crypto.Signer
	above       []*x509.Certificate // nearest first
}

// chain are the digests of the forger's certificates, which log l serves.
func (f forger) chain(w *world, l int) (out [][32]byte) {
	w.t.Helper()
	for _, c := range append([]*x509.Certificate{f.certificate}, f.above...) {
		sum := sha256.Sum256(c.Raw)
		name := filepath.Join(w.logs[l].Dir, "issuer", hex.EncodeToString(sum[:]))
		must(w.t, os.MkdirAll(filepath.Dir(name), 0o700))
		must(w.t, os.WriteFile(name, c.Raw, 0o600))
		out = append(out, sum)
	}
	return out
}

// make certifies: a CA certificate, or one for the chief.
func (f forger) make(t testing.TB, ca, precertificate bool, key crypto.Signer) []byte {
	t.Helper()
	issuer, err := asn1.MarshalWithParams("https://idp.example.com", "utf8")
	must(t, err)
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 150))
	must(t, err)
	c := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(9 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		EmailAddresses:  []string{"chief@example.com"},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: issuer}},
	}
	if ca {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.MaxPathLen = true, true, x509.KeyUsageCertSign, -1
		c.EmailAddresses, c.ExtraExtensions, c.Subject = nil, nil, pkix.Name{CommonName: "forged CA"}
	}
	if precertificate {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{
			Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, Critical: true, Value: asn1.NullBytes,
		})
	}
	der, err := x509.CreateCertificate(rand.Reader, c, f.certificate, key.Public(), f.key)
	must(t, err)
	return der
}

// log puts a precertificate or a certificate of the forger into log l.
func (f forger) log(w *world, l int, der []byte, precertificate bool) {
	w.t.Helper()
	e := ct.StaticEntry{Timestamp: uint64(w.now().UnixMilli()), Certificate: der, Chain: f.chain(w, l)}
	if precertificate {
		bare, _, err := tbs.Unlisted(der)
		must(w.t, err)
		e.TBS, e.IssuerKeyHash = bare, sha256.Sum256(f.certificate.RawSubjectPublicKeyInfo)
	}
	_, err := w.logs[l].Add(e)
	must(w.t, err)
}

// under makes a CA below f, or another one.
func (f forger) under(t testing.TB, key crypto.Signer) forger {
	c, err := x509.ParseCertificate(f.make(t, true, false, key))
	must(t, err)
	return forger{c, key, append([]*x509.Certificate{f.certificate}, f.above...)}
}

// forgeries are the ways to use the key past the CA, and what must be said of each: the kind, and whose name it is.
var forgeries = []struct {
	name string
	do   func(w *world, ours, foreign forger)
	want []string // kinds
	says []string // in the identity of one finding
}{
	{"direct, precertificate only", func(w *world, ours, _ forger) {
		ours.log(w, 0, ours.make(w.t, false, true, pki.NewKey("")), true)
	}, []string{"unintended_entry"}, []string{
		"chief@example.com", "https://idp.example.com",
		"CN=test issuing,O=test",
	}},
	{"direct, final only", func(w *world, ours, _ forger) {
		ours.log(w, 0, ours.make(w.t, false, false, pki.NewKey("")), false)
	}, []string{"unintended_entry"}, []string{
		"chief@example.com", "https://idp.example.com",
		"CN=test issuing,O=test",
	}},
	{"direct, final in a log that serves no chain", func(w *world, ours, _ forger) {
		w.logFinal(1, ours.make(w.t, false, false, pki.NewKey("")))
	}, []string{"unintended_entry"}, []string{"chief@example.com"}},
	{"below a CA of ours, precertificate", func(w *world, ours, _ forger) {
		sub := ours.under(w.t, pki.NewKey(""))
		sub.log(w, 0, sub.make(w.t, false, true, pki.NewKey("")), true)
	}, []string{"ca_below_ours"}, []string{"chief@example.com", "https://idp.example.com", "CN=forged CA"}},
	{"below a CA of ours, final", func(w *world, ours, _ forger) {
		sub := ours.under(w.t, pki.NewKey(""))
		sub.log(w, 1, sub.make(w.t, false, false, pki.NewKey("")), false)
	}, []string{"ca_below_ours"}, []string{"chief@example.com", "CN=forged CA"}},
	{"two steps below", func(w *world, ours, _ forger) {
		sub := ours.under(w.t, pki.NewKey("")).under(w.t, pki.NewKey(""))
		sub.log(w, 0, sub.make(w.t, false, true, pki.NewKey("")), true)
	}, []string{"ca_below_ours"}, []string{"chief@example.com"}},
	{"the certificate of a CA below ours", func(w *world, ours, _ forger) {
		ours.log(w, 0, ours.make(w.t, true, false, pki.NewKey("")), false)
	}, []string{"ca_below_ours"}, []string{"CN=forged CA", "CN=test issuing,O=test"}},
	{"the precertificate of a CA below ours", func(w *world, ours, _ forger) {
		ours.log(w, 0, ours.make(w.t, true, true, pki.NewKey("")), true)
	}, []string{"ca_below_ours"}, []string{"CN=forged CA"}},
	{"our key under another name, precertificate", func(w *world, ours, foreign forger) {
		twin := foreign.under(w.t, ours.key)
		twin.log(w, 0, twin.make(w.t, false, true, pki.NewKey("")), true)
	}, []string{"unintended_entry", "unknown_ca_certificate"}, []string{"chief@example.com", "CN=forged CA"}},
	{"our key under another name, final", func(w *world, ours, foreign forger) {
		twin := foreign.under(w.t, ours.key)
		twin.log(w, 0, twin.make(w.t, false, false, pki.NewKey("")), false)
	}, []string{"unintended_entry", "unknown_ca_certificate"}, []string{"chief@example.com", "CN=forged CA"}},
	{"another CA certificate for our key, above what we intended", func(w *world, ours, foreign forger) {
		twin := foreign.under(w.t, ours.key)
		c := w.real()
		w.intend(0, c)
		w.log(0, c)
		w.release(0, c)
		_, err := w.logs[1].Add(ct.StaticEntry{
			Timestamp: uint64(w.now().UnixMilli()), Certificate: w.pki.Leaf(1, true), TBS: c.tbs,
			IssuerKeyHash: w.keyHash(), Chain: twin.chain(w, 1),
		})
		must(w.t, err)
	}, []string{"unknown_ca_certificate"}, []string{"CN=forged CA"}},
	{"another CA, nothing of ours", func(w *world, _, foreign forger) {
		foreign.log(w, 0, foreign.make(w.t, false, true, pki.NewKey("")), true)
		foreign.log(w, 1, foreign.make(w.t, false, false, pki.NewKey("")), false)
		sub := foreign.under(w.t, pki.NewKey(""))
		sub.log(w, 1, sub.make(w.t, false, true, pki.NewKey("")), true)
	}, nil, nil},
}

// G6: the table of forgeries: whatever way the key is used past the CA, an alarm names the identity, the log entry and
// what to run next.
func TestForgeries(t *testing.T) {
	t.Parallel()
	for _, c := range forgeries {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2, 1)
			other := pki.New(pki.Options{})
			watching := w.auditor()
			watching.tick()
			w.pass(time.Minute)
			w.issue(0, 0)
			c.do(w, forger{w.pki.Intermediate, w.pki.Key, w.pki.Chain[1:]},
				forger{other.Intermediate, other.Key, other.Chain[1:]})
			w.issue(0, 1)
			w.pass(time.Minute)
			w.publish()
			watching.restart()
			watching.tick()
			late := w.auditor()
			late.tick()
			report := w.full(func(in *reconcile.Input) {
				in.Commands = func(f reconcile.Finding) []string { return []string{"look at " + f.ID} }
			})
			if len(report.Incomplete) > 0 {
				t.Errorf("incomplete: %v", report.Incomplete)
			}
			if diff := cmp.Diff(append([]string{}, c.want...), kinds(report.Findings)); diff != "" {
				t.Errorf("findings: %s", diff)
			}
			for name, a := range map[string]*continuous{
				"an auditor from the beginning": watching,
				"a late auditor":                late,
			} {
				if diff := cmp.Diff(ids(report.Findings), ids(a.raised)); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
			}
			said := ""
			for _, f := range slices.Concat(report.Findings, watching.raised) {
				if f.Identity == "" || f.Index == nil || f.Log == "" || f.Severity == "" ||
					!strings.Contains(f.Words(), f.Identity) {
					t.Errorf("a finding without identity or place: %+v", f)
				}
				said += f.Identity + " " + f.Issuer + " " + f.IssuedBy + "\n"
			}
			for _, f := range report.Findings {
				if diff := cmp.Diff([]string{"look at " + f.ID}, f.Commands); diff != "" {
					t.Errorf("commands: %s", diff)
				}
				if f.Kind != reconcile.UnknownCACertificate && f.Signature != reconcile.SignatureVerified {
					t.Errorf("the signature of our key is %q", f.Signature)
				}
			}
			for _, want := range c.says {
				if strings.Count(said, want) < 2 { // the command and the auditor
					t.Errorf("nothing says %s: %s", want, said)
				}
			}
		})
	}
}

// A CA below ours is seen without a journal, too, and where the journals cannot be read.
func TestBelowWithoutJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	ours := forger{w.pki.Intermediate, w.pki.Key, w.pki.Chain[1:]}
	sub := ours.under(t, pki.NewKey(""))
	sub.log(w, 0, sub.make(t, false, true, pki.NewKey("")), true)
	w.publish()
	var raised []reconcile.Finding
	a, err := reconcile.NewAuditor(reconcile.AuditorOptions{Every: time.Minute, Now: w.now, Raise: raise(&raised)})
	must(t, err)
	a.Configure(w.setup(t))
	a.Tick(t.Context())
	if diff := cmp.Diff([]string{"ca_below_ours"}, kinds(raised)); diff != "" {
		t.Error(diff)
	}
	w.paths[0] += ".gone"
	r := w.full(nil)
	if diff := cmp.Diff([]string{"ca_below_ours"}, kinds(r.Findings)); diff != "" || len(r.Incomplete) == 0 {
		t.Errorf("%s %v", diff, r.Incomplete)
	}
}

// A log that does not serve the certificates above its entries leaves it open whether one is of a CA below ours: that
// is said, and when it serves them the entries are judged.
func TestIssuersNotServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	ours := forger{w.pki.Intermediate, w.pki.Key, w.pki.Chain[1:]}
	sub := ours.under(t, pki.NewKey(""))
	w.issue(0, 0)
	sub.log(w, 0, sub.make(t, false, true, pki.NewKey("")), true)
	w.publish()
	dir := filepath.Join(w.logs[0].Dir, "issuer")
	must(t, os.Rename(dir, dir+"-away"))
	a := w.auditor()
	a.tick()
	r := w.full(nil)
	for _, said := range [][]string{a.Warnings(), r.Incomplete} {
		if len(said) != 1 || !strings.Contains(said[0], "does not serve 3 of the CA certificates") ||
			!strings.Contains(said[0], "index 1") {
			t.Errorf("%q", said)
		}
	}
	if len(a.raised)+len(r.Findings) > 0 {
		t.Errorf("%v %v", a.raised, r.Findings)
	}
	must(t, os.Rename(dir+"-away", dir))
	a.tick()
	if diff := cmp.Diff([]string{"ca_below_ours"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
}

// An entry that the log serves no signature of our key for is an alarm all the same, which says so; and one that the
// log serves no more is one without an identity.
func TestClaimedEntry(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	theft(w, 0, true) // the TBSCertificate is not the one of the precertificate
	w.publish()
	r := w.full(nil)
	if len(r.Findings) != 1 || r.Findings[0].Signature != reconcile.SignatureUnverified ||
		!strings.Contains(r.Findings[0].Text, "made the entry up") {
		t.Errorf("%+v", r.Findings)
	}
}

// A record in the middle of a journal that was changed, with a sum of its own that is right, breaks the chain.
func TestPrevIsCompared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	for range 3 {
		w.issue(0, 0)
	}
	w.publish()
	w.stop(0, 0)
	data, err := os.ReadFile(w.paths[0])
	must(t, err)
	lines := strings.SplitAfter(string(data), "\n")
	r, err := journal.ParseRecord([]byte(lines[2]))
	must(t, err)
	body, _, _ := strings.Cut(strings.Replace(lines[2], `"kind":"outcome"`, `"kind":"outcome","request_id":"x"`, 1),
		`,"sum":`)
	lines[2] = body + `,"sum":"` + digest(body) + "\"}\n"
	if strings.Contains(lines[2], r.Sum) {
		t.Fatal("the record is the same")
	}
	must(t, os.WriteFile(w.paths[0], []byte(strings.Join(lines, "")), 0o600))
	report := w.full(nil)
	if len(report.Findings) != 1 || report.Findings[0].Kind != reconcile.JournalBroken ||
		!strings.Contains(report.Findings[0].Text, "does not continue") {
		t.Errorf("%+v", report.Findings)
	}
}
