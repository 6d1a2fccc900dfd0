package inspect_test

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/inspect"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// Each kind of certificate is recognised, from PEM and from DER, and described with its remaining validity.
func TestDescribe(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	for kind, data := range map[string][]byte{
		"precertificate":      p.Leaf(1, true),
		"certificate":         p.Leaf(2, false),
		"issuing certificate": p.ChainPEM(),
		"root certificate":    p.ChainDER()[1],
	} {
		certs, err := inspect.ParseCertificates(data)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		for at, left := range map[time.Time]string{
			certs[0].NotBefore.Add(-time.Hour):  "valid in 1 hour",
			certs[0].NotAfter.Add(-time.Minute): "1 minute left",
			certs[0].NotAfter.Add(time.Hour):    "expired 1 hour ago",
		} {
			d, err := inspect.Describe(certs[0], at, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := []string{d.Kind, d.TimeLeft}; !cmp.Equal(got, []string{kind, left}) {
				t.Errorf("%s: %q, want %q", kind, got, left)
			}
			var text bytes.Buffer
			if err := d.Write(&text, terminal.Style{}); err != nil || !strings.Contains(text.String(), left) {
				t.Errorf("%s: %v: %s", kind, err, &text)
			}
		}
	}
}

// A file without a certificate is refused, with the accepted forms.
func TestParseCertificates(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		"nothing": "no certificate in PEM or DER",
		string(pki.PublicPEM(pki.NewKey(pki.P256).Public())): "PUBLIC KEY",
	} {
		if _, err := inspect.ParseCertificates([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", data, err, want)
		}
	}
}

// FuzzDescribe: a certificate that parses can be described, or refused with an error.
func FuzzDescribe(f *testing.F) {
	p := pki.New(pki.Options{})
	f.Add(p.Leaf(1, true))
	f.Add(p.ChainDER()[0])
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if d, err := inspect.Describe(c, c.NotBefore, nil); err == nil {
			if err := d.Write(&bytes.Buffer{}, terminal.Style{}); err != nil {
				t.Error(err)
			}
		}
	})
}
