package ca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tbs"
)

// minReissueLeft is how much of the validity of a certificate must be left when it is returned again. A client that
// repeats a request does so within seconds; a certificate that is about to expire is of no use to it.
const minReissueLeft = Validity / 2

// Reissue checks that der is a certificate that Issue could have made for r under this chain, and that enough of its
// validity is left, and returns it. Nothing is signed, logged or recorded. The checks are those that a new certificate
// passes: the lint against the request, and the signature of the issuing key. Serial number and validity are those of
// der. An error means that the caller MUST use Issue.
func (a *Authority) Reissue(r Request, der []byte) (*Certificate, error) {
	now := a.o.Now()
	if err := errors.Join(a.o.Ready(), a.o.Clock.Check(now)); err != nil {
		return nil, fault.New(fault.NotReady, err, "cause", err.Error())
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if now.Before(c.NotBefore) || c.NotAfter.Sub(now) < minReissueLeft {
		return nil, fmt.Errorf("its validity is from %s to %s", c.NotBefore, c.NotAfter)
	}
	keyID, err := subjectKeyID(r.SPKI)
	if err != nil {
		return nil, fault.New(fault.KeyMalformed, err)
	}
	want := expectation{
		serial: c.SerialNumber.Bytes(), notBefore: c.NotBefore, spki: r.SPKI, keyID: keyID, identity: r.Identity,
		issuing: a.chain[0], algorithm: a.signer.algorithm,
	}
	form := formWithSCTs
	if a.o.Log == nil {
		form = formWithoutSCTs
	}
	if err := want.lint(c.RawTBSCertificate, form); err != nil {
		return nil, fmt.Errorf("lint: %w", err)
	}
	parts, err := tbs.Split(der)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(parts.Algorithm, a.signer.algorithm) {
		return nil, errors.New("the signature algorithm differs from that of the key")
	}
	if err := a.chain[0].CheckSignature(a.signer.name, parts.TBS, parts.Signature); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	return &Certificate{
		DER: der, Chain: a.chainDER, Embedded: a.o.Log != nil,
		Serial: want.serial, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
	}, nil
}
