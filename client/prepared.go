package client

import (
	"context"
	"crypto/x509"
	"errors"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// Prepared is a request with its proof of possession. It can be sent repeatedly while its token is valid, as load tests
// do.
type Prepared struct {
	in *fulciopb.CreateSigningCertificateRequest
}

// Prepare creates the proof of possession.
func (r Request) Prepare() (*Prepared, error) {
	in, _, err := r.message()
	if err != nil {
		return nil, err
	}
	return &Prepared{in}, nil
}

// Answer is the response of the CA, which has not been verified.
type Answer struct {
	PEM      []string // leaf first, root last
	Embedded bool     // the response says that the leaf has embedded SCTs
}

// Certificates parses the chain.
func (a Answer) Certificates() ([]*x509.Certificate, error) {
	return parseChain(&fulciopb.CertificateChain{Certificates: a.PEM})
}

// Send sends a prepared request and returns the response without verifying it. The client must have been created with
// SkipVerify.
func (c *Client) Send(ctx context.Context, p *Prepared) (Answer, error) {
	if !c.o.SkipVerify {
		return Answer{},
			errors.New("the response to a prepared request is not verified; use Request, or a client with SkipVerify")
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
