// Package tsa is a timestamp authority (RFC 3161): a digest goes in, and a signed statement of the time at which the
// authority received it comes out. With a timestamp, a signature still verifies after its certificate has expired.
//
// An authority MUST NOT sign a time that it has reason to doubt. It signs nothing while this machine's clock disagrees
// with time servers or with the sources that the caller knows ([Options].Ready), after the clock was set until its time
// is confirmed, and outside the validity of its chain. Serial numbers have 160 random bits, so that they do not repeat
// after a restart, a crash or the restoration of a backup. Each token is parsed, compared with the request and verified
// with the authority's certificate before it is returned.
package tsa

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"sync"
	"time"

	"github.com/digitorus/pkcs7"
	"github.com/digitorus/timestamp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
)

// Options are the options of [New].
type Options struct {
	// Chain has the certificate of the authority first and the root last.
	Chain []*x509.Certificate
	// Signer is the key of the first certificate. A key outside this process is a [*remote.Signer].
	Signer crypto.Signer
	// Ready returns why this machine's clock is wrong, or nil. Clients get the text. Nil: the clock is not compared.
	Ready func() error
	// Event is called when timestamps stop and when they begin again, with a short name and a text. Optional.
	Event func(name, text string)
	// Pause is called before a call of a key outside this process; its result is called after it. Optional.
	Pause  func() (resume func())
	Logger *slog.Logger // nil: none

	Now     func() time.Time     // nil: time.Now
	Elapsed func() time.Duration // a clock that is never set; nil: that of the system
}

// Authority signs timestamps. It is safe for concurrent use.
type Authority struct {
	policy   asn1.ObjectIdentifier
	accuracy time.Duration
	chain    []*x509.Certificate
	from, to time.Time // the validity of the chain
	key      crypto.Signer
	hash     crypto.Hash
	clock    clock
	ofSystem bool     // the clock is that of the system, which is also the signing time in tokens
	servers  *servers // nil: the clock is not compared with time servers
	ready    func() error
	event    func(name, text string)
	log      *slog.Logger
	pause    func() (resume func())
	metrics  *metrics

	mu      sync.Mutex
	stopped string // why the clock forbids timestamps; empty: it does not
}

// checkEvery is how often the clock is checked while nobody requests a timestamp.
const checkEvery = 5 * time.Second

// New returns an authority whose key and chain work: it makes a timestamp, verifies it and discards it. Its errors are
// [fault.Setting] values, about settings of c or about "chain" and "key" of the key backend.
func New(ctx context.Context, c Config, o Options) (*Authority, error) {
	ofSystem := o.Now == nil
	if ofSystem {
		o.Now = time.Now
	}
	if o.Elapsed == nil {
		o.Elapsed = elapsed
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Pause == nil {
		o.Pause = func() func() { return func() {} }
	}
	if o.Event == nil {
		o.Event = func(string, string) {}
	}
	if err := CheckChain(o.Chain, o.Now()); err != nil {
		return nil, fault.BadSetting(err.Error(), "write a chain of \"mayfly ca init --timestamping\"", "chain")
	}
	policy, err := parseOID(c.policy())
	if err != nil {
		return nil, err
	}
	a := &Authority{
		policy: policy, accuracy: c.accuracy(), chain: o.Chain, key: o.Signer,
		clock: clock{wall: o.Now, elapsed: o.Elapsed}, ready: o.Ready, event: o.Event,
		log: o.Logger, pause: o.Pause, ofSystem: ofSystem,
	}
	public, ok := o.Chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(o.Signer.Public()) {
		return nil, fault.BadSetting("the key is not that of the first certificate of the chain",
			"write the key and the chain that belong together", "key")
	}
	if a.hash, err = hashFor(o.Signer.Public()); err != nil {
		return nil, fault.BadSetting(err.Error(), "", "key")
	}
	a.from, a.to = o.Chain[0].NotBefore, o.Chain[0].NotAfter
	for _, one := range o.Chain {
		if one.NotBefore.After(a.from) {
			a.from = one.NotBefore
		}
		if one.NotAfter.Before(a.to) {
			a.to = one.NotAfter
		}
	}
	a.metrics = newMetrics(a)
	if a.servers, err = newServers(c.Clock, &a.clock, a.metrics); err != nil {
		return nil, err
	}
	trial := &timestamp.Request{
		HashAlgorithm: crypto.SHA256, HashedMessage: make([]byte, crypto.SHA256.Size()), Nonce: big.NewInt(1),
	}
	if _, err := a.sign(ctx, trial, o.Now()); err != nil {
		return nil, fault.BadSetting("the key cannot sign a timestamp: "+err.Error(), "", "key")
	}
	return a, nil
}

// Chain returns the certificate of the authority, then those above it, the root last.
func (a *Authority) Chain() []*x509.Certificate { return a.chain }

// Collectors returns the metrics.
func (a *Authority) Collectors() []prometheus.Collector { return a.metrics.all() }

// Health returns why the clock forbids timestamps, or nil.
func (a *Authority) Health() error {
	_, err := a.time()
	return err
}

// Warning describes the time servers that do not agree with this machine's clock, while the others are enough.
func (a *Authority) Warning() string { return a.servers.warning() }

// Run compares the clock with the time servers, and checks it at intervals, until ctx ends: a change of the clock is
// noticed while nobody requests a timestamp. With time servers, no timestamps are made before Run is called.
func (a *Authority) Run(ctx context.Context) {
	var comparing sync.WaitGroup
	defer comparing.Wait()
	comparing.Go(func() { a.servers.run(ctx) })
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		_ = a.Health() // the result is remembered, logged and measured
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// time returns the time that may be signed now.
func (a *Authority) time() (time.Time, error) {
	now, err := a.clock.now()
	var set *stepError
	switch {
	case errors.As(err, &set) && a.servers != nil:
		a.servers.soon()
		err = fmt.Errorf("%w, and the time servers have not confirmed its time yet", err)
	case errors.As(err, &set):
		err = fmt.Errorf("%w, and nothing confirms its time; timestamps are made again when the clock is set back, or "+
			"after a restart if the time is right", err)
	case err != nil:
	case now.Before(a.from):
		err = fmt.Errorf("this machine's clock (%s) is before the validity of the authority's chain, which begins at %s",
			now.UTC().Format(time.RFC3339), a.from.UTC().Format(time.RFC3339))
	case now.After(a.to):
		err = fmt.Errorf("the chain of the authority expired at %s", a.to.UTC().Format(time.RFC3339))
	default:
		if err = a.servers.problem(); err == nil && a.ready != nil {
			err = a.ready()
		}
	}
	if !errors.Is(err, errBusy) {
		a.changed(err)
	}
	return now, err
}

// changed records whether timestamps are made, and says so when that changes.
func (a *Authority) changed(err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	a.mu.Lock()
	was := a.stopped
	a.stopped = why
	a.mu.Unlock()
	switch {
	case was == "" && why != "":
		a.log.Error("no timestamps are made", "cause", why)
		a.event("timestamps-stopped", why)
	case was != "" && why == "":
		a.log.Info("timestamps are made again", "cause_before", was)
		a.event("timestamps-resumed", was)
	}
}

// stamp returns the response to a checked request, in DER. Its errors are [*refusal] values.
func (a *Authority) stamp(ctx context.Context, q *timestamp.Request) ([]byte, error) {
	now, err := a.time()
	if err != nil {
		text := err.Error()
		if s := (*serversError)(nil); errors.As(err, &s) {
			text = s.public
		}
		return nil, &refusal{
			timestamp.TimeNotAvailable, http.StatusServiceUnavailable, text, resultClock,
			fault.New(fault.NotReady, err, "cause", err.Error()),
		}
	}
	reply, err := a.sign(ctx, q, now)
	if err != nil {
		return nil, &refusal{
			timestamp.SystemFailure, http.StatusServiceUnavailable, "the authority cannot sign", resultFailed,
			fault.New(fault.SignerUnavailable, err),
		}
	}
	return reply, nil
}

// sign returns the response with a timestamp of a time, after it has verified it.
func (a *Authority) sign(ctx context.Context, q *timestamp.Request, at time.Time) ([]byte, error) {
	t := timestamp.Timestamp{
		HashAlgorithm: q.HashAlgorithm, HashedMessage: q.HashedMessage, Nonce: q.Nonce, Policy: a.policy,
		Time: at.UTC().Truncate(time.Second), Accuracy: a.accuracy, AddTSACertificate: q.Certificates,
	}
	key := a.key
	if r, ok := key.(*remote.Signer); ok {
		key = bound{r, ctx, a.pause} // of this request
	}
	reply, err := t.CreateResponseWithOpts(a.chain[0], key, a.hash)
	if err != nil {
		return nil, err
	}
	if err := a.verify(reply, &t); err != nil {
		return nil, fmt.Errorf("the timestamp that was made is wrong: %w", err)
	}
	return reply, nil
}

// verify checks that a response has a timestamp with the wanted content, signed by the authority's certificate.
func (a *Authority) verify(reply []byte, want *timestamp.Timestamp) error {
	got, err := timestamp.ParseResponse(reply)
	if err != nil {
		return err
	}
	token, err := pkcs7.Parse(got.RawToken)
	if err != nil {
		return err
	}
	token.Certificates = a.chain[:1] // a token has its certificate only if the request asks for it
	if err := token.Verify(); err != nil {
		return err
	}
	var signed time.Time
	if err := token.UnmarshalSignedAttribute(pkcs7.OIDAttributeSigningTime, &signed); err != nil {
		return fmt.Errorf("signing time: %w", err)
	}
	sameNonce := (got.Nonce == nil) == (want.Nonce == nil) && (got.Nonce == nil || got.Nonce.Cmp(want.Nonce) == 0)
	switch {
	case got.HashAlgorithm != want.HashAlgorithm || string(got.HashedMessage) != string(want.HashedMessage):
		return errors.New("the timestamp has another digest")
	case !got.Time.Equal(want.Time):
		return fmt.Errorf("its time is %s, not %s", got.Time, want.Time)
	case !got.Policy.Equal(want.Policy), !sameNonce, got.Accuracy != want.Accuracy:
		return errors.New("the timestamp has another policy, nonce or accuracy")
	case got.SerialNumber == nil || got.SerialNumber.Sign() <= 0:
		return errors.New("its serial number is not positive")
	case a.ofSystem && signed.Sub(got.Time).Abs() > a.accuracy+time.Second:
		return fmt.Errorf("its signing time is %s, but its time is %s", signed, got.Time)
	}
	return nil
}

// bound is a key outside this process during one request.
type bound struct {
	*remote.Signer

	ctx   context.Context //nolint:containedctx // crypto.Signer has no parameter for it; a value lives for one signature
	pause func() (resume func())
}

// Sign implements [crypto.Signer].
func (b bound) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	defer b.pause()()
	return b.SignContext(b.ctx, digest, opts)
}
