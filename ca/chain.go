package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// maxChain bounds the number of certificates in one chain.
const maxChain = 10

// ParseChain reads certificates in PEM, issuing certificate first, root last. Text between the blocks is allowed; a
// block that is damaged or of another type, a repeated certificate, and a certificate that is not signed by the next
// one are errors. An error in the form of the file is a [pemfile.Error].
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
	for i := range chain {
		if err := checkLink(chain, i); err != nil {
			return err
		}
	}
	return nil
}

// checkLink checks that the certificate at index i is issued by the next one; the last one, a root, by itself.
func checkLink(chain []*x509.Certificate, i int) error {
	c, parent := chain[i], chain[min(i+1, len(chain)-1)]
	if !bytes.Equal(c.RawIssuer, parent.RawSubject) {
		if i == len(chain)-1 {
			return fmt.Errorf("the last certificate (%s) is not a root: append the certificate of %s",
				name(c), c.Issuer)
		}
		return fmt.Errorf("certificate %d (%s) is issued by %q, but certificate %d is %q: put the issuing "+
			"certificate first and the root last", i+1, name(c), c.Issuer, i+2, parent.Subject)
	}
	if err := c.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("certificate %d (%s) is not signed by certificate %d: %w", i+1, name(c),
			min(i+2, len(chain)), err)
	}
	return nil
}

func name(c *x509.Certificate) string {
	if s := c.Subject.String(); s != "" {
		return s
	}
	return "serial " + c.SerialNumber.String()
}

// checkChain returns the first requirement of level [Required] that a chain for code signing does not meet (C9).
func checkChain(chain []*x509.Certificate, now time.Time) error {
	for _, r := range Examine(chain, now, x509.ExtKeyUsageCodeSigning) {
		if r.Level == Required && len(r.Findings) > 0 {
			return errors.New(r.Findings[0].Problem)
		}
	}
	return nil
}

// Advice is a weakness of a chain that can issue.
type Advice struct {
	Problem, Fix string
	// Serious is true for a weakness that a CA in production must not have.
	Serious bool
}

// Advise returns the weaknesses of a chain that [New] accepts: the requirements of the levels [Production] and
// [Advised] that it does not meet.
func Advise(chain []*x509.Certificate) []Advice {
	var out []Advice
	for _, r := range Examine(chain, time.Time{}, x509.ExtKeyUsageCodeSigning) {
		if r.Level != Production && r.Level != Advised {
			continue
		}
		for _, f := range r.Findings {
			out = append(out, Advice{f.Problem, f.Fix, r.Level == Production})
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

// verifyLeaf runs the path validation of the standard library: name constraints, usages, signatures.
func verifyLeaf(leaf *x509.Certificate, chain []*x509.Certificate, at time.Time) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	for _, c := range chain[:len(chain)-1] {
		intermediates.AddCert(c)
	}
	identity.MarkHandled(leaf)
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
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
