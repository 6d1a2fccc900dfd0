package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/tbs"
)

// Validity is the lifetime of every certificate, from notBefore to notAfter.
const Validity = 10 * time.Minute

const (
	minLeft    = 9 * time.Minute     // of its validity, which must be left when a certificate is released (A7)
	margin     = time.Minute         // minimum time between the end of a certificate and the end of its chain
	unreadyAt  = time.Hour           // time before the end of the chain at which the CA stops being ready
	warnBefore = 90 * 24 * time.Hour // time before the end of the chain at which readiness warns
)

// Log accepts precertificates.
type Log interface {
	// Submit returns the SCTs that the policy requires, at least one. Each is in TLS encoding (RFC 6962 §3.2) and
	// verified for this precertificate.
	Submit(ctx context.Context, p tbs.Precertificate) (scts [][]byte, err error)
}

// Intent describes what the CA is about to sign.
type Intent struct {
	Serial []byte // 20 octets, big-endian
	// TBS is the SHA-256 of the TBSCertificate without poison and SCT list, as it is in logs (RFC 6962 §3.2, PreCert).
	TBS [32]byte
	// IssuerKeyHash is the SHA-256 of the issuing certificate's SubjectPublicKeyInfo (ibid.).
	IssuerKeyHash [32]byte
	// Text says what is signed if it is neither a precertificate nor a certificate for a client.
	Text string
}

// Outcome is how an intent ended: with a certificate, with Err, or with neither (see [Authority.Canary]).
type Outcome struct {
	Serial      []byte   // serial number of the intent
	Certificate []byte   // DER; nil if there is none
	SCTs        [][]byte // the SCTs in the certificate, or of the canary's precertificate, in TLS encoding
	// Signatures is the number of calls of the CA's signer for this request. A failed call counts, because the signer
	// may have signed before it failed.
	Signatures int
	// Signed reports whether the CA's key or the key of the precertificate signing certificate may have signed.
	Signed bool
	Err    error
}

// Options for [New].
type Options struct {
	// Chain has the issuing certificate first and the root last; Signer holds the issuing key.
	Chain  []*x509.Certificate
	Signer crypto.Signer
	// Log accepts the precertificates. Nil means that certificates are issued without SCT.
	Log Log
	// Trust has further chains for the trust bundle.
	Trust [][]*x509.Certificate
	// Backdate is how far before now a certificate begins: 0 to [MaxBackdate].
	Backdate time.Duration
	// PrecertIssuer signs precertificates with a key in memory, which the CA's key certifies for that (RFC 6962 §3.1),
	// so that the CA's key signs once for each certificate. It has no effect without Log.
	PrecertIssuer bool
	// MLDSA permits a chain with ML-DSA keys (RFC 9881), which few verifiers know.
	MLDSA bool
	// Trial is called before each signature of the CA's key that is not for a client: the one that [New] makes, and one
	// for each precertificate signing certificate. Its error stops New, or the renewal. Optional.
	Trial func(context.Context, Intent) error
	// Signatures counts every call of Signer, including calls by other authorities that share the counter. Optional.
	Signatures *atomic.Int64
	// Ready is called before a certificate is built. Its error stops issuance, and the client gets its text. Optional.
	Ready func() error
	// Clock detects that the wall clock went back. Nil: a new one.
	Clock *Clock

	// Pause is called when a request begins to wait for a log, the journal or a signer outside this process. The
	// function that it returns is called when the request continues. Optional.
	Pause func() (resume func())

	Now    func() time.Time // nil: time.Now
	Rand   io.Reader        // nil: crypto/rand
	Logger *slog.Logger     // nil: none
}

// Authority issues certificates under one chain. It is immutable and safe for concurrent use.
type Authority struct {
	o        Options
	chain    []*x509.Certificate
	chainDER [][]byte
	keyHash  [32]byte // SHA-256 of the issuing certificate's SPKI
	from, to time.Time
	signer   *certSigner
	precerts *precertIssuer // nil: the CA's key signs precertificates
	replica  *replica
	tried    *x509.Certificate // the precertificate of the trial
	metrics  *metrics
}

// New checks chain and key and proves that they can issue (C9): it signs one precertificate for a reserved name, which
// is discarded, and runs the rest of the path with a temporary key. The error says which certificate is wrong, and why.
// If a setting is wrong, the error is a [fault.Setting] with the path "chain", "key", "trust", "backdate" or
// "precert_issuer".
func New(o Options) (*Authority, error) {
	o.defaults()
	if o.Backdate < 0 || o.Backdate > MaxBackdate {
		return nil, fault.BadSetting(fmt.Sprintf("backdate %s is out of range", o.Backdate),
			"write whole seconds from 0s to 40s", "backdate")
	}
	now := o.Now()
	if err := checkChain(o.Chain, now); err != nil {
		return nil, fault.BadSetting(err.Error(), "write a chain that may issue for code signing now", "chain")
	}
	if HasMLDSA(o.Chain) && !o.MLDSA {
		return nil, fault.BadSetting("the chain has ML-DSA keys (RFC 9881), which few verifiers know",
			"write experimental.mldsa_ca: true, or use a chain with ECDSA keys", "chain")
	}
	for i, chain := range o.Trust {
		if err := checkOrder(chain); err != nil {
			return nil, fault.BadSetting(err.Error(), "write one chain, issuing certificate first, root last",
				"trust", strconv.Itoa(i))
		}
	}
	if o.Signer == nil || !samePublicKey(o.Chain[0], o.Signer) {
		return nil, fault.BadSetting(fmt.Sprintf("the key is not the key of certificate 1 (%s)", name(o.Chain[0])),
			"write the key that belongs to the chain", "key")
	}
	a := &Authority{o: o, chain: o.Chain, keyHash: sha256.Sum256(o.Chain[0].RawSubjectPublicKeyInfo)}
	for _, c := range o.Chain {
		a.chainDER = append(a.chainDER, c.Raw)
	}
	a.from, a.to = window(o.Chain)
	a.metrics = newMetrics(a.to)
	var err error
	if a.signer, err = newCertSigner(o, a.metrics); err != nil {
		return nil, fault.BadSetting(err.Error(), "", "key")
	}
	if a.replica, err = newReplica(o.Chain, now); err != nil {
		return nil, err
	}
	if o.PrecertIssuer {
		if err := checkPrecertIssuer(o.Chain[0]); err != nil {
			return nil, err
		}
	}
	if err := a.trial(context.Background()); err != nil {
		return nil, fmt.Errorf("trial: %w", err)
	}
	if o.PrecertIssuer && o.Log != nil {
		if a.precerts, err = newPrecertIssuer(a); err != nil {
			return nil, fault.BadSetting(err.Error(), "", "precert_issuer")
		}
	}
	return a, nil
}

func (o *Options) defaults() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Pause == nil {
		o.Pause = func() func() { return func() {} }
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	if o.Clock == nil {
		o.Clock = NewClock(nil)
	}
	if o.Trial == nil {
		o.Trial = func(context.Context, Intent) error { return nil }
	}
	if o.Signatures == nil {
		o.Signatures = new(atomic.Int64)
	}
}

// HasMLDSA reports whether a certificate of a chain has an ML-DSA key (RFC 9881).
func HasMLDSA(chain []*x509.Certificate) bool {
	return slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return c.PublicKeyAlgorithm == x509.MLDSA })
}

// Chain returns the active chain, issuing certificate first, root last. It MUST NOT be changed.
func (a *Authority) Chain() []*x509.Certificate { return a.chain }

// Bundle returns every chain that a verifier may need, the active one first.
func (a *Authority) Bundle() [][]*x509.Certificate {
	return append([][]*x509.Certificate{a.chain}, a.o.Trust...)
}

// Health returns whether the authority can issue.
type Health struct {
	OK      bool
	Warning string // a problem that the operator should solve although the authority can issue
	Cause   string // why it cannot issue
}

// Health returns a warning near the end of the chain, and is not OK before issuance would fail (C7).
func (a *Authority) Health() Health {
	h := validity(a.from, a.to, a.o.Now())
	if h.OK && a.signer.hung() {
		return Health{Cause: "the signer does not answer"}
	}
	if h.OK && a.precerts != nil {
		h = a.precerts.health(h, a.o.Now())
	}
	return h
}

// ChainHealth is the part of [Authority.Health] about the validity of chain, at a given time.
func ChainHealth(chain []*x509.Certificate, now time.Time) Health {
	from, to := window(chain)
	return validity(from, to, now)
}

// WarnBefore returns how long before the end of a certificate there is a warning: 90 days, but at most a third of its
// life, so that one that is renewed every month is not warned of for its whole life.
func WarnBefore(life time.Duration) time.Duration { return min(warnBefore, life/3) }

func validity(from, to, now time.Time) Health {
	left := to.Sub(now).Truncate(time.Second)
	switch {
	case now.Before(from):
		return Health{Cause: "the chain is not valid before " + from.UTC().Format(time.RFC3339)}
	case left <= 0:
		return Health{Cause: "the chain expired at " + to.UTC().Format(time.RFC3339)}
	case left < unreadyAt:
		return Health{Cause: "the chain expires in " + human.Duration(left)}
	case left < WarnBefore(to.Sub(from)):
		return Health{OK: true, Warning: fmt.Sprintf("the chain expires in %s, at %s", human.Duration(left),
			to.UTC().Format(time.RFC3339))}
	}
	return Health{OK: true}
}

// errOutlivesChain means that a certificate would end after a CA certificate in its chain (A6).
var errOutlivesChain = errors.New("the certificate would outlive its chain")
