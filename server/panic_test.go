package server_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/tbs"
)

// panicking is a log with a defect.
type panicking struct{}

func (panicking) Submit(context.Context, tbs.Precertificate) ([][]byte, error) { panic("canary") }

// F5 // F6 // G4: a panic in the middle of issuance is a 500 without internals over each way to ask; the request that signed is in the
// journal as failed, it goes on as often as it paused, and it keeps no place in the gate.
func TestPanics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	var pausing atomic.Int64
	authority, err := ca.New(ca.Options{Chain: w.pki.Chain, Signer: w.pki.Key, Log: panicking{}, Pause: func() func() {
		pausing.Add(1)
		resume := w.gate.Pause()
		return func() { pausing.Add(-1); resume() }
	}})
	must(t, err)
	w.core.Authority = authority
	_, stop := w.journal(audit.Options{})
	v1, err := json.Marshal(map[string]any{"publicKey": map[string]any{"content": w.spki()}, "signedEmailAddress": w.proof("alice@example.com")})
	must(t, err)
	const rounds = gateSize/3 + 2 // more than the gate has places
	for range rounds {
		token := w.idp.Token(nil)
		for _, a := range []answer{
			w.rest(http.MethodPost, "/api/v2/signingCert", w.body(token)), w.rest(http.MethodPost, "/api/v1/signingCert", string(v1), "Authorization", "Bearer "+token),
		} {
			if a.code != http.StatusInternalServerError || a.status.Details[0].Reason != "INTERNAL" || strings.Contains(a.body, "canary") {
				t.Fatalf("%d %s", a.code, a.body)
			}
		}
		if _, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(token)); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "canary") {
			t.Fatal(err)
		}
	}
	if n := pausing.Load(); n != 0 {
		t.Errorf("%d requests pause", n)
	}
	for range gateSize {
		must(t, w.gate.Enter(t.Context()))
	}
	failed := 0
	for _, e := range stop(3 * rounds) {
		if e.Result == audit.Failed && e.Reason == "INTERNAL" && e.Signatures == 1 && e.Serial != "" {
			failed++
		}
	}
	if failed != 3*rounds {
		t.Errorf("%d failures are in the journal", failed)
	}
}
