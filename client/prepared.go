package client

import (
	"context"
	"crypto/x509"
	"errors"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// Prepared is a request whose proof is made. It can be sent more than once, for as long as its token lives: load is made with it.
type Prepared struct {
	in *fulciopb.CreateSigningCertificateRequest
}

// Prepare makes the proof of possession.
func (r Request) Prepare() (*Prepared, error) {
	in, _, err := r.message()
	if err != nil {
		return nil, err
	}
	return &Prepared{in}, nil
}

// Answer is what the CA said, unverified.
type Answer struct {
	PEM      []string // leaf first, root last
	Embedded bool     // the CA says that SCTs are in the leaf
}

// Certificates parses the chain.
func (a Answer) Certificates() ([]*x509.Certificate, error) {
	return parseChain(&fulciopb.CertificateChain{Certificates: a.PEM})
}

// Send sends a prepared request and looks at the answer no further. The client must have been made with SkipVerify.
func (c *Client) Send(ctx context.Context, p *Prepared) (Answer, error) {
	if !c.o.SkipVerify {
		return Answer{}, errors.New("a prepared request is not verified, and this client verifies; use Request")
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	out, err := c.api.create(ctx, p.in)
	if err != nil {
		return Answer{}, err
	}
	if chain := out.GetSignedCertificateEmbeddedSct().GetChain(); chain != nil {
		return Answer{PEM: chain.GetCertificates(), Embedded: true}, nil
	}
	return Answer{PEM: out.GetSignedCertificateDetachedSct().GetChain().GetCertificates()}, nil
}
