package ca

import (
	"context"
	"errors"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tbs"
)

// CanaryStage is a part of [Authority.Canary]. It is a closed set.
type CanaryStage string

// The stages, in their order.
const (
	CanaryBuild   CanaryStage = "build"   // build and lint the precertificate
	CanaryIntent  CanaryStage = "intent"  // write the intent to the journal
	CanarySign    CanaryStage = "sign"    // sign the precertificate
	CanaryLog     CanaryStage = "log"     // submit the precertificate, and verify the SCTs
	CanaryOutcome CanaryStage = "outcome" // write the outcome to the journal
)

// CanaryRequest is a [Request] of which only the first half is carried out.
type CanaryRequest struct {
	Request
	// Begin is called when a stage begins.
	Begin func(CanaryStage)
}

// CanaryResult is what a canary has made.
type CanaryResult struct {
	Serial []byte
	SCTs   [][]byte // verified, in TLS encoding
}

// errNoLogs stops a canary before a signature: without a log, what is signed first is the certificate.
var errNoLogs = errors.New("the canary needs transparency logs, and certificates are issued without them")

// Canary takes the steps of [Authority.Issue] up to the verified SCTs, and ends there: one signature, over a
// precertificate, which the poison extension makes useless (RFC 6962 §3.1). It cannot make a certificate: before the
// signature it discards the only value from which the TBSCertificate with the SCTs can be built. The outcome of the
// intent has neither a certificate nor an error. Its errors are [fault.Error] values.
func (a *Authority) Canary(ctx context.Context, r CanaryRequest) (_ *CanaryResult, err error) {
	r.Begin(CanaryBuild)
	if a.o.Log == nil {
		return nil, fault.New(fault.NotReady, errNoLogs, "cause", errNoLogs.Error())
	}
	d, err := a.prepare(ctx, r.Request)
	if err != nil {
		return nil, fault.From(err)
	}
	d.tbs = tbs.TBS{}
	r.Begin(CanaryIntent)
	if err := a.recordIntent(ctx, r.Request, d); err != nil {
		return nil, err
	}
	signatures, others, recorded := 0, 0, false
	defer func() {
		if recorded {
			return
		}
		if err == nil {
			err = errors.New("a panic")
		}
		err = a.recordFailure(ctx, r.Request, Outcome{
			Serial: d.want.serial, Signatures: signatures, Signed: signatures+others > 0, Err: err,
		})
	}()
	r.Begin(CanarySign)
	pre, err := a.signFirst(ctx, d, &signatures, &others)
	if err != nil {
		return nil, err
	}
	r.Begin(CanaryLog)
	scts, err := a.log(ctx, d, pre)
	if err != nil {
		return nil, err
	}
	r.Begin(CanaryOutcome)
	recorded = true
	if err := a.recordOutcome(ctx, r.Request, Outcome{
		Serial: d.want.serial, SCTs: scts, Signatures: signatures, Signed: true,
	}); err != nil {
		return nil, fault.New(fault.JournalUnavailable, err)
	}
	return &CanaryResult{Serial: d.want.serial, SCTs: scts}, nil
}
