package ceremony

import (
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/ca"
)

// timestampingRows are the requirements that depend on what the lowest CA above a timestamp authority may issue. A root
// may issue the certificate of a timestamp authority directly.
var timestampingRows = []string{"extended key usage alone", "intermediate", "path length 0"}

// checkTimestampingLeaf returns the requirements of RFC 3161 §2.3 and of verifiers that the certificate of a timestamp
// authority does not meet. Verifiers know the extended key usage, so that it may be critical.
func checkTimestampingLeaf(c *x509.Certificate) error {
	usages, critical := extKeyUsage(c)
	switch {
	case len(usages) != 1 || usages[0] != x509.ExtKeyUsageTimeStamping || len(c.UnknownExtKeyUsage) > 0:
		return errors.New("its extended key usage is not timeStamping alone")
	case !critical:
		return errors.New("its extended key usage is not critical")
	case c.IsCA:
		return errors.New("it is a CA certificate")
	case c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("its key usage lacks digitalSignature")
	}
	return nil
}

// timestampingLines returns the lines of [Check] for the chain of a timestamp authority.
func timestampingLines(o CheckOptions) []Line {
	if len(o.Chain) < 2 {
		return []Line{{
			Check: "names and signatures", Result: Wrong,
			Detail: "the chain has no certificate above that of the authority",
			Fix:    "write the certificates in PEM, the authority's first, root last",
		}}
	}
	leaf := o.Chain[0]
	line := func(check string, err error, fix string) Line {
		if err == nil {
			return Line{Check: check, Result: OK}
		}
		return Line{Check: check, Result: Wrong, Detail: fmt.Sprintf("%s: %v", leaf.Subject, err), Fix: fix}
	}
	const again = "have it issued again (mayfly ca init --timestamping makes such a chain)"
	lines := []Line{
		line("certificate of the timestamp authority", checkTimestampingLeaf(leaf), again),
		line("path to the root", verifyTimestamping(o), again),
	}
	for _, r := range ca.Examine(o.Chain[1:], o.Now, x509.ExtKeyUsageTimeStamping) {
		if !contains(timestampingRows, r.Name) {
			l := lineOf(r)
			l.Check = "above it: " + l.Check
			lines = append(lines, l)
		}
	}
	return lines
}

func verifyTimestamping(o CheckOptions) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(o.Chain[len(o.Chain)-1])
	for _, c := range o.Chain[1 : len(o.Chain)-1] {
		between.AddCert(c)
	}
	_, err := o.Chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: o.Now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping},
	})
	return err
}
