package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/tbs"
)

// panicking is a log with a defect.
type panicking struct{}

func (panicking) Submit(context.Context, tbs.Precertificate) ([][]byte, error) { panic("canary") }

// F5 // F6 // G4: a panic during issuance gives a 500 without internal details over each transport; the journal records
// the signed request as failed, each pause is resumed, and no place in the admission is lost.
func TestPanics(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	var pausing atomic.Int64
	authority, err := ca.New(ca.Options{Chain: w.pki.Chain, Signer: w.pki.Key, Log: panicking{}, Pause: func() func() {
		pausing.Add(1)
		resume := w.admission.Pause()
		return func() { pausing.Add(-1); resume() }
	}})
	must(t, err)
	w.core.Authority = authority
	_, stop := w.journal(journal.Options{})
	v1, err := json.Marshal(map[string]any{
		"publicKey":          map[string]any{"content": w.spki()},
		"signedEmailAddress": w.proof("alice@example.com"),
	})
	must(t, err)
	const rounds = capacity/3 + 2 // more than there are places
	for range rounds {
		token := w.idp.Token(nil)
		for _, a := range []answer{
			w.rest(http.MethodPost, "/api/v2/signingCert", w.body(token)),
			w.rest(http.MethodPost, "/api/v1/signingCert", string(v1), "Authorization", "Bearer "+token),
		} {
			if a.code != http.StatusInternalServerError || a.status.Details[0].Reason != "INTERNAL" ||
				strings.Contains(a.body, "canary") {
				t.Fatalf("%d %s", a.code, a.body)
			}
		}
		if _, err := w.grpc.CreateSigningCertificate(t.Context(),
			w.message(token)); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "canary") {
			t.Fatal(err)
		}
	}
	if n := pausing.Load(); n != 0 {
		t.Errorf("%d requests pause", n)
	}
	for range capacity {
		must(t, w.admission.Acquire(t.Context()))
	}
	failed := 0
	for _, e := range stop(3 * rounds) {
		if e.Result == journal.Failed && e.Reason == "INTERNAL" && e.Signatures == 1 && e.Serial != "" {
			failed++
		}
	}
	if failed != 3*rounds {
		t.Errorf("%d failures are in the journal", failed)
	}
}

// breaking is a log that fills the disk of the journal.
type breaking struct {
	ca.Log
	full *atomic.Bool
}

func (b breaking) Submit(ctx context.Context, p tbs.Precertificate) ([][]byte, error) {
	defer b.full.Store(true)
	return b.Log.Submit(ctx, p)
}

// G4 // A2 // F6: if the journal fails between intent and outcome, no certificate is released, over any transport; once
// the journal can be written again, it records that the key has signed.
func TestJournalBreaksMidway(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	log, err := remote.Open(remote.Config{Name: "lab", URL: w.log.URL(), PublicKey: "-"},
		remote.Options{PublicKeyPEM: w.log.PublicKeyPEM()})
	must(t, err)
	t.Cleanup(log.Close)
	set, err := ctlog.New(ctlog.Options{Logs: []ctlog.Log{{Log: log.Log, Submitter: log}}})
	must(t, err)
	var full atomic.Bool
	w.core.Authority, err = ca.New(ca.Options{
		Chain: w.pki.Chain, Signer: w.pki.Key, Log: breaking{set, &full},
		Pause: w.admission.Pause,
	})
	must(t, err)
	path, stop := w.journal(journal.Options{Disk: func(f *os.File) journal.Disk { return switchable{f, &full} }})
	v1, err := json.Marshal(map[string]any{
		"publicKey":          map[string]any{"content": w.spki()},
		"signedEmailAddress": w.proof("alice@example.com"),
	})
	must(t, err)
	token := w.idp.Token(nil)
	rest := func(path, body string) string {
		a := w.rest(http.MethodPost, path, body, "Authorization", "Bearer "+token)
		if a.code != http.StatusServiceUnavailable {
			t.Errorf("%s: %d", path, a.code)
		}
		return a.body
	}
	for name, ask := range map[string]func() string{
		"v2": func() string { return rest("/api/v2/signingCert", w.body(token)) },
		"v1": func() string { return rest("/api/v1/signingCert", string(v1)) },
		"gRPC": func() string {
			out, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(token))
			if out != nil || err == nil {
				t.Error("issued")
			}
			return fmt.Sprint(status.Convert(err).Proto())
		},
	} {
		calls := w.log.Calls()
		for end := time.Now().Add(maxWait); w.log.Calls() == calls; { // until the journal has recovered
			if time.Now().After(end) {
				t.Fatalf("%s: no request comes as far as the log", name)
			}
			full.Store(false)
			text := ask()
			if !strings.Contains(text, "JOURNAL_UNAVAILABLE") || strings.Contains(text, "CERTIFICATE-----") ||
				strings.Contains(text, "space") || strings.Contains(text, path) {
				t.Errorf("%s: %s", name, text)
			}
		}
	}
	full.Store(false)
	signed := 0
	for _, e := range stop(6) {
		if e.Result == journal.Issued {
			t.Errorf("issued: %+v", e.Record)
		}
		if e.Result == journal.Failed && e.Signatures == 2 && e.Reason == "JOURNAL_UNAVAILABLE" {
			signed++
		}
	}
	if signed != 3 {
		t.Errorf("%d requests have signed", signed)
	}
}
