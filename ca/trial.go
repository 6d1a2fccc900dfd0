package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/tbs"
)

// replica is a copy of the chain with temporary keys and the same names, usages and constraints. Path validation of a
// certificate is tried with the replica before the CA's own key signs anything.
type replica struct {
	chain       []*x509.Certificate
	signer      *certSigner
	constrained bool // the chain has name constraints
}

func newReplica(chain []*x509.Certificate, now time.Time) (*replica, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	s := &replica{chain: make([]*x509.Certificate, len(chain))}
	var parent *x509.Certificate
	for i := len(chain) - 1; i >= 0; i-- {
		orig := chain[i]
		c := &x509.Certificate{
			SerialNumber: orig.SerialNumber, RawSubject: orig.RawSubject, NotBefore: orig.NotBefore,
			NotAfter: orig.NotAfter,
			KeyUsage: orig.KeyUsage, ExtKeyUsage: orig.ExtKeyUsage, UnknownExtKeyUsage: orig.UnknownExtKeyUsage,
			BasicConstraintsValid: orig.BasicConstraintsValid, IsCA: orig.IsCA, MaxPathLen: orig.MaxPathLen,
			MaxPathLenZero:              orig.MaxPathLenZero,
			SubjectKeyId:                orig.SubjectKeyId,
			PermittedDNSDomainsCritical: orig.PermittedDNSDomainsCritical,
			PermittedDNSDomains:         orig.PermittedDNSDomains, ExcludedDNSDomains: orig.ExcludedDNSDomains,
			PermittedIPRanges: orig.PermittedIPRanges, ExcludedIPRanges: orig.ExcludedIPRanges,
			PermittedEmailAddresses: orig.PermittedEmailAddresses, ExcludedEmailAddresses: orig.ExcludedEmailAddresses,
			PermittedURIDomains: orig.PermittedURIDomains, ExcludedURIDomains: orig.ExcludedURIDomains,
		}
		s.constrained = s.constrained || hasConstraints(orig)
		if parent == nil {
			parent = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, key)
		if err != nil {
			return nil, fmt.Errorf("certificate %d (%s): %w", i+1, name(orig), err)
		}
		if s.chain[i], err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("certificate %d (%s): %w", i+1, name(orig), err)
		}
		parent = s.chain[i]
	}
	s.signer, err = newCertSigner(Options{Signer: key, Rand: rand.Reader, Signatures: new(atomic.Int64)},
		newMetrics(now))
	return s, err
}

// idNameConstraints is id-ce-nameConstraints (RFC 5280 §4.2.1.10).
const idNameConstraints = "2.5.29.30"

func hasConstraints(c *x509.Certificate) bool {
	for _, ext := range c.Extensions {
		if ext.Id.String() == idNameConstraints {
			return true
		}
	}
	return false
}

// permits returns an error if the name constraints of the chain exclude the certificate (A16). If the chain has no
// constraints, permits does nothing.
func (s *replica) permits(d *unsigned) error {
	if !s.constrained {
		return nil
	}
	return s.verify(d)
}

// verify makes the certificate with the temporary key and runs path validation. The TBSCertificate names the signature
// algorithm, and is therefore built again for the temporary key.
func (s *replica) verify(d *unsigned) error {
	names, err := d.want.identity.Marshal()
	if err != nil {
		return err
	}
	again, err := tbs.New(tbs.Template{
		Serial: d.want.serial, SignatureAlgorithm: s.signer.algorithm, Issuer: d.want.issuing.RawSubject,
		NotBefore: d.want.notBefore, NotAfter: d.want.notBefore.Add(Validity), SPKI: d.want.spki,
		SubjectKeyID:   d.want.keyID,
		AuthorityKeyID: s.chain[0].SubjectKeyId, Identity: names,
	})
	if err != nil {
		return err
	}
	raw := again.WithoutSCTList()
	calls := 0
	signature, err := s.signer.sign(context.Background(), raw, &calls)
	if err != nil {
		return err
	}
	der, err := tbs.Certificate(raw, s.signer.algorithm, signature)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	return verifyLeaf(leaf, s.chain, d.want.notBefore)
}

// trialName is in a top-level domain that RFC 2606 §2 reserves, in which no identity exists.
const trialName = "https://trial.mayfly.invalid/"

// trial proves that chain, key and profile make a certificate that verifies. The CA's key signs one precertificate,
// which is not submitted to a log, and which the poison extension makes useless. The certificate is made with the
// replica.
func (a *Authority) trial(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	r := Request{SPKI: spki, PublicKey: &key.PublicKey, Identity: &identity.Identity{
		Issuer: trialName, Subject: "trial", SAN: identity.SAN{Kind: identity.URI, Value: trialName},
	}}
	r.Identity.Extensions.Set(identity.Issuer, trialName)
	serial := append([]byte{0x40}, make([]byte, 19)...)
	if _, err := rand.Read(serial[1:]); err != nil {
		return err
	}
	notBefore, err := a.validity(a.o.Now())
	if err != nil {
		return err
	}
	d, err := a.build(r, serial, notBefore)
	if err != nil {
		return err
	}
	raw := d.tbs.Precert()
	if err := d.want.lint(raw, formPrecertificate); err != nil {
		return fmt.Errorf("lint: %w", err)
	}
	if err := a.o.Trial(ctx, a.intent(d)); err != nil {
		return err
	}
	made := 0
	pre, err := a.signTBS(ctx, raw, &made)
	if err != nil {
		return err
	}
	c, err := x509.ParseCertificate(pre)
	if err != nil {
		return err
	}
	if err := a.chain[0].CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		return fmt.Errorf("the signature does not verify with certificate 1 (%s): %w", name(a.chain[0]), err)
	}
	a.tried = c
	var invalid x509.CertificateInvalidError
	err = a.replica.verify(d)
	if errors.As(err, &invalid) && invalid.Reason == x509.CANotAuthorizedForThisName {
		return nil // name constraints may exclude the name of the trial
	}
	return err
}

// Trial returns the precertificate that [New] signed for the proof. It has the poison of RFC 6962 §3.1 and was given to
// nobody; what verifies certificates can be tried with it. It MUST NOT be changed or submitted.
func (a *Authority) Trial() *x509.Certificate { return a.tried }
