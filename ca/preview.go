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
	o.defaults()
	o.Log = nil
	if err := checkChain(o.Chain, o.Now()); err != nil {
		return nil, err
	}
	scheme, err := schemeOf(o.Chain[0].PublicKey)
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
	a := &Authority{
		o: o, chain: o.Chain, keyHash: sha256.Sum256(o.Chain[0].RawSubjectPublicKeyInfo),
		signer: &certSigner{scheme: scheme},
	}
	a.from, a.to = window(o.Chain)
	a.metrics = newMetrics(a.to)
	if a.replica, err = newReplica(o.Chain, o.Now()); err != nil {
		return nil, err
	}
	d, err := a.prepare(context.Background(), Request{Identity: &id, SPKI: spki, PublicKey: &key.PublicKey})
	if err != nil {
		return nil, err
	}
	der, err := tbs.Certificate(d.toSign, a.signer.algorithm, placeholder)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
