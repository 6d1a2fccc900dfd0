package reconcile_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
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

// signer is a key that signs certificates outside of the CA, with the CA certificates above it.
type signer struct {
	certificate *x509.Certificate
	key         crypto.Signer
	above       []*x509.Certificate // nearest first
}

// chain stores the CA certificates in log l and returns their digests.
func (s signer) chain(h *harness, l int) (out [][32]byte) {
	h.t.Helper()
	for _, c := range append([]*x509.Certificate{s.certificate}, s.above...) {
		sum := sha256.Sum256(c.Raw)
		name := filepath.Join(h.logs[l].Dir, "issuer", hex.EncodeToString(sum[:]))
		must(h.t, os.MkdirAll(filepath.Dir(name), 0o700))
		must(h.t, os.WriteFile(name, c.Raw, 0o600))
		out = append(out, sum)
	}
	return out
}

// sign makes a CA certificate or an end-entity certificate.
func (s signer) sign(t testing.TB, ca, precertificate bool, key crypto.Signer) []byte {
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
	der, err := x509.CreateCertificate(rand.Reader, c, s.certificate, key.Public(), s.key)
	must(t, err)
	return der
}

// log adds a precertificate or a certificate to log l.
func (s signer) log(h *harness, l int, der []byte, precertificate bool) {
	h.t.Helper()
	e := ct.StaticEntry{Timestamp: uint64(h.now().UnixMilli()), Certificate: der, Chain: s.chain(h, l)}
	if precertificate {
		bare, _, err := tbs.WithoutSCTList(der)
		must(h.t, err)
		e.TBS, e.IssuerKeyHash = bare, sha256.Sum256(s.certificate.RawSubjectPublicKeyInfo)
	}
	_, err := h.logs[l].Add(e)
	must(h.t, err)
}

// precertSigner makes a precertificate signing certificate (RFC 6962 §3.1).
func (s signer) precertSigner(t testing.TB) []byte {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 150))
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Precertificate Signing"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 11129, 2, 4, 4}},
	}, s.certificate, pki.NewKey("").Public(), s.key)
	must(t, err)
	return der
}

// subordinate certifies another CA.
func (s signer) subordinate(t testing.TB, key crypto.Signer) signer {
	c, err := x509.ParseCertificate(s.sign(t, true, false, key))
	must(t, err)
	return signer{c, key, append([]*x509.Certificate{s.certificate}, s.above...)}
}

// keyMisuses are the ways to use the key outside of the CA, with the findings and the identities that must be reported.
var keyMisuses = []struct {
	name string
	do   func(h *harness, issuing, foreign signer)
	want []string // kinds
	says []string // identity, OIDC issuer or issuing CA of a finding
}{
	{"direct, precertificate only", func(h *harness, issuing, _ signer) {
		issuing.log(h, 0, issuing.sign(h.t, false, true, pki.NewKey("")), true)
	}, []string{"unintended_entry"}, []string{
		"chief@example.com", "https://idp.example.com",
		"CN=test issuing,O=test",
	}},
	{"direct, final only", func(h *harness, issuing, _ signer) {
		issuing.log(h, 0, issuing.sign(h.t, false, false, pki.NewKey("")), false)
	}, []string{"unintended_entry"}, []string{
		"chief@example.com", "https://idp.example.com",
		"CN=test issuing,O=test",
	}},
	{"direct, final in a log that serves no chain", func(h *harness, issuing, _ signer) {
		h.logFinal(1, issuing.sign(h.t, false, false, pki.NewKey("")))
	}, []string{"unintended_entry"}, []string{"chief@example.com"}},
	{"below a subordinate CA, precertificate", func(h *harness, issuing, _ signer) {
		sub := issuing.subordinate(h.t, pki.NewKey(""))
		sub.log(h, 0, sub.sign(h.t, false, true, pki.NewKey("")), true)
	}, []string{"ca_below_ours"}, []string{"chief@example.com", "https://idp.example.com", "CN=forged CA"}},
	{"below a subordinate CA, final", func(h *harness, issuing, _ signer) {
		sub := issuing.subordinate(h.t, pki.NewKey(""))
		sub.log(h, 1, sub.sign(h.t, false, false, pki.NewKey("")), false)
	}, []string{"ca_below_ours"}, []string{"chief@example.com", "CN=forged CA"}},
	{"below a subordinate CA of a subordinate CA", func(h *harness, issuing, _ signer) {
		sub := issuing.subordinate(h.t, pki.NewKey("")).subordinate(h.t, pki.NewKey(""))
		sub.log(h, 0, sub.sign(h.t, false, true, pki.NewKey("")), true)
	}, []string{"ca_below_ours"}, []string{"chief@example.com"}},
	{"certificate of a subordinate CA", func(h *harness, issuing, _ signer) {
		issuing.log(h, 0, issuing.sign(h.t, true, false, pki.NewKey("")), false)
	}, []string{"ca_below_ours"}, []string{"CN=forged CA", "CN=test issuing,O=test"}},
	{"precertificate of a subordinate CA", func(h *harness, issuing, _ signer) {
		issuing.log(h, 0, issuing.sign(h.t, true, true, pki.NewKey("")), true)
	}, []string{"ca_below_ours"}, []string{"CN=forged CA"}},
	{"the key under another name, precertificate", func(h *harness, issuing, foreign signer) {
		other := foreign.subordinate(h.t, issuing.key)
		other.log(h, 0, other.sign(h.t, false, true, pki.NewKey("")), true)
	}, []string{"unintended_entry", "unknown_ca_certificate"}, []string{"chief@example.com", "CN=forged CA"}},
	{"the key under another name, final", func(h *harness, issuing, foreign signer) {
		other := foreign.subordinate(h.t, issuing.key)
		other.log(h, 0, other.sign(h.t, false, false, pki.NewKey("")), false)
	}, []string{"unintended_entry", "unknown_ca_certificate"}, []string{"chief@example.com", "CN=forged CA"}},
	{"another CA certificate for the key, above an intended entry", func(h *harness, issuing, foreign signer) {
		other := foreign.subordinate(h.t, issuing.key)
		c := h.realCertificate()
		h.intend(0, c)
		h.log(0, c)
		h.release(0, c)
		_, err := h.logs[1].Add(ct.StaticEntry{
			Timestamp: uint64(h.now().UnixMilli()), Certificate: h.pki.Leaf(1, true), TBS: c.tbs,
			IssuerKeyHash: h.keyHash(), Chain: other.chain(h, 1),
		})
		must(h.t, err)
	}, []string{"unknown_ca_certificate"}, []string{"CN=forged CA"}},
	// The certificate is public, and anybody can submit it.
	{"a precertificate signing certificate that the CA made", func(h *harness, issuing, _ signer) {
		der := issuing.precertSigner(h.t)
		bare, _, err := tbs.WithoutSCTList(der)
		must(h.t, err)
		leaf, err := x509.ParseCertificate(der)
		must(h.t, err)
		r := h.record(&certificate{serial: fmt.Sprintf("%040x", leaf.SerialNumber), tbs: bare, der: der}, journal.Trial)
		r.Signatures = 1
		h.signatures[0]++
		h.write(0, r)
		issuing.log(h, 0, der, false)
		issuing.log(h, 1, der, false)
	}, nil, nil},
	{"a precertificate signing certificate that no journal has", func(h *harness, issuing, _ signer) {
		issuing.log(h, 0, issuing.precertSigner(h.t), false)
	}, []string{"ca_below_ours"}, []string{"CN=Precertificate Signing", "CN=test issuing,O=test"}},
	{"the issuing certificate", func(h *harness, issuing, _ signer) {
		signer{h.pki.Root, issuing.key, nil}.log(h, 0, issuing.certificate.Raw, false)
	}, nil, nil},
	{"an unrelated CA", func(h *harness, _, foreign signer) {
		foreign.log(h, 0, foreign.sign(h.t, false, true, pki.NewKey("")), true)
		foreign.log(h, 1, foreign.sign(h.t, false, false, pki.NewKey("")), false)
		sub := foreign.subordinate(h.t, pki.NewKey(""))
		sub.log(h, 1, sub.sign(h.t, false, true, pki.NewKey("")), true)
	}, nil, nil},
}

// G6: however the key is used outside of the CA, an alarm names the identity, the log entry and the commands to run.
func TestKeyMisuse(t *testing.T) {
	t.Parallel()
	for _, c := range keyMisuses {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, 2, 1)
			other := pki.New(pki.Options{})
			early := h.auditor()
			early.run()
			h.advance(time.Minute)
			h.issue(0, 0)
			c.do(h, signer{h.pki.Intermediate, h.pki.Key, h.pki.Chain[1:]},
				signer{other.Intermediate, other.Key, other.Chain[1:]})
			h.issue(0, 1)
			h.advance(time.Minute)
			h.publish()
			early.restart()
			early.run()
			late := h.auditor()
			late.run()
			report := h.runAll(func(in *reconcile.Input) {
				in.Commands = func(f reconcile.Finding) []string { return []string{"look at " + f.ID} }
			})
			if len(report.Incomplete) > 0 {
				t.Errorf("incomplete: %v", report.Incomplete)
			}
			if diff := cmp.Diff(append([]string{}, c.want...), kinds(report.Findings)); diff != "" {
				t.Errorf("findings: %s", diff)
			}
			for name, a := range map[string]*testAuditor{
				"early auditor": early,
				"late auditor":  late,
			} {
				if diff := cmp.Diff(ids(report.Findings), ids(a.raised)); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
			}
			said := ""
			for _, f := range slices.Concat(report.Findings, early.raised) {
				if f.Identity == "" || f.Index == nil || f.Log == "" || f.Severity == "" ||
					!strings.Contains(f.Summary(), f.Identity) {
					t.Errorf("a finding without an identity or an entry: %+v", f)
				}
				said += f.Identity + " " + f.Issuer + " " + f.IssuedBy + "\n"
			}
			for _, f := range report.Findings {
				if diff := cmp.Diff([]string{"look at " + f.ID}, f.Commands); diff != "" {
					t.Errorf("commands: %s", diff)
				}
				if f.Kind != reconcile.UnknownCACertificate && f.Signature != reconcile.SignatureVerified {
					t.Errorf("the signature is %q", f.Signature)
				}
			}
			for _, want := range c.says {
				if strings.Count(said, want) < 2 { // Run and the Auditor
					t.Errorf("no finding has %s: %s", want, said)
				}
			}
		})
	}
}

// A subordinate CA is reported without a journal, too, and if the journals cannot be read.
func TestSubordinateWithoutJournal(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	issuing := signer{h.pki.Intermediate, h.pki.Key, h.pki.Chain[1:]}
	sub := issuing.subordinate(t, pki.NewKey(""))
	sub.log(h, 0, sub.sign(t, false, true, pki.NewKey("")), true)
	h.publish()
	var raised []reconcile.Finding
	a, err := reconcile.NewAuditor(reconcile.AuditorOptions{Every: time.Minute, Now: h.now, Raise: collect(&raised)})
	must(t, err)
	a.Configure(h.scope(t))
	a.RunOnce(t.Context())
	if diff := cmp.Diff([]string{"ca_below_ours"}, kinds(raised)); diff != "" {
		t.Error(diff)
	}
	h.paths[0] += ".gone"
	r := h.runAll(nil)
	if diff := cmp.Diff([]string{"ca_below_ours"}, kinds(r.Findings)); diff != "" || len(r.Incomplete) == 0 {
		t.Errorf("%s %v", diff, r.Incomplete)
	}
}

// If a log does not serve the CA certificates above its entries, the audit is incomplete. When the log serves them, the
// entries are checked.
func TestMissingCACertificates(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	issuing := signer{h.pki.Intermediate, h.pki.Key, h.pki.Chain[1:]}
	sub := issuing.subordinate(t, pki.NewKey(""))
	h.issue(0, 0)
	sub.log(h, 0, sub.sign(t, false, true, pki.NewKey("")), true)
	h.publish()
	dir := filepath.Join(h.logs[0].Dir, "issuer")
	must(t, os.Rename(dir, dir+"-away"))
	a := h.auditor()
	a.run()
	r := h.runAll(nil)
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
	a.run()
	if diff := cmp.Diff([]string{"ca_below_ours"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
}

// An entry for which the log has no signature of the key is an alarm, too, and its text says so.
func TestUnverifiedSignature(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	h.signOutsideCA(0, true) // the TBSCertificate is not the one of the precertificate
	h.publish()
	r := h.runAll(nil)
	if len(r.Findings) != 1 || r.Findings[0].Signature != reconcile.SignatureUnverified ||
		!strings.Contains(r.Findings[0].Text, "invented the entry") {
		t.Errorf("%+v", r.Findings)
	}
}

// A changed record with a recomputed sum breaks the hash chain.
func TestHashChain(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	for range 3 {
		h.issue(0, 0)
	}
	h.publish()
	h.stop(0, 0)
	data, err := os.ReadFile(h.paths[0])
	must(t, err)
	lines := strings.SplitAfter(string(data), "\n")
	r, err := journal.ParseRecord([]byte(lines[2]))
	must(t, err)
	body, _, _ := strings.Cut(strings.Replace(lines[2], `"kind":"outcome"`, `"kind":"outcome","request_id":"x"`, 1),
		`,"sum":`)
	lines[2] = body + `,"sum":"` + digest(body) + "\"}\n"
	if strings.Contains(lines[2], r.Sum) {
		t.Fatal("the record was not changed")
	}
	must(t, os.WriteFile(h.paths[0], []byte(strings.Join(lines, "")), 0o600))
	report := h.runAll(nil)
	if len(report.Findings) != 1 || report.Findings[0].Kind != reconcile.JournalBroken ||
		!strings.Contains(report.Findings[0].Text, "does not continue") {
		t.Errorf("%+v", report.Findings)
	}
}
