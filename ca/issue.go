package ca

import (
	"bytes"
	"context"
	"crypto"
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
	"github.com/mayfly-ca/mayfly/tbs"
)

// Request is what is certified.
type Request struct {
	// Identity MUST NOT be changed before Issue has returned.
	Identity *identity.Identity
	// SPKI is the DER SubjectPublicKeyInfo as the caller proved it; PublicKey is the same key, parsed.
	SPKI      []byte
	PublicKey crypto.PublicKey
	// Intent is called before the first signature, and its error stops the request. Outcome is called once for each intent that
	// was taken, before a certificate is released, and its error stops that. Nil is nobody. Neither may keep what it is given.
	Intent  func(context.Context, Intent) error
	Outcome func(context.Context, Outcome) error
}

// Certificate is an issued certificate.
type Certificate struct {
	DER []byte
	// Chain has the issuing certificate first and the root last, in DER. It MUST NOT be changed.
	Chain [][]byte
	// Embedded says whether SCTs are in the certificate.
	Embedded            bool
	SCTs                [][]byte // TLS encoding
	Serial              []byte   // big-endian
	NotBefore, NotAfter time.Time
}

// Issue makes one certificate. Its errors are [fault.Error] values.
func (a *Authority) Issue(ctx context.Context, r Request) (_ *Certificate, err error) {
	result := refused
	defer func() { a.metrics.results[result].Inc() }()
	d, err := a.draft(r)
	if err != nil {
		return nil, err
	}
	result = failed
	if r.Intent != nil { // G4
		if err := a.waiting(func() error { return r.Intent(ctx, a.intent(d)) }); err != nil {
			return nil, unwritten(ctx, err)
		}
	}
	signatures, settled := 0, false
	defer func() {
		if settled {
			return
		}
		if err == nil {
			err = errors.New("a panic") // it goes on behind this function
		}
		err = a.ended(ctx, r, Outcome{Serial: d.want.serial, Signatures: signatures, Err: err})
	}()
	first, err := a.seal(ctx, d.first, &signatures)
	if err != nil {
		return nil, err
	}
	final, scts := first, [][]byte(nil)
	if a.o.Log != nil {
		if final, scts, err = a.logged(ctx, d, first, &signatures); err != nil {
			result = orphaned
			return nil, err
		}
	}
	if err := a.release(ctx, d, final); err != nil {
		return nil, err
	}
	settled = true
	if r.Outcome != nil {
		// From here on the caller's leaving changes nothing: what the journal says is issued is given to whoever is there.
		o := Outcome{Serial: d.want.serial, Certificate: final, SCTs: scts, Signatures: signatures}
		if err := a.waiting(func() error { return r.Outcome(context.WithoutCancel(ctx), o) }); err != nil {
			return nil, fault.New(fault.JournalUnavailable, err)
		}
	}
	result = succeeded
	return &Certificate{
		DER: final, Chain: a.chainDER, Embedded: a.o.Log != nil, SCTs: scts,
		Serial: d.want.serial, NotBefore: d.want.notBefore, NotAfter: d.want.notBefore.Add(Validity),
	}, nil
}

func (a *Authority) intent(d *draft) Intent {
	return Intent{Serial: d.want.serial, TBS: sha256.Sum256(d.bare), IssuerKeyHash: a.keyHash}
}

// waiting calls f, which waits for somebody else.
func (a *Authority) waiting(f func() error) error {
	defer a.o.Pause()()
	return f()
}

// unwritten is an intent that was not written: because the caller left meanwhile, or because the journal cannot be written.
func unwritten(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	return fault.New(fault.JournalUnavailable, err)
}

// draft is a certificate before its first signature.
type draft struct {
	want  expectation
	tbs   tbs.TBS
	bare  []byte // the TBSCertificate as logs have it: neither poison nor SCT list
	first []byte // the TBSCertificate that is signed first
	last  []byte // the one that is released: it has passed the lint
}

// draft builds the TBSCertificate once and lints it.
func (a *Authority) draft(r Request) (*draft, error) {
	start := time.Now()
	defer a.metrics.stage(stageDraft, start)
	now := a.o.Now()
	err := a.o.Ready()
	if err == nil {
		err = a.o.Clock.Check(now)
	}
	if err != nil {
		return nil, fault.New(fault.NotReady, err, "cause", err.Error())
	}
	notBefore, err := a.validity(now)
	if err != nil {
		return nil, fault.New(fault.NotReady, err, "cause", "the certificate authority's chain is about to expire or not yet valid")
	}
	a.o.Clock.Issued(now)
	serial := make([]byte, 20)
	if _, err := io.ReadFull(a.o.Rand, serial); err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	serial[0] = serial[0]&0x3f | 0x40 // positive, 20 octets, 158 random bits (A8)
	d, err := a.build(r, serial, notBefore)
	if err != nil {
		return nil, err
	}
	if err := a.shadow.permits(d); err != nil {
		return nil, fault.New(fault.PolicyDenied, err, "rule", "the name constraints of the certificate authority's chain")
	}
	return d, nil
}

// validity returns when a certificate made now begins (A5).
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
		return notBefore, errOutlives
	}
	return notBefore, nil
}

func (a *Authority) build(r Request, serial []byte, notBefore time.Time) (*draft, error) {
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
	d := &draft{want: expectation{
		serial: serial, notBefore: notBefore, spki: r.SPKI, keyID: keyID, identity: r.Identity, issuing: issuing, algorithm: a.press.algorithm,
	}}
	d.tbs, err = tbs.New(tbs.Template{
		Serial: serial, SignatureAlgorithm: a.press.algorithm, Issuer: issuing.RawSubject, NotBefore: notBefore, NotAfter: notBefore.Add(Validity),
		SPKI: r.SPKI, SubjectKeyID: keyID, AuthorityKeyID: issuing.SubjectKeyId, Identity: names,
	})
	if err != nil {
		return nil, err
	}
	f := poisoned
	if d.bare, d.first = d.tbs.WithoutSCTList(), d.tbs.Precert(); a.o.Log == nil {
		f, d.first = bare, d.bare
	}
	if err := d.want.lint(d.first, f); err != nil {
		return nil, fmt.Errorf("lint: %w", err)
	}
	d.last = d.first
	return d, nil
}

// seal signs a linted TBSCertificate. It counts the calls of the signer in n.
func (a *Authority) seal(ctx context.Context, raw []byte, n *int) ([]byte, error) {
	start := time.Now()
	defer a.metrics.stage(stageSign, start)
	signature, err := a.press.sign(ctx, raw, n)
	if err != nil {
		return nil, err
	}
	return tbs.Certificate(raw, a.press.algorithm, signature)
}

// logged takes the precertificate to the logs and makes the certificate with their SCTs. What it needs of the stack is not Issue's.
//
//go:noinline
func (a *Authority) logged(ctx context.Context, d *draft, pre []byte, n *int) (final []byte, scts [][]byte, err error) {
	start := time.Now()
	scts, err = a.submit(ctx, tbs.Precertificate{
		DER: pre, Chain: a.chainDER, Entry: tbs.Entry{IssuerKeyHash: a.keyHash, TBS: d.bare},
		NotBefore: d.want.notBefore, NotAfter: d.want.notBefore.Add(Validity),
	})
	a.metrics.stage(stageLog, start)
	if err != nil {
		return nil, nil, err
	}
	if ctx.Err() != nil { // B12: nobody waits for it any more
		return nil, nil, ended(ctx)
	}
	raw, err := d.tbs.Final(scts)
	if err != nil {
		return nil, nil, err
	}
	if err := d.want.lint(raw, listed); err != nil {
		return nil, nil, fmt.Errorf("lint: %w", err)
	}
	d.last = raw
	if final, err = a.seal(ctx, raw, n); err != nil {
		return nil, nil, err
	}
	if err := tbs.Correspond(pre, final, scts); err != nil {
		return nil, nil, fmt.Errorf("correspond: %w", err)
	}
	return final, scts, nil
}

func (a *Authority) submit(ctx context.Context, p tbs.Precertificate) (scts [][]byte, err error) {
	err = a.waiting(func() error {
		scts, err = a.o.Log.Submit(ctx, p)
		return err
	})
	return scts, err
}

// release is the last look at a certificate: its TBSCertificate is, byte for byte, the one that has passed the lint (A4), its
// signature is the issuing key's (C1), and enough of its life is left (A7). What the lint found out by parsing (public key,
// validity, algorithm) is true of the same bytes, so that they are not parsed a second time; they are taken out of the finished
// certificate by other code than put them in.
func (a *Authority) release(ctx context.Context, d *draft, final []byte) error {
	start := time.Now()
	defer a.metrics.stage(stageVerify, start)
	c, err := tbs.Split(final)
	if err != nil {
		return err
	}
	if !bytes.Equal(c.TBS, d.last) || !bytes.Equal(c.Algorithm, a.press.algorithm) {
		return errors.New("the certificate is not what was linted")
	}
	if err := a.chain[0].CheckSignature(a.press.name, c.TBS, c.Signature); err != nil {
		return fault.New(fault.SignerUnavailable, fmt.Errorf("the signer's signature does not verify: %w", err))
	}
	if left := d.want.notBefore.Add(Validity).Sub(a.o.Now()); left < minLeft {
		return fault.New(fault.LogUnavailable, fmt.Errorf("only %s of the certificate's life is left", left))
	}
	if ctx.Err() != nil {
		return ended(ctx)
	}
	return nil
}

// ended tells that an intent came to nothing, and gives the error an owner. No certificate hangs on what the journal says to it.
func (a *Authority) ended(ctx context.Context, r Request, o Outcome) error {
	a.o.Logger.WarnContext(ctx, "no certificate for an intent", "serial", fmt.Sprintf("%x", o.Serial), "signatures", o.Signatures, "cause", o.Err.Error())
	if r.Outcome != nil {
		if err := a.waiting(func() error { return r.Outcome(context.WithoutCancel(ctx), o) }); err != nil {
			a.o.Logger.ErrorContext(ctx, "journal the outcome", "cause", err.Error())
		}
	}
	return fault.From(o.Err)
}

// subjectKeyID is the SHA-1 of the subjectPublicKey bits (RFC 5280 §4.2.1.2 (1)).
func subjectKeyID(spki []byte) ([]byte, error) {
	in := cryptobyte.String(spki)
	var seq cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !in.Empty() || !seq.SkipASN1(asn1.SEQUENCE) || !seq.ReadASN1BitStringAsBytes(&bits) || !seq.Empty() {
		return nil, errors.New("not a DER SubjectPublicKeyInfo")
	}
	sum := sha1.Sum(bits) //nolint:gosec // as above
	return sum[:], nil
}
