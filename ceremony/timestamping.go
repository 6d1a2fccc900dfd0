package ceremony

import (
	"crypto/x509"
	"fmt"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/tsa"
)

// timestampingRows are the requirements that depend on what the lowest CA above a timestamp authority may issue. A root
// may issue the certificate of a timestamp authority directly.
var timestampingRows = []string{"extended key usage alone", "intermediate", "path length 0"}

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
		line("certificate of the timestamp authority", tsa.CheckCertificate(leaf), again),
		line("path to the root", tsa.VerifyPath(o.Chain, o.Now), again),
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
