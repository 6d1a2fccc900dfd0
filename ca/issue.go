package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/fips140"
	"crypto/sha1" //nolint:gosec // RFC 5280 §4.2.1.2 names keys by SHA-1; nothing rests on its strength
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/span"
	"github.com/mayfly-ca/mayfly/tbs"
)

// Request has the identity and the key to certify.
type Request struct {
	// Identity MUST NOT be changed before Issue has returned.
	Identity *identity.Identity
	// SPKI is the SubjectPublicKeyInfo, in DER, of the key whose possession was proved; PublicKey is the same key,
	// parsed.
	SPKI      []byte
	PublicKey crypto.PublicKey
	// Spend is called when the certificate is built and linted, before Intent. Its error stops the request and is
	// returned. Optional.
	Spend func(context.Context) error
	// Intent is called before the first signature, and its error stops the request. Outcome is called once for each
	// intent without error, before a certificate is released, and its error stops the release. Both are optional, and
	// neither may keep its argument.
	Intent  func(context.Context, Intent) error
	Outcome func(context.Context, Outcome) error
}

// Certificate is an issued certificate.
type Certificate struct {
	DER []byte
	// Chain has the issuing certificate first and the root last, in DER. It MUST NOT be changed.
	Chain [][]byte
	// Embedded reports whether the certificate contains SCTs.
	Embedded            bool
	SCTs                [][]byte // TLS encoding
	Serial              []byte   // big-endian
	NotBefore, NotAfter time.Time
}

// Issue makes one certificate. Its errors are [fault.Error] values.
func (a *Authority) Issue(ctx context.Context, r Request) (_ *Certificate, err error) {
	result := refused
	defer func() { a.metrics.results[result].Inc() }()
	d, err := a.prepare(ctx, r)
	if err != nil {
		return nil, err
	}
	if r.Spend != nil {
		if err := a.record(ctx, "token use", r.Spend); err != nil {
			return nil, err
		}
	}
	result = failed
	if err := a.recordIntent(ctx, r, d); err != nil {
		return nil, err
	}
	signatures, others, recorded := 0, 0, false // calls of the CA's key, and of the one for precertificates
	defer func() {
		if recorded {
			return
		}
		if err == nil {
			err = errors.New("a panic") // this is the stack frame above which the request continues
		}
		err = a.recordFailure(ctx, r, Outcome{
			Serial: d.want.serial, Signatures: signatures, Signed: signatures+others > 0, Err: err,
		})
	}()
	signed, err := a.signFirst(ctx, d, &signatures, &others)
	if err != nil {
		return nil, err
	}
	final, scts := signed, [][]byte(nil)
	if a.o.Log != nil {
		if final, scts, err = a.logAndSign(ctx, d, signed, &signatures); err != nil {
			result = orphaned
			return nil, err
		}
	}
	if err := a.release(ctx, d, final); err != nil {
		return nil, err
	}
	recorded = true
	// From here on, the end of the caller's context has no effect: the journal says that the certificate was issued.
	if err := a.recordOutcome(ctx, r, Outcome{
		Serial: d.want.serial, Certificate: final, SCTs: scts, Signatures: signatures, Signed: true,
	}); err != nil {
		return nil, fault.New(fault.JournalUnavailable, err)
	}
	result = succeeded
	return &Certificate{
		DER: final, Chain: a.chainDER, Embedded: a.o.Log != nil, SCTs: scts,
		Serial: d.want.serial, NotBefore: d.want.notBefore, NotAfter: d.want.notBefore.Add(Validity),
	}, nil
}

func (a *Authority) intent(d *unsigned) Intent {
	return Intent{Serial: d.want.serial, TBS: sha256.Sum256(d.withoutSCTs), IssuerKeyHash: a.keyHash}
}

// whilePaused calls f, which waits for a log, the journal or a count.
func (a *Authority) whilePaused(f func() error) error {
	defer a.o.Pause()()
	return f()
}

// record calls f, which writes to the journal or to the store of the uses of tokens.
func (a *Authority) record(ctx context.Context, name string, f func(context.Context) error) (err error) {
	ctx, step := span.Start(ctx, name)
	defer step.Done(&err)
	return a.whilePaused(func() error { return f(ctx) })
}

// recordIntent writes the intent of a request (G4). Its errors are [fault.Error] values.
func (a *Authority) recordIntent(ctx context.Context, r Request, d *unsigned) error {
	if r.Intent == nil {
		return nil
	}
	err := a.record(ctx, "journal intent", func(ctx context.Context) error { return r.Intent(ctx, a.intent(d)) })
	if err != nil {
		return journalError(ctx, err)
	}
	return nil
}

// recordOutcome writes the outcome of an intent, whether or not ctx has ended.
func (a *Authority) recordOutcome(ctx context.Context, r Request, o Outcome) error {
	if r.Outcome == nil {
		return nil
	}
	return a.record(context.WithoutCancel(ctx), "journal outcome", func(ctx context.Context) error {
		return r.Outcome(ctx, o)
	})
}

// journalError returns the error of a request whose intent was not written: the caller left, or the journal failed.
func journalError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	return fault.New(fault.JournalUnavailable, err)
}

// unsigned is a certificate before its first signature.
type unsigned struct {
	want        expectation
	tbs         tbs.TBS
	withoutSCTs []byte // the TBSCertificate as logs store it, with neither poison nor SCT list
	toSign      []byte // the TBSCertificate that is signed first: the precertificate's, if there is a log
	linted      []byte // the last TBSCertificate that has passed the lint; only this one is released
	// precerts signs the precertificate; nil: the CA's key does.
	precerts *precertSigner
}

// prepare builds the TBSCertificate once and lints it.
func (a *Authority) prepare(ctx context.Context, r Request) (_ *unsigned, err error) {
	_, step := span.Start(ctx, "build")
	defer step.Done(&err)
	start := time.Now()
	defer a.metrics.stage(ctx, stageBuild, start)
	now := a.o.Now()
	err = a.o.Ready()
	if err == nil {
		err = a.o.Clock.Check(now)
	}
	if err != nil {
		return nil, fault.New(fault.NotReady, err, "cause", err.Error())
	}
	notBefore, err := a.validity(now)
	if err != nil {
		return nil, fault.New(fault.NotReady, err, "cause",
			"the certificate authority's chain is about to expire or not yet valid")
	}
	a.o.Clock.Issued(now)
	serial, err := NewSerial(a.o.Rand)
	if err != nil {
		return nil, err
	}
	d, err := a.build(r, serial, notBefore)
	if err != nil {
		return nil, err
	}
	if a.precerts != nil {
		if err := a.throughPrecertIssuer(d, now); err != nil {
			return nil, err
		}
	}
	if err := a.replica.permits(d); err != nil {
		return nil, fault.New(fault.PolicyDenied, err, "rule",
			"the name constraints of the certificate authority's chain")
	}
	return d, nil
}

// validity returns the notBefore of a certificate that is issued now (A5).
func (a *Authority) validity(now time.Time) (notBefore time.Time, err error) {
	notBefore = now.Add(-a.o.Backdate)
	if notBefore.Before(a.from) {
		notBefore = a.from
	}
	if notBefore.After(now) {
		return notBefore, errors.New("the chain is not valid yet")
	}
	notBefore = notBefore.UTC().Truncate(time.Second)
	if notBefore.Before(a.from) {
		notBefore = a.from
	}
	if notBefore.Add(Validity).After(a.to) || a.to.Sub(now) < Validity+margin {
		return notBefore, errOutlivesChain
	}
	return notBefore, nil
}

func (a *Authority) build(r Request, serial []byte, notBefore time.Time) (*unsigned, error) {
	names, err := r.Identity.Marshal()
	if err != nil {
		var v *identity.ValueError
		if errors.As(err, &v) {
			return nil, fault.New(fault.ClaimInvalid, err, "claim", v.Field)
		}
		return nil, err
	}
	keyID, err := subjectKeyID(r.SPKI)
	if err != nil {
		return nil, fault.New(fault.KeyMalformed, err)
	}
	issuing := a.chain[0]
	d := &unsigned{want: expectation{
		serial: serial, notBefore: notBefore, spki: r.SPKI, keyID: keyID, identity: r.Identity, issuing: issuing,
		algorithm: a.signer.algorithm,
	}}
	d.tbs, err = tbs.New(tbs.Template{
		Serial: serial, SignatureAlgorithm: a.signer.algorithm, Issuer: issuing.RawSubject, NotBefore: notBefore,
		NotAfter: notBefore.Add(Validity),
		SPKI:     r.SPKI, SubjectKeyID: keyID, AuthorityKeyID: issuing.SubjectKeyId, Identity: names,
	})
	if err != nil {
		return nil, err
	}
	form := formPrecertificate
	if d.withoutSCTs, d.toSign = d.tbs.WithoutSCTList(), d.tbs.Precert(); a.o.Log == nil {
		form, d.toSign = formWithoutSCTs, d.withoutSCTs
	}
	if err := d.want.lint(d.toSign, form); err != nil {
		return nil, fmt.Errorf("lint: %w", err)
	}
	d.linted = d.toSign
	return d, nil
}

// signFirst signs the first TBSCertificate of a request. It adds the number of calls to ca if the CA's key signs, and
// to other if the key of the precertificate signing certificate does.
func (a *Authority) signFirst(ctx context.Context, d *unsigned, ca, other *int) (_ []byte, err error) {
	name := "sign precertificate"
	if a.o.Log == nil {
		name = signCertificate
	}
	ctx, step := span.Start(ctx, name)
	defer step.Done(&err)
	if d.precerts == nil {
		return a.signTBS(ctx, d.toSign, ca)
	}
	signature, err := d.precerts.signer.sign(ctx, d.toSign, other)
	if err != nil {
		return nil, err
	}
	return tbs.Certificate(d.toSign, a.signer.algorithm, signature)
}

// signCertificate is the name of the span of the signature of a certificate.
const signCertificate = "sign certificate"

// signLast signs the TBSCertificate with the SCTs.
func (a *Authority) signLast(ctx context.Context, raw []byte, n *int) (_ []byte, err error) {
	ctx, step := span.Start(ctx, signCertificate)
	defer step.Done(&err)
	return a.signTBS(ctx, raw, n)
}

// signTBS signs a TBSCertificate that has passed the lint. It adds the number of calls of the signer to n.
func (a *Authority) signTBS(ctx context.Context, raw []byte, n *int) ([]byte, error) {
	start := time.Now()
	defer a.metrics.stage(ctx, stageSign, start)
	signature, err := a.signer.sign(ctx, raw, n)
	if err != nil {
		return nil, err
	}
	return tbs.Certificate(raw, a.signer.algorithm, signature)
}

// logAndSign submits the precertificate to the logs and signs the certificate with their SCTs. It is not inlined, so
// that Issue needs less stack while it waits for the journal.
//
//go:noinline
func (a *Authority) logAndSign(ctx context.Context, d *unsigned, pre []byte, n *int) (final []byte,
	scts [][]byte, err error,
) {
	if scts, err = a.log(ctx, d, pre); err != nil {
		return nil, nil, err
	}
	raw, err := d.tbs.Final(scts)
	if err != nil {
		return nil, nil, err
	}
	if err := d.want.lint(raw, formWithSCTs); err != nil {
		return nil, nil, fmt.Errorf("lint: %w", err)
	}
	d.linted = raw
	if final, err = a.signLast(ctx, raw, n); err != nil {
		return nil, nil, err
	}
	if err := d.correspond(pre, final, scts); err != nil {
		return nil, nil, fmt.Errorf("correspond: %w", err)
	}
	return final, scts, nil
}

// log submits the precertificate to the logs and returns their SCTs.
func (a *Authority) log(ctx context.Context, d *unsigned, pre []byte) (scts [][]byte, err error) {
	start := time.Now()
	chain := a.chainDER
	if d.precerts != nil {
		chain = d.precerts.chain
	}
	scts, err = a.submit(ctx, tbs.Precertificate{
		DER: pre, Chain: chain, Entry: tbs.Entry{IssuerKeyHash: a.keyHash, TBS: d.withoutSCTs},
		NotBefore: d.want.notBefore, NotAfter: d.want.notBefore.Add(Validity),
	})
	a.metrics.stage(ctx, stageLog, start)
	if err != nil {
		return nil, d.precerts.explain(err)
	}
	if ctx.Err() != nil { // B12: the caller has left
		return nil, contextError(ctx)
	}
	return scts, nil
}

func (a *Authority) submit(ctx context.Context, p tbs.Precertificate) (scts [][]byte, err error) {
	ctx, step := span.Start(ctx, "log")
	defer step.Done(&err)
	err = a.whilePaused(func() error {
		scts, err = a.o.Log.Submit(ctx, p)
		return err
	})
	return scts, err
}

// release checks a finished certificate: its TBSCertificate is, byte for byte, the one that has passed the lint (A4),
// its signature verifies with the issuing key (C1), and enough of its validity is left (A7). The lint has parsed these
// bytes, so they are not parsed again; they are extracted from the certificate by code that is independent of the
// builder.
func (a *Authority) release(ctx context.Context, d *unsigned, final []byte) (err error) {
	_, step := span.Start(ctx, "release")
	defer step.Done(&err)
	start := time.Now()
	defer a.metrics.stage(ctx, stageVerify, start)
	c, err := tbs.Split(final)
	if err != nil {
		return err
	}
	if !bytes.Equal(c.TBS, d.linted) || !bytes.Equal(c.Algorithm, a.signer.algorithm) {
		return errors.New("the certificate differs from the TBSCertificate that passed the lint")
	}
	if err := a.chain[0].CheckSignature(a.signer.name, c.TBS, c.Signature); err != nil {
		return fault.New(fault.SignerUnavailable, fmt.Errorf("the signer's signature does not verify: %w", err))
	}
	if left := d.want.notBefore.Add(Validity).Sub(a.o.Now()); left < minLeft {
		return fault.New(fault.LogUnavailable, fmt.Errorf("only %s of the certificate's validity is left", left))
	}
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	return nil
}

// recordFailure records that an intent ended without a certificate, and returns the error for the client. If the
// journal fails, the result is the same: no certificate is released.
func (a *Authority) recordFailure(ctx context.Context, r Request, o Outcome) error {
	a.o.Logger.WarnContext(ctx, "no certificate was issued for an intent", "serial", fmt.Sprintf("%x", o.Serial),
		"signatures", o.Signatures, "cause", o.Err.Error())
	if err := a.recordOutcome(ctx, r, o); err != nil {
		a.o.Logger.ErrorContext(ctx, "the outcome was not written to the journal", "cause", err.Error())
	}
	return fault.From(o.Err)
}

// subjectKeyID is the SHA-1 of the subjectPublicKey bits (RFC 5280 §4.2.1.2 (1)). Where FIPS 140-3 is enforced, which
// does not approve SHA-1, it is the first 160 bits of their SHA-256 (RFC 7093 §2 method 1).
func subjectKeyID(spki []byte) ([]byte, error) {
	in := cryptobyte.String(spki)
	var seq cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !in.Empty() || !seq.SkipASN1(asn1.SEQUENCE) ||
		!seq.ReadASN1BitStringAsBytes(&bits) || !seq.Empty() {
		return nil, errors.New("not a DER SubjectPublicKeyInfo")
	}
	if fips140.Enforced() {
		sum := sha256.Sum256(bits)
		return sum[:20], nil
	}
	sum := sha1.Sum(bits) //nolint:gosec // as above
	return sum[:], nil
}

// NewSerial returns the serial number of a certificate: 20 octets of a positive integer of full length, of which 158
// bits are random (A8; RFC 5280 §4.1.2.2).
func NewSerial(random io.Reader) ([]byte, error) {
	serial := make([]byte, 20)
	if _, err := io.ReadFull(random, serial); err != nil {
		return nil, fmt.Errorf("read randomness for a serial number: %w", err)
	}
	serial[0] = serial[0]&0x3f | 0x40
	return serial, nil
}
