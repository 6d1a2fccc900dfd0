package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/tbs"
)

// The life of a precertificate signing certificate. Its key is in memory only: a restart makes another one.
const (
	precertIssuerLife  = 30 * 24 * time.Hour
	precertIssuerRenew = 10 * 24 * time.Hour // time before its end at which it is renewed
	precertIssuerWarn  = 5 * 24 * time.Hour  // time before its end at which readiness warns
	precertIssuerRetry = time.Minute         // pause after a renewal that failed
	precertIssuerSign  = 30 * time.Second    // for the journal and the signature of one renewal
)

// precertIssuerName is the common name of a precertificate signing certificate.
const precertIssuerName = "Precertificate Signing"

// oidPrecertSigning is the extended key usage of a precertificate signing certificate (RFC 6962 §3.1).
var oidPrecertSigning = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 4}

// precertSigner is a precertificate signing certificate with its key.
type precertSigner struct {
	cert   *x509.Certificate
	signer *certSigner
	chain  [][]byte // DER: the certificate, and the chain of the CA
	// issuers are the issuer fields of precertificate and certificate.
	issuers tbs.Through
	// strict says that RFC 5280 does not allow the certificate below the issuing one, because of its path length.
	strict bool
}

// precertIssuer is the present precertificate signing certificate of an authority, and its renewal.
type precertIssuer struct {
	current  atomic.Pointer[precertSigner]
	renewing sync.Mutex
	failed   atomic.Pointer[failedRenewal]
}

type failedRenewal struct {
	at    time.Time
	cause error
}

// checkPrecertIssuer returns an error if a precertificate signing certificate below the issuing one is impossible.
//
// A path length of 0 in the issuing certificate is no reason. By RFC 5280 §6.1.4 (m), no CA certificate may be below
// it, so that no verifier of code signatures accepts what the key of the precertificate signing certificate could
// issue. Logs do not look at path lengths: certificate-transparency-go and what is derived from it (TesseraCT,
// Sunlight) disable this check for the sake of precertificate signing certificates.
func checkPrecertIssuer(issuing *x509.Certificate) error {
	const setting = "precert_issuer"
	if len(issuing.SubjectKeyId) == 0 {
		return fault.BadSetting("a precertificate signing certificate needs the subject key identifier of the issuing "+
			"certificate, which does not have one", "obtain an issuing certificate with the extension, or remove "+
			"precert_issuer", setting)
	}
	switch issuing.PublicKey.(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey, ed25519.PublicKey, *mldsa.PublicKey:
		return nil
	}
	return fault.BadSetting(fmt.Sprintf("a precertificate signing certificate with a key of type %T is not supported",
		issuing.PublicKey), "remove precert_issuer", setting)
}

func newPrecertIssuer(a *Authority) (*precertIssuer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), precertIssuerSign)
	defer cancel()
	first, err := a.newPrecertSigner(ctx)
	if err != nil {
		return nil, fmt.Errorf("precertificate signing certificate: %w", err)
	}
	p := &precertIssuer{}
	p.current.Store(first)
	a.metrics.precertExpiry.Set(float64(first.cert.NotAfter.Unix()))
	return p, nil
}

// newPrecertSigner makes a key, and has it certified by the CA's key.
func (a *Authority) newPrecertSigner(ctx context.Context) (*precertSigner, error) {
	issuing, now := a.chain[0], a.o.Now()
	key, err := NewKeyLike(issuing.PublicKey)
	if err != nil {
		return nil, err
	}
	serial, err := NewSerial(a.o.Rand)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), SignatureAlgorithm: a.signer.name,
		Subject:   pkix.Name{Organization: issuing.Subject.Organization, CommonName: precertIssuerName},
		NotBefore: later(now.Add(-MaxBackdate), a.from), NotAfter: earlier(now.Add(precertIssuerLife), a.to),
		KeyUsage: x509.KeyUsageCertSign, UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidPrecertSigning},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	raw, err := draft(template, issuing, key)
	if err != nil {
		return nil, err
	}
	intent := Intent{
		Serial: serial, TBS: sha256.Sum256(raw), IssuerKeyHash: a.keyHash, Text: "precertificate signing certificate",
	}
	if err := a.o.Trial(ctx, intent); err != nil { // G4
		return nil, err
	}
	made := 0
	der, err := a.signTBS(ctx, raw, &made)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if err := issuing.CheckSignature(a.signer.name, cert.RawTBSCertificate, cert.Signature); err != nil {
		return nil, fmt.Errorf("the signature does not verify with certificate 1 (%s): %w", name(issuing), err)
	}
	s := &precertSigner{cert: cert, chain: append([][]byte{der}, a.chainDER...)}
	s.strict = issuing.BasicConstraintsValid && issuing.MaxPathLen == 0 && issuing.MaxPathLenZero
	s.issuers.Signer.Name, s.issuers.Issuer.Name = cert.RawSubject, issuing.RawSubject
	s.issuers.Signer.AuthorityKey, err = tbs.AuthorityKey(cert.SubjectKeyId)
	if err != nil {
		return nil, err
	}
	if s.issuers.Issuer.AuthorityKey, err = tbs.AuthorityKey(issuing.SubjectKeyId); err != nil {
		return nil, err
	}
	s.signer, err = newCertSigner(Options{
		Signer: key, Rand: a.o.Rand, Signatures: new(atomic.Int64), Pause: a.o.Pause,
	}, a.metrics)
	return s, err
}

// draft returns the TBSCertificate of a precertificate signing certificate, after a comparison with what it must be.
func draft(template, issuing *x509.Certificate, key crypto.Signer) ([]byte, error) {
	parent := *issuing
	parent.PublicKey = nil // the draft is signed with the new key itself, and this signature is discarded
	der, err := x509.CreateCertificate(rand.Reader, template, &parent, key.Public(), key)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	switch {
	case len(c.ExtKeyUsage) != 0 || len(c.UnknownExtKeyUsage) != 1 || !c.UnknownExtKeyUsage[0].Equal(oidPrecertSigning):
		err = errors.New("the extended key usage is not that of RFC 6962 section 3.1")
	case !c.IsCA || c.MaxPathLen != 0 || !c.MaxPathLenZero || c.KeyUsage != x509.KeyUsageCertSign:
		err = errors.New("the basic constraints or the key usage differ")
	case string(c.RawIssuer) != string(issuing.RawSubject) || string(c.AuthorityKeyId) != string(issuing.SubjectKeyId):
		err = errors.New("the issuer differs")
	case string(c.RawSubject) == string(issuing.RawSubject) || len(c.SubjectKeyId) == 0:
		err = errors.New("the subject is that of the issuer, or has no key identifier")
	case c.NotAfter.After(issuing.NotAfter) || c.NotAfter.Sub(c.NotBefore) > precertIssuerLife+MaxBackdate+time.Second:
		err = errOutlivesChain
	}
	return c.RawTBSCertificate, err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// throughPrecertIssuer has the precertificate of d signed by the precertificate signing certificate, with its name as
// the issuer. What the log signs stays the same: it names the issuer of the certificate (RFC 6962 §3.2).
func (a *Authority) throughPrecertIssuer(d *unsigned, now time.Time) error {
	s := a.precerts.signerAt(a, now)
	if s == nil {
		err := errors.New("the precertificate signing certificate has expired and cannot be renewed")
		return fault.New(fault.NotReady, err, "cause", err.Error())
	}
	names, err := d.want.identity.Marshal()
	if err != nil {
		return err
	}
	if err := d.want.lint(d.withoutSCTs, formWithoutSCTs); err != nil {
		return fmt.Errorf("lint: %w", err)
	}
	pre, err := tbs.New(tbs.Template{
		Serial: d.want.serial, SignatureAlgorithm: a.signer.algorithm, Issuer: s.cert.RawSubject,
		NotBefore: d.want.notBefore, NotAfter: d.want.notBefore.Add(Validity), SPKI: d.want.spki,
		SubjectKeyID: d.want.keyID, AuthorityKeyID: s.cert.SubjectKeyId, Identity: names,
	})
	if err != nil {
		return err
	}
	want := d.want
	want.issuing = s.cert
	d.toSign, d.precerts = pre.Precert(), s
	if err := want.lint(d.toSign, formPrecertificate); err != nil {
		return fmt.Errorf("lint: %w", err)
	}
	d.linted = nil // the certificate is linted with its SCTs; a precertificate is not released
	return nil
}

// correspond proves that the certificate corresponds to the precertificate.
func (d *unsigned) correspond(pre, final []byte, scts [][]byte) error {
	if d.precerts == nil {
		return tbs.Correspond(pre, final, scts)
	}
	return d.precerts.issuers.Correspond(pre, final, scts)
}

// explain adds to the error of a submission what the precertificate signing certificate may have to do with it.
func (s *precertSigner) explain(err error) error {
	if s == nil || !s.strict {
		return err
	}
	return fmt.Errorf("%w (ca.precert_issuer is set, and the issuing certificate has a path length of 0: a log that "+
		"checks path lengths refuses each precertificate; if every submission to it fails, remove precert_issuer)", err)
}

// signerAt returns the precertificate signing certificate for a request, nil if it is about to expire. It begins the
// renewal when that is due, and does not wait for it.
func (p *precertIssuer) signerAt(a *Authority, now time.Time) *precertSigner {
	s := p.current.Load()
	if p.due(s, now) && p.renewing.TryLock() {
		go func() {
			defer p.renewing.Unlock()
			p.renew(a)
		}()
	}
	if now.Add(Validity).After(s.cert.NotAfter) {
		return nil
	}
	return s
}

// due reports whether s is to be renewed now. A certificate that ends with the chain cannot be renewed.
func (p *precertIssuer) due(s *precertSigner, now time.Time) bool {
	if s.cert.NotAfter.Sub(now) > min(precertIssuerRenew, s.cert.NotAfter.Sub(s.cert.NotBefore)/3) {
		return false
	}
	f := p.failed.Load()
	return f == nil || now.Sub(f.at) >= precertIssuerRetry || now.Before(f.at)
}

// renew replaces the certificate and its key. Requests under way keep the old one.
func (p *precertIssuer) renew(a *Authority) {
	ctx, cancel := context.WithTimeout(context.Background(), precertIssuerSign)
	defer cancel()
	if !p.due(p.current.Load(), a.o.Now()) || !p.current.Load().cert.NotAfter.Before(a.to.Truncate(time.Second)) {
		return
	}
	next, err := a.newPrecertSigner(ctx)
	if err != nil {
		a.o.Logger.Error("the precertificate signing certificate was not renewed", "cause", err.Error())
		a.metrics.precertFailures.Inc()
		p.failed.Store(&failedRenewal{a.o.Now(), err})
		return
	}
	p.current.Store(next)
	p.failed.Store(nil)
	a.metrics.precertExpiry.Set(float64(next.cert.NotAfter.Unix()))
	a.o.Logger.Info("the precertificate signing certificate was renewed", "serial", next.cert.SerialNumber.Text(16),
		"not_after", next.cert.NotAfter.UTC().Format(time.RFC3339))
}

// health is h, or what is wrong with the precertificate signing certificate.
func (p *precertIssuer) health(h Health, now time.Time) Health {
	f := p.failed.Load()
	if f == nil {
		return h
	}
	left := p.current.Load().cert.NotAfter.Sub(now).Truncate(time.Second)
	switch {
	case left < Validity:
		return Health{Cause: fmt.Sprintf("the precertificate signing certificate has expired: %v", f.cause)}
	case left < precertIssuerWarn && h.Warning == "":
		h.Warning = fmt.Sprintf("the precertificate signing certificate expires in %s and was not renewed: %v",
			human.Duration(left), f.cause)
	}
	return h
}
