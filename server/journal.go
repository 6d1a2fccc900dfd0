package server

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/pop"
	"github.com/mayfly-ca/mayfly/tbs"
)

// journalEntry is what the journal records of one request: the same facts in the intent and in the outcome. It MUST NOT
// be given a token, a proof or a key.
type journalEntry struct {
	journal    *journal.Journal // nil: no journal
	facts      journal.Record
	signed     bool // a precertificate or a certificate was signed, or may have been
	hasOutcome bool // the outcome is in the journal, or may be
	// the digest by which a repeated request finds the certificate, or "" if retries are not idempotent
	retry string
}

// outcomeTime bounds the wait for an outcome. The wait continues after the end of the request's context.
const outcomeTime = 10 * time.Second

// errOutcomeTime means that the wait for an outcome has ended; the outcome may still be written.
var errOutcomeTime = fmt.Errorf("the outcome was not durable within %s", outcomeTime)

// setCore records the core that serves the request.
func (r *record) setCore(core *Core) {
	r.entry.journal, r.entry.facts.Config = core.Journal, core.Digest
}

func (a *journalEntry) decision(d *oidc.Decision) {
	f := &a.facts
	f.Issuer, f.Subject, f.SAN, f.Entry, f.Rule, f.ProviderKey = d.Identity.Issuer, d.Identity.Subject,
		d.Identity.SAN.Value, d.Entry, d.Rule, d.ProviderKey
	f.Repository = d.Identity.Extensions.Get(identity.SourceRepositoryURI)
}

func (a *journalEntry) key(k pop.Key) {
	if a.journal != nil {
		a.facts.Key, a.facts.KeyType = hexSum(k.SPKI), k.Algorithm
	}
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// journalled adds the two hooks of the journal to a request of the authority: before the precertificate is signed, and
// after the certificate is made.
func (r *record) journalled(req *ca.Request) {
	if r.entry.journal != nil {
		req.Intent, req.Outcome = r.intent, r.outcome
	}
}

// journalRecord returns a journal record of the request as it is now.
func (r *record) journalRecord(kind journal.Kind) journal.Record {
	e := r.entry.facts
	e.Kind, e.RequestID, e.Transport, e.Micros = kind, r.id, r.transport, time.Since(r.began).Microseconds()
	return e
}

func (r *record) intent(ctx context.Context, in ca.Intent) error {
	f := &r.entry.facts
	f.Serial, f.TBS, f.IssuerKey = fmt.Sprintf("%040x", in.Serial), hex.EncodeToString(in.TBS[:]),
		hex.EncodeToString(in.IssuerKeyHash[:])
	e := r.journalRecord(journal.Intent)
	return r.entry.journal.Append(ctx, &e)
}

// outcome writes that a certificate was issued. [record.refused] writes that none was, with the reason that the client
// gets.
func (r *record) outcome(ctx context.Context, o ca.Outcome) error {
	r.entry.facts.Signatures, r.entry.signed = o.Signatures, o.Signed
	if o.Err != nil {
		return nil
	}
	e := r.journalRecord(journal.Outcome)
	e.Result, e.Certificate = journal.Issued, hexSum(o.Certificate)
	if r.entry.retry != "" {
		e.Retry, e.DER = r.entry.retry, base64.StdEncoding.EncodeToString(o.Certificate)
	}
	for _, raw := range o.SCTs {
		s, err := tbs.ParseSCT(raw)
		if err != nil {
			return err
		}
		e.SCTs = append(e.SCTs, journal.SCT{
			Log: hex.EncodeToString(s.LogID[:]), Timestamp: s.Timestamp,
			Extensions: hex.EncodeToString(s.Extensions),
		})
	}
	ctx, cancel := context.WithTimeoutCause(ctx, outcomeTime, errOutcomeTime)
	defer cancel()
	err := r.entry.journal.Append(ctx, &e)
	// Not ctx.Err(): the journal may refuse the record at the moment at which the time ends, and then the record is not
	// written.
	r.entry.hasOutcome = err == nil || errors.Is(err, errOutcomeTime)
	return err
}

// repeated writes that a client got a certificate again. The outcome of the certificate is durable, so there is no wait
// for this record.
func (r *record) repeated(cert *ca.Certificate) {
	r.attrs = append(r.attrs, slog.Bool("repeated", true))
	if r.entry.journal == nil {
		return
	}
	e := r.journalRecord(journal.Repeated)
	e.Serial, e.Certificate = fmt.Sprintf("%040x", cert.Serial), hexSum(cert.DER)
	r.entry.journal.Note(&e)
}

// refused writes that a request ended without a certificate, and why. It does not wait for the record to be durable.
func (r *record) refused(f *fault.Error) {
	if r.entry.journal == nil || r.entry.hasOutcome {
		return
	}
	e := r.journalRecord(journal.Outcome)
	e.Result, e.Reason = journal.Denied, string(f.Reason)
	if r.entry.signed {
		e.Result = journal.Failed
	}
	r.entry.journal.Note(&e)
}
