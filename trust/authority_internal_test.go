package trust

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// content is the certificate of a bundle, and the certificates that the bundle brings along.
type content struct {
	verify.VerificationContent
	leaf     *x509.Certificate
	included []*x509.Certificate
}

func (c content) Certificate() *x509.Certificate     { return c.leaf }
func (c content) Intermediates() []*x509.Certificate { return c.included }

// A bundle may bring the intermediate certificate along if the trusted root has only its root. It must not bring along
// an authority of the trusted root whose period had ended: another authority with the same root would accept it.
func TestAuthorityThatEnded(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	leaf, err := x509.ParseCertificate(p.Leaf(1, false))
	if err != nil {
		t.Fatal(err)
	}
	at := leaf.NotBefore.Add(time.Minute)
	authority := func(intermediates []*x509.Certificate, end time.Time) root.CertificateAuthority {
		return &root.FulcioCertificateAuthority{
			Root: p.Root, Intermediates: intermediates, ValidityPeriodStart: at.Add(-time.Hour), ValidityPeriodEnd: end,
		}
	}
	issuing := p.Chain[:1]
	in := content{leaf: leaf, included: issuing}
	for name, c := range map[string]struct {
		authorities []root.CertificateAuthority
		trusted     bool
	}{
		"in its period":               {[]root.CertificateAuthority{authority(issuing, time.Time{})}, true},
		"the root alone":              {[]root.CertificateAuthority{authority(nil, time.Time{})}, true},
		"the root alone, which ended": {[]root.CertificateAuthority{authority(nil, at.Add(-time.Minute))}, false},
		"ended":                       {[]root.CertificateAuthority{authority(issuing, at.Add(-time.Minute))}, false},
		"ended, beside the root alone": {[]root.CertificateAuthority{
			authority(issuing, at.Add(-time.Minute)), authority(nil, time.Time{}),
		}, false},
		"ended, after the root alone": {[]root.CertificateAuthority{
			authority(nil, time.Time{}), authority(issuing, at.Add(-time.Minute)),
		}, false},
	} {
		trustedRoot, err := root.NewTrustedRoot(root.TrustedRootMediaType01, c.authorities, nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		chains, err := authorityAt(at, in, &trusted{TrustedRoot: trustedRoot})
		if (err == nil && len(chains) > 0) != c.trusted {
			t.Errorf("%s: %d chains, %v", name, len(chains), err)
		}
	}
}
