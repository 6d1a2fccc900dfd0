package tbs_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"

	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/tbs"
)

const ecdsaSHA256 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"

func template(t testing.TB) tbs.Template {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	id := identity.Identity{SAN: identity.SAN{Kind: identity.Email, Value: "alice@example.com"}}
	id.Extensions.Set(identity.Issuer, "https://issuer.example.com")
	names, err := id.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)
	return tbs.Template{
		Serial: []byte{0x41, 2, 3}, SignatureAlgorithm: []byte(ecdsaSHA256),
		Issuer:    []byte("\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01\x61"),
		NotBefore: from, NotAfter: from.Add(10 * time.Minute), SPKI: spki, SubjectKeyID: bytes.Repeat([]byte{7}, 20),
		AuthorityKeyID: bytes.Repeat([]byte{8}, 20), Identity: names,
	}
}

func scts(t testing.TB, n int) [][]byte {
	t.Helper()
	var out [][]byte
	for i := range n {
		one, err := tbs.SCT{
			LogID: [32]byte{byte(i)}, Timestamp: 5, Extensions: []byte{1, 2}, Hash: 4, Sig: 3,
			Signature: []byte{9, 9},
		}.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, one)
	}
	return out
}

func wrap(t testing.TB, raw []byte) []byte {
	t.Helper()
	der, err := tbs.Certificate(raw, []byte(ecdsaSHA256), []byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// A1 // A4 // A9 // A10 // B13: the standard library parses what is built, and what certificate-transparency-go
// reconstructs from the precertificate and from the certificate is what the log signs.
func TestBuild(t *testing.T) {
	t.Parallel()
	tpl := template(t)
	built, err := tbs.New(tpl)
	if err != nil {
		t.Fatal(err)
	}
	final, err := built.Final(scts(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(wrap(t, final))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(c.RawTBSCertificate, final) || !bytes.Equal(c.RawSubjectPublicKeyInfo, tpl.SPKI) ||
		!c.NotAfter.Equal(tpl.NotAfter) ||
		c.KeyUsage != x509.KeyUsageDigitalSignature || !bytes.Equal(c.SubjectKeyId, tpl.SubjectKeyID) ||
		!bytes.Equal(c.AuthorityKeyId, tpl.AuthorityKeyID) ||
		c.EmailAddresses[0] != "alice@example.com" || !bytes.Equal(c.SerialNumber.Bytes(), tpl.Serial) {
		t.Errorf("parsed %+v", c)
	}
	fromPre, err := ctx509.BuildPrecertTBS(built.Precert(), nil)
	if err != nil || !bytes.Equal(fromPre, built.WithoutSCTList()) {
		t.Errorf("without poison: %v\n%s", err, cmp.Diff(built.WithoutSCTList(), fromPre))
	}
	fromFinal, err := ctx509.RemoveSCTList(final)
	if err != nil || !bytes.Equal(fromFinal, built.WithoutSCTList()) {
		t.Errorf("without SCT list: %v", err)
	}
	bare, list, err := tbs.WithoutSCTList(wrap(t, final))
	if err != nil || !bytes.Equal(bare, built.WithoutSCTList()) || len(list) != 2 {
		t.Errorf("unlisted: %v, %d SCTs", err, len(list))
	}
}

// A1: a change of any byte of a certificate is detected.
func TestCorrespond(t *testing.T) {
	t.Parallel()
	built, err := tbs.New(template(t))
	if err != nil {
		t.Fatal(err)
	}
	list := scts(t, 1)
	raw, err := built.Final(list)
	if err != nil {
		t.Fatal(err)
	}
	pre, final := wrap(t, built.Precert()), wrap(t, raw)
	if err := tbs.Correspond(pre, final, list); err != nil {
		t.Fatal(err)
	}
	// all bytes of the TBSCertificate, without algorithm and signature
	for i := range len(final) - len(wrap(t, nil)) + 4 {
		for _, bit := range []byte{1, 0x80} {
			changed := bytes.Clone(final)
			changed[i] ^= bit
			if tbs.Correspond(pre, changed, list) == nil {
				t.Errorf("byte %d, bit %x: a change passes", i, bit)
			}
		}
	}
	for name, c := range map[string][2][]byte{
		"no poison": {final, final}, "poison": {pre, pre}, "empty": {nil, nil},
		"swapped": {final, pre},
	} {
		if tbs.Correspond(c[0], c[1], list) == nil {
			t.Errorf("%s passes", name)
		}
	}
	if tbs.Correspond(pre, final, scts(t, 2)) == nil || tbs.Correspond(pre, final, nil) == nil {
		t.Error("other SCTs pass")
	}
}

// A8: a template that RFC 5280 forbids is refused.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*tbs.Template){
		"no serial":    func(x *tbs.Template) { x.Serial = nil },
		"negative":     func(x *tbs.Template) { x.Serial = []byte{0x80} },
		"leading zero": func(x *tbs.Template) { x.Serial = []byte{0, 1} },
		"21 octets":    func(x *tbs.Template) { x.Serial = bytes.Repeat([]byte{1}, 21) },
		"backwards":    func(x *tbs.Template) { x.NotAfter = x.NotBefore },
		"fraction":     func(x *tbs.Template) { x.NotBefore = x.NotBefore.Add(1) },
		"no key":       func(x *tbs.Template) { x.SPKI = nil },
	} {
		x := template(t)
		change(&x)
		if _, err := tbs.New(x); err == nil {
			t.Errorf("%s passes", name)
		}
	}
	built, err := tbs.New(template(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := built.Final(nil); err == nil {
		t.Error("an empty SCT list passes")
	}
}

// B1: an SCT verifies for its entry and key, and for no other entry or key.
func TestSCTVerify(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	entry := tbs.Entry{IssuerKeyHash: [32]byte{1}, TBS: []byte("tbs")}
	s := tbs.SCT{Timestamp: 1234567, Extensions: []byte{0, 0, 5, 0, 0, 0, 0, 1}, Hash: 4, Sig: 3}
	input, err := tbs.SignatureInput(s.Timestamp, s.Extensions, entry)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(input)
	if s.Signature, err = ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(key.Public(), entry); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*tbs.SCT, *tbs.Entry){
		"time":       func(s *tbs.SCT, _ *tbs.Entry) { s.Timestamp++ },
		"extensions": func(s *tbs.SCT, _ *tbs.Entry) { s.Extensions = nil },
		"issuer":     func(_ *tbs.SCT, e *tbs.Entry) { e.IssuerKeyHash[0]++ },
		"tbs":        func(_ *tbs.SCT, e *tbs.Entry) { e.TBS = []byte("tbt") },
		"hash":       func(s *tbs.SCT, _ *tbs.Entry) { s.Hash = 2 },
		"algorithm":  func(s *tbs.SCT, _ *tbs.Entry) { s.Sig = 1 },
	} {
		s, e := s, entry
		change(&s, &e)
		if s.Verify(key.Public(), e) == nil {
			t.Errorf("another %s passes", name)
		}
	}
}

// The list keeps the order of the SCTs; an SCT or a list with a surplus or a missing byte is refused.
func TestSCTListKeepsItsOrder(t *testing.T) {
	t.Parallel()
	want := scts(t, 3)
	list, err := tbs.MarshalSCTList(want)
	if err != nil {
		t.Fatal(err)
	}
	extension := func(value []byte) []byte { // an OCTET STRING
		var b cryptobyte.Builder
		b.AddASN1OctetString(value)
		return b.BytesOrPanic()
	}
	got, err := tbs.ParseSCTList(extension(list))
	if err != nil || len(got) != len(want) {
		t.Fatal(len(got), err)
	}
	at := 2
	for i := range want {
		if !bytes.Equal(got[i], want[i]) || !bytes.Equal(list[at+2:at+2+len(want[i])], want[i]) {
			t.Errorf("SCT %d is another one", i)
		}
		at += 2 + len(want[i])
		if _, err := tbs.ParseSCT(append(bytes.Clone(want[i]), 0)); err == nil {
			t.Error("an SCT with a trailing byte passes")
		}
		if _, err := tbs.ParseSCT(want[i][:len(want[i])-1]); err == nil {
			t.Error("an SCT that is cut short passes")
		}
	}
	for _, bad := range [][]byte{append(bytes.Clone(list), 0), list[:len(list)-1], {0, 0}, {0, 2, 0, 0}} {
		if _, err := tbs.ParseSCTList(extension(bad)); err == nil {
			t.Errorf("a list of %d bytes passes", len(bad))
		}
	}
}

func FuzzParseSCT(f *testing.F) {
	f.Add(scts(f, 1)[0])
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := tbs.ParseSCT(data)
		if err != nil {
			return
		}
		if again, err := s.Marshal(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%x became %x, %v", data, again, err)
		}
	})
}

func FuzzCertificates(f *testing.F) {
	built, err := tbs.New(template(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wrap(f, built.Precert()), wrap(f, built.WithoutSCTList()))
	f.Fuzz(func(t *testing.T, pre, final []byte) {
		if _, list, err := tbs.WithoutSCTList(final); err == nil && tbs.Correspond(pre, final, list) == nil &&
			bytes.Equal(pre, final) {
			t.Error("a certificate corresponds to itself")
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	x := template(b)
	for b.Loop() {
		built, err := tbs.New(x)
		if err != nil {
			b.Fatal(err)
		}
		_ = built.Precert()
	}
}

// A4: a certificate is split into exactly its parts, or refused.
func TestSplit(t *testing.T) {
	t.Parallel()
	built, err := tbs.New(template(t))
	if err != nil {
		t.Fatal(err)
	}
	der := wrap(t, built.WithoutSCTList())
	got, err := tbs.Split(der)
	if err != nil {
		t.Fatal(err)
	}
	want := tbs.Parts{TBS: built.WithoutSCTList(), Algorithm: []byte(ecdsaSHA256), Signature: []byte{1, 2, 3}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "a byte after it": append(bytes.Clone(der), 0), "cut short": der[:len(der)-1],
		"odd bits":         append(bytes.Clone(der[:len(der)-4]), 1, 1, 2, 4), // one unused bit in the signature
		"a fourth element": fourth(t, der),
	} {
		if p, err := tbs.Split(bad); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// fourth returns a certificate with a fourth element, a NULL, after the signature.
func fourth(t *testing.T, der []byte) []byte {
	t.Helper()
	bad := append(bytes.Clone(der), 5, 0)
	if bad[1] != 0x82 {
		t.Fatalf("length of another form: %x", bad[:4])
	}
	n := int(bad[2])<<8 + int(bad[3]) + 2
	bad[2], bad[3] = byte(n>>8), byte(n)
	return bad
}
