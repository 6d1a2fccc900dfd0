package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// maxChain bounds the number of certificates in one chain.
const maxChain = 10

// ParseChain reads certificates in PEM, issuing certificate first, root last. Text between the blocks is allowed; a
// block that is damaged or of another type, a certificate twice or one that is not signed by the next is an error. An
// error of the file's form is a [pemfile.Error].
func ParseChain(data []byte) ([]*x509.Certificate, error) {
	chain, err := pemfile.Certificates(data)
	if err != nil {
		return nil, err
	}
	if len(chain) > maxChain {
		return nil, fmt.Errorf("more than %d certificates in one chain", maxChain)
	}
	return chain, checkOrder(chain)
}

func checkOrder(chain []*x509.Certificate) error {
	for i, c := range chain {
		parent := chain[min(i+1, len(chain)-1)] // a root signs itself
		if !bytes.Equal(c.RawIssuer, parent.RawSubject) {
			if i == len(chain)-1 {
				return fmt.Errorf("the last certificate (%s) is not a root: append the certificate of %s", name(c), c.Issuer)
			}
			return fmt.Errorf("certificate %d (%s) is issued by %q, but certificate %d is %q: put the issuing certificate first and the root last",
				i+1, name(c), c.Issuer, i+2, parent.Subject)
		}
		if err := c.CheckSignatureFrom(parent); err != nil {
			return fmt.Errorf("certificate %d (%s) is not signed by certificate %d: %w", i+1, name(c), min(i+2, len(chain)), err)
		}
	}
	return nil
}

func name(c *x509.Certificate) string {
	if s := c.Subject.String(); s != "" {
		return s
	}
	return "serial " + c.SerialNumber.String()
}

// checkChain checks that a chain can issue for code signing (C9): every certificate is a valid CA certificate that may
// sign certificates, the path lengths allow the chain, and the issuing certificate allows code signing.
func checkChain(chain []*x509.Certificate, now time.Time) error {
	if len(chain) == 0 {
		return errors.New("the chain is empty")
	}
	if err := checkOrder(chain); err != nil {
		return err
	}
	for i, c := range chain {
		what := fmt.Sprintf("certificate %d (%s)", i+1, name(c))
		switch {
		case !c.BasicConstraintsValid || !c.IsCA:
			return fmt.Errorf("%s is not a CA certificate", what)
		case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
			return fmt.Errorf("%s may not sign certificates: its key usage lacks keyCertSign", what)
		case c.MaxPathLen >= 0 && (c.MaxPathLen > 0 || c.MaxPathLenZero) && i > c.MaxPathLen:
			return fmt.Errorf("%s allows %d intermediates below it; the chain has %d", what, c.MaxPathLen, i)
		case now.Before(c.NotBefore):
			return fmt.Errorf("%s is not valid before %s", what, c.NotBefore.UTC().Format(time.RFC3339))
		case !now.Before(c.NotAfter):
			return fmt.Errorf("%s expired at %s", what, c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	if len(chain) > 1 && !hasUsage(chain[0], x509.ExtKeyUsageCodeSigning) {
		return fmt.Errorf("certificate 1 (%s) may not issue for code signing: its extended key usage lacks codeSigning", name(chain[0]))
	}
	return nil
}

// Advice is a weakness of a chain that can issue.
type Advice struct {
	Problem, Fix string
	// Serious is true for a weakness that a CA in production must not have.
	Serious bool
}

// Advise returns the weaknesses of a chain that [New] accepts, issuing certificate first: what the holder of a stolen
// issuing key could do beyond issuing certificates of this CA, and deviations from RFC 5280.
func Advise(chain []*x509.Certificate) []Advice {
	if len(chain) == 0 {
		return nil
	}
	var out []Advice
	c := chain[0]
	add := func(serious bool, problem, fix string) {
		out = append(out, Advice{fmt.Sprintf("the issuing certificate (%s) ", name(c)) + problem, fix, serious})
	}
	if !c.MaxPathLenZero || c.MaxPathLen != 0 {
		add(true,
			"has no path length of 0 (pathlen:0 in its basic constraints): its key can make further CAs, whose "+
				"certificates are not monitored",
			"have it issued again with pathlen:0 (mayfly ca init makes such a chain)")
	}
	var others []string
	for _, u := range c.ExtKeyUsage {
		if u != x509.ExtKeyUsageCodeSigning {
			others = append(others, u.String())
		}
	}
	for _, oid := range c.UnknownExtKeyUsage {
		others = append(others, oid.String())
	}
	switch {
	case len(others) > 0:
		add(false, "may issue for more than code signing (extended key usage "+strings.Join(others, ", ")+")",
			"have it issued again with codeSigning alone")
	case len(c.ExtKeyUsage) == 0: // a root that issues certificates itself
		add(false, "has no extended key usage: its key can make certificates for any purpose",
			"have one issued with codeSigning alone")
	}
	if len(chain) == 1 {
		add(false, "is the root itself: its key cannot be replaced without another root for every verifier",
			"keep the root's key offline and use an intermediate (mayfly ca init makes such a chain)")
	}
	if c.KeyUsage == 0 {
		add(false, "has no key usage (RFC 5280 section 4.2.1.3)", "have it issued again with keyCertSign")
	}
	for _, ext := range c.Extensions {
		switch id := ext.Id.String(); {
		case id == idNameConstraints && !ext.Critical:
			add(false,
				"has name constraints that are not critical (RFC 5280 section 4.2.1.10): some "+
					"verifiers ignore them",
				"have it issued again with critical name constraints")
		case id == "2.5.29.19" && !ext.Critical:
			add(false, "has basic constraints that are not critical (RFC 5280 section 4.2.1.9)",
				"have it issued again with critical basic constraints")
		}
	}
	return out
}

func hasUsage(c *x509.Certificate, want x509.ExtKeyUsage) bool {
	for _, u := range c.ExtKeyUsage {
		if u == want {
			return true
		}
	}
	return false
}

// verifyLeaf runs path validation of the standard library: name constraints, usages, signatures.
func verifyLeaf(leaf *x509.Certificate, chain []*x509.Certificate, at time.Time) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	for _, c := range chain[:len(chain)-1] {
		intermediates.AddCert(c)
	}
	identity.MarkHandled(leaf)
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	return err
}

// samePublicKey reports whether signer is the key of c.
func samePublicKey(c *x509.Certificate, signer crypto.Signer) bool {
	k, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(signer.Public())
}

// window returns the validity of the chain as a whole: from the latest notBefore to the earliest notAfter.
func window(chain []*x509.Certificate) (from, to time.Time) {
	to = time.Unix(math.MaxInt32*64, 0)
	for _, c := range chain {
		if c.NotBefore.After(from) {
			from = c.NotBefore
		}
		if c.NotAfter.Before(to) {
			to = c.NotAfter
		}
	}
	return from, to
}
