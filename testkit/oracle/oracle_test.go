package oracle_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // the subject key identifier is one
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/testkit/oracle"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// issue builds a certificate with the standard library alone, after change has modified the template.
func issue(t *testing.T, p *pki.PKI, change func(*x509.Certificate)) (der, spki []byte) {
	t.Helper()
	key := pki.NewKey(pki.P256)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Algorithm asn1.RawValue
		Bits      asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &parsed); err != nil {
		t.Fatal(err)
	}
	id := sha1.Sum(parsed.Bits.Bytes) //nolint:gosec // as above
	ext := func(oid asn1.ObjectIdentifier, critical bool, value string) pkix.Extension {
		return pkix.Extension{Id: oid, Critical: critical, Value: []byte(value)}
	}
	now := time.Now().UTC().Truncate(time.Second)
	c := &x509.Certificate{
		SerialNumber: new(big.Int).Lsh(big.NewInt(1), 100), NotBefore: now.Add(-30 * time.Second),
		NotAfter: now.Add(-30*time.Second + 10*time.Minute),
		ExtraExtensions: []pkix.Extension{
			ext(asn1.ObjectIdentifier{2, 5, 29, 15}, true, "\x03\x02\x07\x80"),
			ext(asn1.ObjectIdentifier{2, 5, 29, 37}, false, "\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x03"),
			ext(asn1.ObjectIdentifier{2, 5, 29, 14}, false, "\x04\x14"+string(id[:])),
			ext(asn1.ObjectIdentifier{2, 5, 29, 35}, false, "\x30\x16\x80\x14"+string(p.Intermediate.SubjectKeyId)),
			ext(asn1.ObjectIdentifier{2, 5, 29, 17}, true, "\x30\x07\x81\x05a@b.c"),
			ext(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, false, "\x0c\x01i"),
		},
	}
	if change != nil {
		change(c)
	}
	if der, err = x509.CreateCertificate(rand.Reader, c, p.Intermediate, key.Public(), p.Key); err != nil {
		t.Fatal(err)
	}
	return der, spki
}

// The oracle accepts a good certificate and rejects every modification of it.
func TestOracle(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	p.Intermediate.SubjectKeyId = p.Intermediate.SubjectKeyId[:20:20]
	good := oracle.Expect{Chain: p.Chain, Email: "a@b.c", Extensions: map[string]string{"8": "i"}}
	der, spki := issue(t, p, nil)
	e := good
	e.SPKI = spki
	if err := e.Verify(der); err != nil {
		t.Fatal(err)
	}
	value := func(i int, v string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtraExtensions[i].Value = []byte(v) }
	}
	for name, change := range map[string]func(*x509.Certificate){
		"small serial": func(c *x509.Certificate) { c.SerialNumber = big.NewInt(5) },
		"subject":      func(c *x509.Certificate) { c.Subject.CommonName = "x" },
		"long life":    func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) },
		"future": func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = c.NotBefore.Add(time.Hour), c.NotAfter.Add(time.Hour)
		},
		"key usage":    value(0, "\x03\x02\x05\xa0"),
		"server usage": value(1, "\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"),
		"key id":       value(2, "\x04\x01\x00"), "authority": value(3, "\x30\x03\x80\x01\x00"),
		"other name": value(4, "\x30\x07\x81\x05b@b.c"),
		"two names":  value(4, "\x30\x0e\x81\x05a@b.c\x81\x05b@b.c"), "other issuer": value(5, "\x0c\x01j"),
		"no DER":       value(5, "i"),
		"printable":    value(5, "\x13\x01i"),
		"not critical": func(c *x509.Certificate) { c.ExtraExtensions[4].Critical = false },
		"critical":     func(c *x509.Certificate) { c.ExtraExtensions[5].Critical = true },
		"order": func(c *x509.Certificate) {
			c.ExtraExtensions[0], c.ExtraExtensions[1] = c.ExtraExtensions[1], c.ExtraExtensions[0]
		},
		"missing": func(c *x509.Certificate) { c.ExtraExtensions = c.ExtraExtensions[:5] },
		"another": func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions,
				pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}})
		},
		"a CA": func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = true, true },
	} {
		der, spki := issue(t, p, change)
		e := good
		e.SPKI = spki
		if e.Verify(der) == nil {
			t.Errorf("%s passes", name)
		}
	}
	e.SPKI = p.Intermediate.RawSubjectPublicKeyInfo
	if e.Verify(der) == nil {
		t.Error("another key passes")
	}
	e.SPKI, e.Chain = spki, pki.New(pki.Options{}).Chain
	if e.Verify(der) == nil {
		t.Error("another chain passes")
	}
	e.Chain, e.Logs = p.Chain, []crypto.PublicKey{p.Key.Public()}
	if e.Verify(der) == nil {
		t.Error("a certificate without the expected SCT passes")
	}
}
