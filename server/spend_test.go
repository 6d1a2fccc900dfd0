package server_test

import (
	"context"
	"crypto/elliptic"
	"encoding/base64"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server/uses"
)

// counting makes the server count uses of tokens, as a process that has run for an hour.
func (w *fixture) counting() *uses.Local {
	began := time.Now()
	l, err := uses.Open(uses.Options{Elapsed: func() time.Duration { return time.Hour + time.Since(began) }})
	must(w.t, err)
	w.core.Uses = l
	w.srv.SetCore(w.core)
	return l
}

func budgetOf(most int) func(*oidc.IssuerConfig) {
	return func(c *oidc.IssuerConfig) { c.Type, c.CertificatesPerToken = "email", most }
}

// malleated returns another text of an ES256 token with a valid signature: (r, n-s) for (r, s).
func malleated(t *testing.T, token string) string {
	t.Helper()
	at := strings.LastIndexByte(token, '.') + 1
	sig, err := base64.RawURLEncoding.DecodeString(token[at:])
	must(t, err)
	s := new(big.Int).SetBytes(sig[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(sig[32:])
	return token[:at] + base64.RawURLEncoding.EncodeToString(sig)
}

func reasonOf(err error) (string, map[string]string) {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason(), info.GetMetadata()
		}
	}
	return "", nil
}

// D20: however often one token is used at once, over each transport and with each valid signature, it gets exactly as
// many certificates as its entry allows. Others are refused with a status that no client repeats.
func TestTokenBudget(t *testing.T) {
	t.Parallel()
	const most = 3
	w := newFixtureWith(t, false, budgetOf(most))
	l := w.counting()
	token := w.idp.Token(map[string]any{"jti": "one"})
	texts := []string{token, malleated(t, token)}
	var mu sync.Mutex
	issued, replayed := 0, 0
	var wg sync.WaitGroup
	for n := range 16 {
		wg.Go(func() {
			for range 10 {
				var ok bool
				if text := texts[n%2]; n%4 < 2 {
					a := w.rest(http.MethodPost, "/api/v2/signingCert", w.body(text))
					ok = a.code == http.StatusOK
					if !ok && (a.code != http.StatusForbidden || a.header.Get("Retry-After") != "" ||
						a.status.Details[0].Reason != "TOKEN_REPLAYED" ||
						a.status.Details[0].Metadata["limit"] != "3") {
						t.Errorf("%+v", a)
					}
				} else {
					_, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(text))
					ok = err == nil
					if reason, _ := reasonOf(err); !ok && (reason != "TOKEN_REPLAYED" ||
						status.Code(err) != codes.PermissionDenied) {
						t.Error(err)
					}
				}
				mu.Lock()
				if ok {
					issued++
				} else {
					replayed++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if issued != most || replayed != 160-most {
		t.Errorf("%d certificates and %d refusals", issued, replayed)
	}
	if n, _ := l.Tokens(); n != 1 {
		t.Errorf("%d tokens are counted", n)
	}
	_, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(w.idp.Token(map[string]any{"jti": "two"})))
	must(t, err)
	metrics := w.metrics()
	for _, line := range []string{
		`mayfly_token_uses_total{entry="` + w.idp.URL() + `",result="counted"} 4`,
		`mayfly_token_uses_total{entry="` + w.idp.URL() + `",result="replayed"} 157`,
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("no %s", line)
		}
	}
}

// D20: a token in another serialization is refused without a use, and one with white space, where it is accepted, is
// the same token.
func TestTokenBudgetSerializations(t *testing.T) {
	t.Parallel()
	w := newFixtureWith(t, false,
		func(c *oidc.IssuerConfig) { c.Type, c.SingleUse, c.Compat = "email", true, "fulcio" })
	w.counting()
	token := w.idp.Token(nil)
	parts := strings.Split(token, ".")
	for name, text := range map[string]string{
		"padded":   token + "==",
		"reformed": parts[0] + "." + parts[1] + "=." + parts[2],
		"JSON": `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + parts[2] +
			`"}`,
		"header": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256"}`)) + "." + parts[1] + "." + parts[2],
	} {
		if _, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(text)); status.Code(err) !=
			codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(token+"\n"))
	must(t, err)
	for _, text := range []string{token, " " + token, malleated(t, token) + "\n"} {
		_, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(text))
		if reason, _ := reasonOf(err); reason != string(fault.TokenReplayed) {
			t.Errorf("%v", err)
		}
	}
	_, err = w.grpc.CreateSigningCertificate(t.Context(), w.message(w.idp.Token(map[string]any{"iat": nil})))
	if reason, meta := reasonOf(err); reason != string(fault.ClaimMissing) || meta["claim"] != "iat" {
		t.Errorf("without iat: %v", err)
	}
}

// D20 // G4: a request that is refused for its key, its proof or its identity is no use of the token. One that fails at
// the journal is, and the client learns it. Refusals are in the journal.
func TestTokenBudgetFailures(t *testing.T) {
	t.Parallel()
	w := newFixtureWith(t, false, budgetOf(1))
	w.counting()
	token := w.idp.Token(map[string]any{"jti": "one"})
	path, stop := w.journal(journal.Options{})
	bad := w.message(token)
	bad.GetPublicKeyRequest().ProofOfPossession = w.proof("mallory@example.com")
	if _, err := w.grpc.CreateSigningCertificate(t.Context(), bad); status.Code(err) != codes.InvalidArgument {
		t.Fatal(err)
	}
	_, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(token))
	must(t, err)
	_, err = w.grpc.CreateSigningCertificate(t.Context(), w.message(token))
	if reason, meta := reasonOf(err); reason != string(fault.TokenReplayed) || meta["token_use"] != "" {
		t.Errorf("%v, %v", err, meta)
	}
	denied := false
	for _, e := range stop(2) {
		denied = denied || e.Kind == journal.Outcome && e.Result == journal.Denied &&
			e.Reason == string(fault.TokenReplayed) && e.Subject == "subject-1" && e.Serial == ""
	}
	if !denied {
		t.Errorf("the refusal is not in %s", filepath.Base(path))
	}
	// The journal is closed now.
	token = w.idp.Token(map[string]any{"jti": "two"})
	_, err = w.grpc.CreateSigningCertificate(t.Context(), w.message(token))
	if reason, meta := reasonOf(err); reason != string(fault.JournalUnavailable) || meta["token_use"] != "counted" {
		t.Errorf("%v, %v", err, meta)
	}
	a := w.rest(http.MethodPost, "/api/v2/signingCert", w.body(token))
	if a.code != http.StatusForbidden || a.status.Details[0].Reason != string(fault.TokenReplayed) {
		t.Errorf("%+v", a)
	}
	if strings.Contains(w.logs.String(), strings.Split(token, ".")[1]) {
		t.Error("the token is in the log")
	}
}

// D20: where uses must be counted and nothing counts, no certificate is issued.
func TestTokenBudgetWithoutCounter(t *testing.T) {
	t.Parallel()
	w := newFixtureWith(t, false, budgetOf(1))
	_, err := w.grpc.CreateSigningCertificate(context.Background(), w.message(w.idp.Token(nil)))
	if reason, _ := reasonOf(err); reason != string(fault.BudgetUnavailable) || status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}
