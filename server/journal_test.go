package server_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/go-jose/go-jose/v4"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"google.golang.org/grpc/metadata"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/testkit/ct"
)

// journal adds a journal to the test server. It returns the path of the journal and a function that closes it.
func (w *fixture) journal(o journal.Options) (path string, stop func(signatures int) []journal.Entry) {
	w.t.Helper()
	path = filepath.Join(w.t.TempDir(), "journal.jsonl")
	j, err := journal.Open(journal.Config{File: path}, o)
	must(w.t, err)
	w.core.Journal = j
	w.srv.SetCore(w.core)
	return path, func(signatures int) (out []journal.Entry) {
		w.t.Helper()
		must(w.t, j.Close(context.Background(), signatures))
		_, findings, err := journal.Verify(path, journal.VerifyOptions{})
		must(w.t, err)
		for i := range findings {
			w.t.Error(&findings[i])
		}
		for e, err := range journal.Read(path, 0) {
			must(w.t, err)
			out = append(out, e)
		}
		return out
	}
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// G4: a certificate has an intent and an outcome with the right facts, over each transport.
func TestJournalOfCertificates(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	_, stop := w.journal(journal.Options{})
	var leaves [][]byte
	out, err := w.grpc.CreateSigningCertificate(metadata.AppendToOutgoingContext(t.Context(), "x-request-id",
		"of-grpc"), w.message(w.idp.Token(nil)))
	must(t, err)
	leaves = append(leaves, leafOf(t, out.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates()))
	a := w.rest(http.MethodPost, "/api/v2/signingCert", w.body(w.idp.Token(nil)), "X-Request-Id", "of-rest")
	var v2 struct {
		Signed struct {
			Chain struct{ Certificates []string }
		} `json:"signedCertificateEmbeddedSct"`
	}
	must(t, json.Unmarshal([]byte(a.body), &v2))
	leaves = append(leaves, leafOf(t, v2.Signed.Chain.Certificates))
	body, err := json.Marshal(map[string]any{
		"publicKey":          map[string]any{"content": w.spki()},
		"signedEmailAddress": w.proof("alice@example.com"),
	})
	must(t, err)
	a = w.rest(http.MethodPost, "/api/v1/signingCert", string(body), "Authorization", "Bearer "+w.idp.Token(nil),
		"X-Request-Id", "of-v1")
	block, _ := pem.Decode([]byte(a.body))
	leaves = append(leaves, block.Bytes)

	entries := stop(6)
	if len(entries) != 2+2*3 {
		t.Fatalf("%d records", len(entries))
	}
	key, _ := w.idp.Key()
	name, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
	must(t, err)
	for i, id := range []string{"of-grpc", "of-rest", "of-v1"} {
		intent, outcome := entries[1+2*i].Record, entries[2+2*i].Record
		c, err := x509.ParseCertificate(leaves[i])
		must(t, err)
		if intent.Kind != journal.Intent || outcome.Kind != journal.Outcome || outcome.Result != journal.Issued ||
			outcome.Signatures != 2 || outcome.Reason != "" {
			t.Errorf("%+v\n%+v", intent, outcome)
		}
		transport := map[string]string{"of-grpc": "grpc"}[id]
		if transport == "" {
			transport = "rest"
		}
		for _, r := range []journal.Record{intent, outcome} {
			for what, pair := range map[string][2]string{
				"request id": {r.RequestID, id}, "transport": {r.Transport, transport},
				"source": {r.Source, "127.0.0.1"}, "issuer": {r.Issuer, w.idp.URL()},
				"subject": {r.Subject, "subject-1"}, "san": {r.SAN, "alice@example.com"},
				"entry": {r.Entry, w.idp.URL()}, "config": {r.Config, "abc"},
				"provider key": {r.ProviderKey, base64.RawURLEncoding.EncodeToString(name)},
				"key":          {r.Key, sumOf(w.spki())}, "key type": {r.KeyType, "ecdsa-sha2-256-nistp256"},
				"issuer key": {r.IssuerKey, sumOf(w.pki.Chain[0].RawSubjectPublicKeyInfo)},
				"serial":     {r.Serial, fmt.Sprintf("%040x", c.SerialNumber)},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s: %s is %q, not %q", id, what, pair[0], pair[1])
				}
			}
			if r.Micros <= 0 {
				t.Errorf("%s: no time", id)
			}
		}
		spki, err := x509.MarshalPKIXPublicKey(w.log.Key())
		must(t, err)
		if outcome.Certificate != sumOf(leaves[i]) || len(outcome.SCTs) != 1 || outcome.SCTs[0].Log != sumOf(spki) ||
			outcome.SCTs[0].Timestamp == 0 {
			t.Errorf("%s: %+v", id, outcome)
		}
		// The log's entry for the precertificate (RFC 6962 §3.2), by independent code.
		pre, err := x509.ParseCertificate(w.log.Entries()[i])
		must(t, err)
		bare, err := ctx509.RemoveCTPoison(pre.RawTBSCertificate)
		must(t, err)
		if intent.TBS != sumOf(bare) || outcome.TBS != intent.TBS {
			t.Errorf("%s: the log's entry is not what was intended", id)
		}
	}
}

// D22 // C8 // F6: each refusal is one record with the client's reason, over each transport, and contains no token and
// no proof.
func TestJournalOfRefusals(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	path, stop := w.journal(journal.Options{})
	wrong := w.idp.Token(map[string]any{"aud": "other"})
	proof := base64.StdEncoding.EncodeToString(w.proof("bob@example.com"))
	for _, token := range []string{
		"", "canary-token", wrong,
		w.idp.Token(map[string]any{"email_verified": false, "sub": "canary-subject"}),
	} {
		reason := map[string]string{
			"": "TOKEN_MISSING", "canary-token": "TOKEN_MALFORMED",
			wrong: "AUDIENCE_MISMATCH",
		}[token]
		if reason == "" {
			reason = "EMAIL_UNVERIFIED"
		}
		func(id string) {
			if a := w.rest(http.MethodPost, "/api/v2/signingCert", w.body(token), "X-Request-Id",
				id+"-v2"); a.code != 400 {
				t.Errorf("%d %s", a.code, a.body)
			}
			body, err := json.Marshal(map[string]any{
				"publicKey":          map[string]any{"content": w.spki()},
				"signedEmailAddress": w.proof("alice@example.com"),
			})
			must(t, err)
			header := []string{"X-Request-Id", id + "-v1"}
			if token != "" {
				header = append(header, "Authorization", "Bearer "+token)
			}
			if a := w.rest(http.MethodPost, "/api/v1/signingCert", string(body), header...); a.code != 400 {
				t.Errorf("%d %s", a.code, a.body)
			}
			if _, err := w.grpc.CreateSigningCertificate(metadata.AppendToOutgoingContext(t.Context(), "x-request-id",
				id+"-grpc"), w.message(token)); err == nil {
				t.Error("issued")
			}
		}(reason)
	}
	good := w.idp.Token(nil)
	var in map[string]any
	must(t, json.Unmarshal([]byte(w.body(good)), &in))
	in["publicKeyRequest"].(map[string]any)["proofOfPossession"] = proof
	data, err := json.Marshal(in)
	must(t, err)
	w.rest(http.MethodPost, "/api/v2/signingCert", string(data), "X-Request-Id", "PROOF_INVALID-v2")
	w.log.SetFault(ct.Error500)
	w.rest(http.MethodPost, "/api/v2/signingCert", w.body(good), "X-Request-Id", "LOG_UNAVAILABLE-v2")
	w.rest(http.MethodGet, "/api/v2/trustBundle", "") // no decision

	entries := stop(1)
	raw, err := os.ReadFile(path)
	must(t, err)
	for _, secret := range []string{
		"canary-token", "canary-subject", wrong, good, proof,
		strings.Split(good, ".")[2], "PRIVATE",
	} {
		if strings.Contains(string(raw), secret) {
			t.Errorf("the journal holds %.40q", secret)
		}
	}
	seen := map[string]int{}
	for _, e := range entries[1 : len(entries)-1] {
		if e.Kind == journal.Intent {
			continue
		}
		reason, _, _ := strings.Cut(e.RequestID, "-")
		seen[e.RequestID]++
		want := journal.Denied
		if reason == "LOG_UNAVAILABLE" {
			want = journal.Failed
		}
		if e.Kind != journal.Outcome || e.Result != want || e.Reason != reason || e.Certificate != "" {
			t.Errorf("%+v", e.Record)
		}
		if failed := want == journal.Failed; failed != (e.Signatures == 1) || failed != (e.Serial != "") {
			t.Errorf("%+v", e.Record)
		}
	}
	if len(seen) != 4*3+2 {
		t.Errorf("%d requests have records: %v", len(seen), seen)
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s has %d outcomes", id, n)
		}
	}
}

// switchable is a disk that can be made full.
type switchable struct {
	file *os.File
	full *atomic.Bool
}

func (d switchable) Write(p []byte) (int, error) {
	if d.full.Load() {
		return 0, syscall.ENOSPC
	}
	return d.file.Write(p)
}

func (d switchable) Sync() error { return d.file.Sync() }

// G4: a journal that cannot be written means 503 and no signature; issuance continues when it can be written again.
func TestJournalUnavailable(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	var full atomic.Bool
	_, stop := w.journal(journal.Options{Disk: func(f *os.File) journal.Disk { return switchable{f, &full} }})
	full.Store(true)
	a := w.rest(http.MethodPost, "/api/v2/signingCert", w.body(w.idp.Token(nil)))
	if a.code != 503 || a.status.Details[0].Reason != "JOURNAL_UNAVAILABLE" || a.header.Get("Retry-After") == "" ||
		strings.Contains(a.body, "space") {
		t.Errorf("%d %s", a.code, a.body)
	}
	if n := len(w.log.Entries()); n != 0 {
		t.Errorf("%d precertificates in the log", n)
	}
	full.Store(false)
	eventually(t, "the journal is written again", func() bool {
		a = w.rest(http.MethodPost, "/api/v2/signingCert", w.body(w.idp.Token(nil)))
		return a.code != 503
	})
	if a.code != 200 {
		t.Errorf("%d %s", a.code, a.body)
	}
	entries := stop(2)
	refused, issued := 0, 0
	for _, e := range entries {
		switch {
		case e.Reason == "JOURNAL_UNAVAILABLE": // each, or a count of many
			refused++
		case e.Result == journal.Issued:
			issued++
		}
	}
	if issued != 1 || refused == 0 {
		t.Errorf("%d issued, %d records of refusals", issued, refused)
	}
}
