package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/tbs"
)

// Preview returns the certificate that an authority with these options would issue for an identity now: the same
// template, lint and name constraints. It needs no key of the CA and signs nothing: the certificate has a placeholder
// signature, a temporary key, and no SCT. Its errors are those of [Authority.Issue].
func Preview(o Options, id identity.Identity) (*x509.Certificate, error) {
	p, err := NewPreviewer(o)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	c, err := p.Build(context.Background(), Request{Identity: &id, SPKI: spki, PublicKey: &key.PublicKey})
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(c.DER)
}

// Previewer builds the certificates that an authority would issue. It has no key and cannot sign.
type Previewer struct{ a *Authority }

// NewPreviewer returns a previewer for the chain of o. The signer, the log and the journal of o are not used.
func NewPreviewer(o Options) (*Previewer, error) {
	o.defaults()
	o.Log, o.Signer = nil, nil
	if err := checkChain(o.Chain, o.Now()); err != nil {
		return nil, err
	}
	scheme, err := schemeOf(o.Chain[0].PublicKey)
	if err != nil {
		return nil, err
	}
	a := &Authority{
		o: o, chain: o.Chain, keyHash: sha256.Sum256(o.Chain[0].RawSubjectPublicKeyInfo),
		signer: &certSigner{scheme: scheme},
	}
	for _, c := range o.Chain {
		a.chainDER = append(a.chainDER, c.Raw)
	}
	a.from, a.to = window(o.Chain)
	a.metrics = newMetrics(a.to)
	if a.replica, err = newReplica(o.Chain, o.Now()); err != nil {
		return nil, err
	}
	return &Previewer{a}, nil
}

// Build returns the certificate that [Authority.Issue] would issue for r now, with a placeholder signature and without
// SCTs. It calls none of the functions of r: no use of a token is counted, and nothing is recorded. Its errors are
// those of Issue up to the first signature.
func (p *Previewer) Build(ctx context.Context, r Request) (*Certificate, error) {
	d, err := p.a.prepare(ctx, r)
	if err != nil {
		return nil, err
	}
	der, err := tbs.Certificate(d.toSign, p.a.signer.algorithm, placeholder)
	if err != nil {
		return nil, err
	}
	return &Certificate{
		DER: der, Chain: p.a.chainDER, Serial: d.want.serial,
		NotBefore: d.want.notBefore, NotAfter: d.want.notBefore.Add(Validity),
	}, nil
}

// Chain returns the issuing chain, which MUST NOT be changed.
func (p *Previewer) Chain() []*x509.Certificate { return p.a.chain }
