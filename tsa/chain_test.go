package tsa_test

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

	"github.com/mayfly-ca/mayfly/tsa"
)

// The certificate of an authority meets RFC 3161 §2.3, and leads to the root at the time.
func TestCheckChain(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	usage := func(critical bool, usages ...int) pkix.Extension {
		var all []asn1.ObjectIdentifier
		for _, last := range usages {
			all = append(all, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, last})
		}
		value, err := asn1.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: critical, Value: value}
	}
	chainOf := func(change func(*x509.Certificate)) []*x509.Certificate {
		root := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: now.Add(-time.Hour),
			NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: now.Add(-time.Hour),
			NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
			ExtraExtensions: []pkix.Extension{usage(true, 8)},
		}
		change(leaf)
		var out []*x509.Certificate
		for _, template := range []*x509.Certificate{leaf, root} {
			der, err := x509.CreateCertificate(rand.Reader, template, root, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			c, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, c)
		}
		return out
	}
	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		at     time.Time
		want   string
	}{
		"good":         {func(*x509.Certificate) {}, now, ""},
		"not critical": {func(c *x509.Certificate) { c.ExtraExtensions[0] = usage(false, 8) }, now, "is not critical"},
		"two usages": {
			func(c *x509.Certificate) { c.ExtraExtensions[0] = usage(true, 8, 3) }, now,
			"not timeStamping alone",
		},
		"another one": {
			func(c *x509.Certificate) { c.ExtraExtensions[0] = usage(true, 3) }, now,
			"not timeStamping alone",
		},
		"key usage": {
			func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }, now, "lacks digitalSignature",
		},
		"a CA": {
			func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, now, "is a CA certificate",
		},
		"expired": {func(*x509.Certificate) {}, now.Add(2 * time.Hour), "expired"},
	} {
		err := tsa.CheckChain(chainOf(c.change), c.at)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := tsa.CheckChain(chainOf(func(*x509.Certificate) {})[:1], now); err == nil {
		t.Error("a chain without a root is accepted")
	}
}
