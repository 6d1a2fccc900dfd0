package ca_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// events are the recorded events, in order.
type events []string

func (e *events) add(s string) { *e = append(*e, s) }

// signNotifier is a signer that calls a function when it signs.
type signNotifier struct {
	*spy
	on func()
}

func (w signNotifier) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	w.on()
	return w.spy.Sign(r, digest, o)
}

// G4 // C9 // B12: the intent is durable before the first signature and the outcome before the release, whatever fails.
// The counts of signatures are those of the signer.
func TestJournalOrder(t *testing.T) {
	t.Parallel()
	refused := errors.New("disk full")
	for name, c := range map[string]struct {
		intent, outcome, log, signer error
		panics                       bool
		want                         events
		reason                       fault.Reason
		signatures                   int
	}{
		"issued":         {want: events{"intent", "sign", "submit", "sign", "outcome"}, signatures: 2},
		"intent refused": {intent: refused, want: events{"intent"}, reason: fault.JournalUnavailable},
		"outcome refused": {
			outcome: refused, want: events{"intent", "sign", "submit", "sign", "outcome"},
			reason: fault.JournalUnavailable, signatures: 2,
		},
		"log down": {
			log:  fault.New(fault.LogUnavailable, nil),
			want: events{"intent", "sign", "submit", "failed"}, reason: fault.LogUnavailable, signatures: 1,
		},
		"signer down": {
			signer: errors.New("no slot"), want: events{"intent", "sign", "failed"},
			reason: fault.SignerUnavailable, signatures: 1,
		},
		"a panic midway": {panics: true, want: events{"intent", "sign", "submit", "failed"}, signatures: 1},
		"outcome and more": {
			outcome: refused, log: fault.New(fault.LogUnavailable, nil),
			want: events{"intent", "sign", "submit", "failed"}, reason: fault.LogUnavailable, signatures: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pki.New(pki.Options{})
			var got events
			log := &stub{scts: oneSCT(t), err: c.log}
			log.now = func() {
				if got.add("submit"); c.panics {
					panic("canary")
				}
			}
			var total atomic.Int64
			var trial ca.Intent
			signer := signNotifier{&spy{Signer: p.Key}, func() { got.add("sign") }}
			a, err := ca.New(ca.Options{
				Chain: p.Chain, Signer: signer, Log: log, Signatures: &total,
				Trial: func(_ context.Context, in ca.Intent) error {
					got.add("trial")
					trial = in
					return nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(events{"trial", "sign"}, got); diff != "" || total.Load() != 1 ||
				len(trial.Serial) != 20 {
				t.Fatalf("%s %d", diff, total.Load())
			}
			got, signer.fail = nil, c.signer
			var intent ca.Intent
			var outcome ca.Outcome
			r := request(t, alice())
			r.Intent = func(_ context.Context, in ca.Intent) error {
				got.add("intent")
				intent = in
				return c.intent
			}
			r.Outcome = func(_ context.Context, o ca.Outcome) error {
				if outcome = o; o.Err != nil {
					got.add("failed")
				} else {
					got.add("outcome")
				}
				return c.outcome
			}
			cert, err := func() (out *ca.Certificate, err error) {
				defer func() {
					if p := recover(); p != nil {
						err = fault.New("", nil)
					}
				}()
				return a.Issue(t.Context(), r)
			}()
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if (cert != nil) != (name == "issued") || c.reason != "" && fault.From(err).Reason != c.reason {
				t.Errorf("certificate %t, %v", cert != nil, err)
			}
			if outcome.Signatures != c.signatures || total.Load() != int64(1+c.signatures) {
				t.Errorf("%d signatures, %d in all", outcome.Signatures, total.Load())
			}
			if len(log.got) > 0 {
				if e := log.got[0].Entry; intent.TBS != sha256.Sum256(e.TBS) ||
					intent.IssuerKeyHash != e.IssuerKeyHash {
					t.Error("the intent is not what the log got")
				}
			}
			if cert != nil && (!slices.Equal(outcome.Certificate, cert.DER) || len(outcome.SCTs) != 1 ||
				!slices.Equal(outcome.Serial, intent.Serial) || !slices.Equal(intent.Serial, cert.Serial)) {
				t.Errorf("outcome %+v", outcome)
			}
		})
	}
}

// C9: a trial that cannot be recorded is not performed.
func TestTrialRefused(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	signer := &spy{Signer: p.Key}
	_, err := ca.New(ca.Options{
		Chain: p.Chain, Signer: signer,
		Trial: func(context.Context, ca.Intent) error { return errors.New("disk full") },
	})
	if err == nil || len(signer.digests) != 0 {
		t.Errorf("%v, %d signatures", err, len(signer.digests))
	}
}

// G4 // A2: with a real journal, the intent is on disk when the signer is called, and the outcome is on disk when the
// certificate is returned.
func TestJournalOnDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j, err := journal.Open(journal.Config{File: path}, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	last := func() (kind journal.Kind) {
		for e, err := range journal.Read(path, 0) {
			if err != nil {
				t.Error(err)
			}
			kind = e.Kind
		}
		return kind
	}
	p := pki.New(pki.Options{})
	signing := func() {}
	a, err := ca.New(ca.Options{
		Chain: p.Chain, Signer: signNotifier{&spy{Signer: p.Key}, func() { signing() }},
		Log: &stub{scts: oneSCT(t)},
	})
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	signing = func() {
		if calls++; last() != journal.Intent {
			t.Error("it signs, and the intent is not on disk")
		}
	}
	r := request(t, alice())
	serial := ""
	r.Intent = func(ctx context.Context, in ca.Intent) error {
		serial = fmt.Sprintf("%x", in.Serial)
		return j.Append(ctx, &journal.Record{Kind: journal.Intent, Serial: serial})
	}
	r.Outcome = func(ctx context.Context, o ca.Outcome) error {
		return j.Append(ctx, &journal.Record{
			Kind: journal.Outcome, Result: journal.Issued, Serial: serial,
			Signatures: o.Signatures,
		})
	}
	if _, err := a.Issue(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if last() != journal.Outcome || calls != 2 {
		t.Errorf("%d signatures, and the last record is of kind %s", calls, last())
	}
	if err := j.Close(t.Context(), calls); err != nil {
		t.Error(err)
	}
	if _, findings, err := journal.Verify(path, journal.VerifyOptions{}); err != nil || len(findings) > 0 {
		t.Errorf("%v %v", findings, err)
	}
}
