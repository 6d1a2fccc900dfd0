package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/identity"
)

// A3 // A10: the lint detects each departure from the profile without help from other checks. The standard library
// makes the certificates, so that the test does not depend on the builder under test.
func TestLint(t *testing.T) {
	t.Parallel()
	h, err := NewHierarchy(HierarchyOptions{Organization: "lint", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{Chain: h.Chain, Signer: h.Key})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	id := &identity.Identity{
		Issuer: "https://a.example.com", Subject: "s",
		SAN: identity.SAN{Kind: identity.Email, Value: "alice@example.com"},
	}
	id.Extensions.Set(identity.Issuer, "https://a.example.com")
	d, err := a.build(Request{Identity: id, SPKI: spki, PublicKey: &key.PublicKey},
		append([]byte{0x40}, make([]byte, 19)...), time.Now().UTC().Truncate(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	good, err := x509.ParseCertificate(mustCertificate(t, d.withoutSCTs, a.signer.algorithm))
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	find := func(c *x509.Certificate, oid string) *pkix.Extension {
		for i := range c.ExtraExtensions {
			if c.ExtraExtensions[i].Id.String() == oid {
				return &c.ExtraExtensions[i]
			}
		}
		t.Fatalf("no extension %s", oid)
		return nil
	}
	for name, c := range map[string]struct {
		change func(c *x509.Certificate)
		want   string // part of the error
	}{
		"nothing": {func(*x509.Certificate) {}, ""},
		"serial": {
			func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Add(c.SerialNumber, big.NewInt(1)) },
			"serial",
		},
		"subject": {
			func(c *x509.Certificate) { c.RawSubject, c.Subject = nil, pkix.Name{CommonName: "x"} },
			"subject",
		},
		"begin":              {func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-time.Second) }, "validity"},
		"end":                {func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) }, "validity"},
		"key usage critical": {func(c *x509.Certificate) { find(c, "2.5.29.15").Critical = false }, "critical"},
		"key usage": {
			func(c *x509.Certificate) { find(c, "2.5.29.15").Value = []byte{3, 2, 1, 6} },
			"key usage",
		},
		"key usage and more": {
			func(c *x509.Certificate) { find(c, "2.5.29.15").Value = []byte{3, 2, 2, 0x84} },
			"key usage",
		},
		"extended usage": {func(c *x509.Certificate) {
			find(c, "2.5.29.37").Value = []byte{0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1}
		}, "extended key usage"},
		"extended usage critical": {func(c *x509.Certificate) { find(c, "2.5.29.37").Critical = true }, "critical"},
		"name critical":           {func(c *x509.Certificate) { find(c, "2.5.29.17").Critical = false }, "critical"},
		"another name": {
			func(c *x509.Certificate) { v := find(c, "2.5.29.17").Value; v[len(v)-1] = 'n' },
			"identity",
		},
		"another issuer": {func(c *x509.Certificate) {
			v := find(c, "1.3.6.1.4.1.57264.1.8").Value
			v[len(v)-1] = 'n'
		}, "identity"},
		"subject key identifier": {
			func(c *x509.Certificate) { v := find(c, "2.5.29.14").Value; v[len(v)-1] ^= 1 },
			"subject key identifier",
		},
		"authority key identifier": {
			func(c *x509.Certificate) { v := find(c, "2.5.29.35").Value; v[len(v)-1] ^= 1 },
			"authority key identifier",
		},
		"basic constraints": {func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions,
				pkix.Extension{
					Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true,
					Value: []byte{0x30, 3, 1, 1, 0xff},
				})
		}, "basic constraints"},
		"an extension more": {func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions,
				pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}})
		}, "at the end"},
		"an extension less": {func(c *x509.Certificate) { c.ExtraExtensions = c.ExtraExtensions[:len(c.ExtraExtensions)-1] }, ""},
		"poison": {func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions,
				pkix.Extension{Id: oidPoison, Critical: true, Value: []byte{5, 0}})
		}, "at the end"},
		"order": {func(c *x509.Certificate) {
			c.ExtraExtensions[0], c.ExtraExtensions[1] = c.ExtraExtensions[1], c.ExtraExtensions[0]
		}, "is not in the expected position"},
	} {
		template := &x509.Certificate{
			SerialNumber: good.SerialNumber, RawSubject: good.RawSubject,
			NotBefore: good.NotBefore, NotAfter: good.NotAfter,
		}
		for _, ext := range good.Extensions {
			template.ExtraExtensions = append(template.ExtraExtensions,
				pkix.Extension{Id: ext.Id, Critical: ext.Critical, Value: append([]byte(nil), ext.Value...)})
		}
		c.change(template)
		der, err := x509.CreateCertificate(rand.Reader, template, h.Chain[0], &key.PublicKey, h.Key)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		err = d.want.lint(parsed.RawTBSCertificate, formWithoutSCTs)
		if name == "nothing" {
			if err != nil {
				t.Errorf("the good one: %v", err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: good.SerialNumber, NotBefore: good.NotBefore, NotAfter: good.NotAfter,
		ExtraExtensions: good.Extensions,
	}, h.Chain[0], &other.PublicKey, h.Key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.want.lint(parsed.RawTBSCertificate, formWithoutSCTs); err == nil ||
		!strings.Contains(err.Error(), "public key") {
		t.Errorf("another key: %v", err)
	}
}

func mustCertificate(t *testing.T, raw, algorithm []byte) []byte {
	t.Helper()
	der, err := asn1.Marshal([]asn1.RawValue{
		{FullBytes: raw},
		{FullBytes: algorithm},
		{Tag: asn1.TagBitString, Bytes: make([]byte, 65)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return der
}
