package ca_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// C9: chains that can issue certificates but need advice to the operator.
func TestAdvise(t *testing.T) {
	t.Parallel()
	issuing := func(f func(c *x509.Certificate)) *pki.PKI { return pki.New(pki.Options{Intermediate: f}) }
	basic := func(critical bool) func(c *x509.Certificate) {
		return func(c *x509.Certificate) {
			value, err := asn1.Marshal(struct {
				IsCA bool
				Max  int
			}{true, 0})
			if err != nil {
				panic(err)
			}
			c.ExtraExtensions = []pkix.Extension{{
				Id:       asn1.ObjectIdentifier{2, 5, 29, 19},
				Critical: critical, Value: value,
			}}
		}
	}
	for name, c := range map[string]struct {
		pki     *pki.PKI
		want    string
		serious bool
	}{
		"good":         {pki.New(pki.Options{}), "", false},
		"good by hand": {issuing(basic(true)), "", false},
		"no path length": {
			issuing(func(c *x509.Certificate) { c.MaxPathLenZero = false }),
			"no path length of 0", true,
		},
		"path length 1": {
			issuing(func(c *x509.Certificate) { c.MaxPathLenZero, c.MaxPathLen = false, 1 }),
			"no path length of 0", true,
		},
		"more usages": {issuing(func(c *x509.Certificate) {
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}), "more than code signing", false},
		"unknown usages": {issuing(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}}
		}), "1.2.3", false},
		"no key usage": {issuing(func(c *x509.Certificate) { c.KeyUsage = 0 }), "no key usage", false},
		"soft constraints": {
			issuing(func(c *x509.Certificate) { c.PermittedEmailAddresses = []string{"example.com"} }),
			"name constraints that are not critical", false,
		},
		"hard constraints": {issuing(func(c *x509.Certificate) {
			c.PermittedEmailAddresses, c.PermittedDNSDomainsCritical = []string{"example.com"}, true
		}), "", false},
		"soft basics":       {issuing(basic(false)), "basic constraints that are not critical", false},
		"a root that signs": {pki.New(pki.Options{SelfSigned: true}), "is the root itself", true},
	} {
		var texts []string
		serious := false
		for _, a := range ca.Advise(c.pki.Chain) {
			serious = serious || a.Serious
			texts = append(texts, a.Problem+"; "+a.Fix)
			if a.Problem == "" || a.Fix == "" {
				t.Errorf("%s: half a sentence: %+v", name, a)
			}
		}
		if text := strings.Join(texts, "\n"); !strings.Contains(text, c.want) || (text == "") != (c.want == "") ||
			serious != c.serious {
			t.Errorf("%s: %q, serious %t; want %q, %t", name, text, serious, c.want, c.serious)
		}
	}
	if got := ca.Advise(nil); got != nil {
		t.Errorf("%v", got)
	}
}
