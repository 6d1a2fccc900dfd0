package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/pop"
	"github.com/mayfly-ca/mayfly/tbs"
)

// account is what the journal says of one request: the same facts in the intent and in the outcome. It MUST NOT be given a
// token, a proof or a key.
type account struct {
	journal *journal.Journal // nil: none
	facts   journal.Record
	settled bool // the outcome is in the journal, or may be
}

// outcomeTime bounds the wait for an outcome, which the end of the request does not end.
const outcomeTime = 10 * time.Second

// errOutcomeTime is an outcome that was not waited for any longer: it may yet be written.
var errOutcomeTime = fmt.Errorf("the outcome was not durable within %s", outcomeTime)

// under notes the core that the request runs on.
func (r *record) under(core *Core) {
	r.account.journal, r.account.facts.Config = core.Journal, core.Digest
}

func (a *account) decision(d *oidc.Decision) {
	f := &a.facts
	f.Issuer, f.Subject, f.SAN, f.Entry, f.Rule, f.ProviderKey = d.Identity.Issuer, d.Identity.Subject, d.Identity.SAN.Value, d.Entry, d.Rule, d.ProviderKey
}

func (a *account) key(k pop.Key) {
	if a.journal != nil {
		a.facts.Key, a.facts.KeyType = hexSum(k.SPKI), k.Algorithm
	}
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// journalled gives a request the journal's two hooks: what is about to be signed, and how it ended.
func (r *record) journalled(req *ca.Request) {
	if r.account.journal != nil {
		req.Intent, req.Outcome = r.intent, r.outcome
	}
}

// entry is a record of the request as it is now.
func (r *record) entry(kind journal.Kind) journal.Record {
	e := r.account.facts
	e.Kind, e.RequestID, e.Transport, e.Micros = kind, r.id, r.transport, time.Since(r.began).Microseconds()
	return e
}

func (r *record) intent(ctx context.Context, in ca.Intent) error {
	f := &r.account.facts
	f.Serial, f.TBS, f.IssuerKey = fmt.Sprintf("%040x", in.Serial), hex.EncodeToString(in.TBS[:]), hex.EncodeToString(in.IssuerKeyHash[:])
	e := r.entry(journal.Intent)
	return r.account.journal.Append(ctx, &e)
}

// outcome writes that a certificate was issued. That none was is written by [record.refused], with the reason that the client
// gets; no certificate hangs on it.
func (r *record) outcome(ctx context.Context, o ca.Outcome) error {
	r.account.facts.Signatures = o.Signatures
	if o.Err != nil {
		return nil
	}
	e := r.entry(journal.Outcome)
	e.Result, e.Certificate = journal.Issued, hexSum(o.Certificate)
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
	err := r.account.journal.Append(ctx, &e)
	// Not ctx.Err(): the journal may refuse the record at the moment in which the time ends, and then it is not there.
	r.account.settled = err == nil || errors.Is(err, errOutcomeTime)
	return err
}

// refused writes that a request ended without a certificate, and why. Nobody waits for it.
func (r *record) refused(f *fault.Error) {
	if r.account.journal == nil || r.account.settled {
		return
	}
	e := r.entry(journal.Outcome)
	e.Result, e.Reason = journal.Denied, string(f.Reason)
	if e.Signatures > 0 {
		e.Result = journal.Failed
	}
	r.account.journal.Note(&e)
}
