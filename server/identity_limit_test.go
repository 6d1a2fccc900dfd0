package server_test

import (
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/journal"
)

// F2: an identity that is refused repeatedly for what it sends is refused earlier, over each transport, and its denials
// take few journal records and few lines of the log. Other identities get their certificates, and it gets one again
// later.
func TestRepeatedRefusals(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	_, stop := w.journal(journal.Options{})
	bad := w.message(w.idp.Token(nil))
	bad.GetPublicKeyRequest().PublicKey.Content = "no key"
	body := strings.Replace(w.body(w.idp.Token(nil)), "BEGIN", "BEGUN", 1)
	const most = 2000 // a slow test gets twenty more a second
	requests, limited := 0, 0
	for limited < 300 && requests < 3*most {
		requests++
		if requests%2 == 0 {
			_, err := w.grpc.CreateSigningCertificate(t.Context(), bad)
			switch status.Code(err) {
			case codes.ResourceExhausted:
				limited++
			case codes.InvalidArgument:
			default:
				t.Fatal(err)
			}
			continue
		}
		switch a := w.rest(http.MethodPost, "/api/v2/signingCert", body); a.code {
		case http.StatusTooManyRequests:
			limited++
			if a.header.Get("Retry-After") == "" || a.status.Details[0].Reason != string(fault.RateLimited) {
				t.Fatalf("%+v", a)
			}
		case http.StatusBadRequest:
		default:
			t.Fatalf("%+v", a)
		}
	}
	if limited < 300 || requests < most {
		t.Fatalf("%d of %d requests were refused sooner", limited, requests)
	}
	bob := w.idp.Token(map[string]any{"email": "bob@example.com", "sub": "subject-2"})
	other := w.message(bob)
	other.GetPublicKeyRequest().ProofOfPossession = w.proof("bob@example.com")
	if _, err := w.grpc.CreateSigningCertificate(t.Context(), other); err != nil {
		t.Errorf("another identity: %v", err)
	}
	if lines := strings.Count(w.logs.String(), `"reason":"RATE_LIMITED"`); lines == 0 || lines > limited/4 {
		t.Errorf("%d lines of the log about %d refusals", lines, limited)
	}
	full, counted := 0, 0
	for _, e := range stop(2) {
		switch {
		case e.Kind == journal.Outcome && e.Result == journal.Denied:
			full++
		case e.Kind == journal.Dropped && e.Issuer == w.idp.URL() && e.Subject == "subject-1":
			counted += e.Count
		}
	}
	if full+counted != requests || full > 500 {
		t.Errorf("of %d refusals %d are written in full, and %d are counted", requests, full, counted)
	}
}
