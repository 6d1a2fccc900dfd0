package canary

import (
	"context"
	"crypto/mldsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/pop"
	"github.com/mayfly-ca/mayfly/tbs"
)

// The stages before those of [ca.Authority.Canary].
const (
	stageWait  = "wait"  // for a processor
	stageToken = "token" // make the token, verify it, map it to an identity
	stageProof = "proof" // prove the possession of the key
)

// Stages returns the stages of a run, in their order.
func Stages() []string {
	return []string{
		stageWait, stageToken, stageProof, string(ca.CanaryBuild), string(ca.CanaryIntent), string(ca.CanarySign),
		string(ca.CanaryLog), string(ca.CanaryOutcome),
	}
}

// The time for a run: up to the SCTs, and for the outcome in the journal.
const (
	pathTime    = 15 * time.Second
	outcomeTime = 5 * time.Second
)

// errTime is the cause if a run has exceeded its time.
var errTime = fault.New(fault.NotReady, fmt.Errorf("no answer within %s", pathTime), "cause",
	"the canary was too slow")

// path is the path of every subject and SAN of the canary below [oidc.ReservedIssuer].
const path = "/canary"

// transport stands in the journal for the way in which a request arrived.
const transport = "canary"

// Run is the result of one run, and the JSON object of the admin page /canary.
type Run struct {
	OK      bool      `json:"ok"`
	Began   time.Time `json:"began"` // UTC, seconds
	Seconds float64   `json:"seconds"`
	// Stage is the stage that failed, and Cause why.
	Stage  string `json:"stage,omitempty"`
	Cause  string `json:"cause,omitempty"`
	Serial string `json:"serial,omitempty"` // of the precertificate, 40 digits
	SCTs   int    `json:"scts"`             // the number of verified SCTs
	Stages []Took `json:"stages"`           // those that began, in their order
}

// Took is how long a stage took.
type Took struct {
	Stage   string  `json:"stage"`
	Seconds float64 `json:"seconds"`
}

// runner is one run.
type runner struct {
	canary  *Canary
	target  *Target
	out     *Run
	began   time.Time // of the current stage
	journal journal.Record
	signed  bool
	// intended: the journal may have the intent. ended: it has an outcome, or may have one.
	intended, ended bool
}

// begin ends the current stage and begins the next.
func (r *runner) begin(stage string) {
	r.end()
	r.began = r.canary.o.Now()
	r.out.Stages = append(r.out.Stages, Took{Stage: stage})
}

func (r *runner) end() {
	if n := len(r.out.Stages); n > 0 {
		r.out.Stages[n-1].Seconds = r.canary.o.Now().Sub(r.began).Seconds()
	}
}

// run makes one run. It does not return an error: a failure is a result.
func (c *Canary) run(ctx context.Context, t *Target) *Run {
	now := c.o.Now()
	r := &runner{canary: c, target: t, out: &Run{Began: now.UTC().Truncate(time.Second)}}
	ctx, cancel := context.WithTimeoutCause(ctx, pathTime, errTime)
	defer cancel()
	err := r.guarded(ctx)
	r.end()
	r.out.Seconds = c.o.Now().Sub(now).Seconds()
	if r.out.OK = err == nil; !r.out.OK {
		r.out.Stage, r.out.Cause = r.out.Stages[len(r.out.Stages)-1].Stage, err.Error()
		r.refused(fault.From(err))
	}
	return r.out
}

// guarded is path with a guard against panics.
func (r *runner) guarded(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.canary.o.Logger.ErrorContext(ctx, "the canary panicked", "panic", fmt.Sprint(p),
				"stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	r.begin(stageWait)
	defer r.canary.o.Compute()()
	return r.path(ctx)
}

// path is the path of a request (see create in package server) up to the SCTs.
func (r *runner) path(ctx context.Context) error {
	r.begin(stageToken)
	d, err := r.identify(ctx)
	if err != nil {
		return err
	}
	r.begin(stageProof)
	k, err := r.canary.key.forPolicy(r.target.Keys)
	if err != nil {
		return err
	}
	r.canary.key = k
	proof, err := k.prove(d.Identity.Challenge)
	if err != nil {
		return err
	}
	key, err := r.target.Keys.VerifySignature(proof)
	if err != nil {
		return err
	}
	r.facts(d, key)
	authority := r.target.Authority
	if _, is := key.Public.(*mldsa.PublicKey); is && r.target.MLDSA != nil {
		authority = r.target.MLDSA
	}
	request := ca.Request{Identity: &d.Identity, SPKI: key.SPKI, PublicKey: key.Public}
	if r.target.Journal != nil {
		request.Intent, request.Outcome = r.intent, r.outcome
	}
	made, err := authority.Canary(ctx, ca.CanaryRequest{
		Request: request, Begin: func(s ca.CanaryStage) { r.begin(string(s)) },
	})
	if err != nil {
		return err
	}
	r.out.Serial, r.out.SCTs = fmt.Sprintf("%040x", made.Serial), len(made.SCTs)
	return nil
}

// identify makes a token and verifies it.
func (r *runner) identify(ctx context.Context) (*oidc.Decision, error) {
	own, err := oidc.NewReserved(oidc.Options{Now: r.canary.o.Now})
	if err != nil {
		return nil, err
	}
	defer own.Close()
	token, err := own.Token(path)
	if err != nil {
		return nil, err
	}
	return own.Verifier().Identify(ctx, token)
}

// facts collects what the journal records in the intent and in the outcome.
func (r *runner) facts(d *oidc.Decision, key pop.Key) {
	sum := sha256.Sum256(key.SPKI)
	r.journal = journal.Record{
		Transport: transport, Config: r.target.Digest, Issuer: d.Identity.Issuer, Subject: d.Identity.Subject,
		SAN: d.Identity.SAN.Value, Entry: d.Entry, Rule: d.Rule, ProviderKey: d.ProviderKey,
		Key: hex.EncodeToString(sum[:]), KeyType: key.Algorithm,
	}
}

func (r *runner) record(kind journal.Kind) journal.Record {
	e := r.journal
	e.Kind, e.Micros = kind, r.canary.o.Now().Sub(r.out.Began).Microseconds()
	return e
}

func (r *runner) intent(ctx context.Context, in ca.Intent) error {
	r.journal.Serial, r.journal.TBS = fmt.Sprintf("%040x", in.Serial), hex.EncodeToString(in.TBS[:])
	r.journal.IssuerKey = hex.EncodeToString(in.IssuerKeyHash[:])
	r.intended = true
	e := r.record(journal.Intent)
	return r.target.Journal.Append(ctx, &e)
}

// errOutcomeTime means that the wait for the outcome has ended; the outcome may still be written.
var errOutcomeTime = fmt.Errorf("the outcome was not durable within %s", outcomeTime)

// outcome writes that the precertificate was signed and is in the logs. [runner.refused] writes that the run failed.
func (r *runner) outcome(ctx context.Context, o ca.Outcome) error {
	r.journal.Signatures, r.signed = o.Signatures, o.Signed
	if o.Err != nil {
		return nil
	}
	e := r.record(journal.Outcome)
	e.Result = journal.Canary
	for _, raw := range o.SCTs {
		s, err := tbs.ParseSCT(raw)
		if err != nil {
			return err
		}
		e.SCTs = append(e.SCTs, journal.SCT{
			Log: hex.EncodeToString(s.LogID[:]), Timestamp: s.Timestamp, Extensions: hex.EncodeToString(s.Extensions),
		})
	}
	ctx, cancel := context.WithTimeoutCause(ctx, outcomeTime, errOutcomeTime)
	defer cancel()
	err := r.target.Journal.Append(ctx, &e)
	r.ended = err == nil || errors.Is(err, errOutcomeTime)
	return err
}

// refused writes that the run failed after its intent. It does not wait for the record to be durable.
func (r *runner) refused(f *fault.Error) {
	if !r.intended || r.ended {
		return
	}
	e := r.record(journal.Outcome)
	e.Result, e.Reason = journal.Denied, string(f.Reason)
	if r.signed {
		e.Result = journal.Failed
	}
	r.target.Journal.Note(&e)
}
