package server_test

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// idempotent makes retries idempotent, under a configuration with this digest.
func (w *fixture) idempotent(digest string) {
	w.core.IdempotentRetry, w.core.Digest = true, digest
	w.srv.SetCore(w.core)
}

// obtain returns the certificate that a token gets over gRPC.
func (w *fixture) obtain(token string) []byte {
	w.t.Helper()
	out, err := w.grpc.CreateSigningCertificate(w.t.Context(), w.message(token))
	if err != nil {
		w.t.Fatal(err, w.logs.String())
	}
	return leafOf(w.t, out.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates())
}

// A repeated request gets the same certificate over each transport, and costs no signature and no log entry.
func TestIdempotentRetry(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	_, stop := w.journal(journal.Options{})
	w.idempotent("abc")
	token := w.idp.Token(nil)
	first := w.obtain(token)
	if !bytes.Equal(first, w.obtain(token)) {
		t.Error("another certificate over gRPC")
	}
	a := w.rest(http.MethodPost, "/api/v2/signingCert", w.body(token))
	var v2 struct {
		Signed struct {
			Chain struct{ Certificates []string }
		} `json:"signedCertificateEmbeddedSct"`
	}
	must(t, json.Unmarshal([]byte(a.body), &v2))
	if a.code != http.StatusOK && a.code != http.StatusCreated || !bytes.Equal(first,
		leafOf(t, v2.Signed.Chain.Certificates)) {
		t.Errorf("another certificate over REST: %d", a.code)
	}
	if n := w.log.Calls(); n != 1 {
		t.Errorf("%d submissions", n)
	}
	if bytes.Equal(first, w.obtain(w.idp.Token(map[string]any{"jti": "another"}))) {
		t.Error("another token got the same certificate")
	}
	former := w.key
	w.key = pki.NewKey(pki.P256).(*ecdsa.PrivateKey)
	if bytes.Equal(first, w.obtain(token)) {
		t.Error("another key got the same certificate")
	}
	w.key = former
	w.idempotent("def")
	if bytes.Equal(first, w.obtain(token)) {
		t.Error("a certificate of the former configuration was returned")
	}
	repeated := 0
	for _, e := range stop(4 * 2) {
		if strings.Contains(string(e.Raw), token) {
			t.Error("the journal has a token")
		}
		if e.Kind != journal.Repeated {
			continue
		}
		repeated++
		if e.Certificate != sumOf(first) || e.SAN != "alice@example.com" || e.Serial == "" {
			t.Errorf("%+v", e.Record)
		}
	}
	if repeated != 2 {
		t.Errorf("%d records about repeated requests", repeated)
	}
}

// Without the setting, each request gets a certificate of its own, and the journal has none.
func TestRetryIsOff(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	_, stop := w.journal(journal.Options{})
	token := w.idp.Token(nil)
	if bytes.Equal(w.obtain(token), w.obtain(token)) {
		t.Error("the same certificate")
	}
	for _, e := range stop(4) {
		if e.DER != "" || e.Retry != "" {
			t.Errorf("%+v", e.Record)
		}
	}
}

// Requests with one token and key at the same time get one certificate; after a failure, the next one gets another
// chance.
func TestIdempotentRetryTogether(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	w.idempotent("abc")
	token := w.idp.Token(nil)
	w.log.SetFault(ct.Error400)
	if _, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(token)); err == nil {
		t.Fatal("a certificate without a log")
	}
	w.log.SetFault(ct.None)
	eventually(t, "the log is tried again", func() bool {
		_, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(token))
		return err == nil
	})
	before := w.log.Calls()
	other := w.idp.Token(map[string]any{"jti": "together"})
	var mu sync.Mutex
	got := map[string]int{}
	var all sync.WaitGroup
	for range capacity / 2 {
		all.Go(func() {
			out, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(other))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			got[out.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates()[0]]++
		})
	}
	all.Wait()
	if len(got) != 1 || w.log.Calls() != before+1 {
		t.Errorf("%d certificates, %d submissions", len(got), w.log.Calls()-before)
	}
}

// The certificates of the process before are found in its journal. One that this request could not have got is not
// returned: the journal is a file, and its content is checked as a certificate from anywhere else.
func TestIdempotentRetryAfterRestart(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	_, stop := w.journal(journal.Options{})
	w.idempotent("abc")
	token := w.idp.Token(nil)
	first := w.obtain(token)
	var outcome journal.Record
	for _, e := range stop(2) {
		if e.Retry != "" {
			outcome = e.Record
		}
	}

	stranger := newFixture(t, false) // another CA
	stranger.key = w.key
	w.core.Journal = nil // it is closed
	w.srv.SetCore(w.core)
	bob := w.idp.Token(map[string]any{"email": "bob@example.com"})
	out, err := w.grpc.CreateSigningCertificate(t.Context(), w.messageFor(bob, "bob@example.com"))
	must(t, err)
	bobs := leafOf(t, out.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates())
	former := w.key
	w.key = pki.NewKey(pki.P256).(*ecdsa.PrivateKey)
	otherKey := w.obtain(token)
	w.key = former
	for name, c := range map[string]struct {
		change func(*journal.Record)
		same   bool
	}{
		"as written":          {change: func(*journal.Record) {}, same: true},
		"too old":             {change: func(r *journal.Record) { r.Time = r.Time.Add(-6 * time.Minute) }},
		"other configuration": {change: func(r *journal.Record) { r.Config = "def" }},
		"of another CA": {change: func(r *journal.Record) {
			r.DER = base64.StdEncoding.EncodeToString(stranger.obtain(stranger.idp.Token(nil)))
		}},
		"of another key": {change: func(r *journal.Record) {
			r.DER = base64.StdEncoding.EncodeToString(otherKey)
		}},
		"of another identity": {change: func(r *journal.Record) { r.DER = base64.StdEncoding.EncodeToString(bobs) }},
		"one bit of the signature": {change: func(r *journal.Record) {
			der := bytes.Clone(first)
			der[len(der)-1] ^= 1
			r.DER = base64.StdEncoding.EncodeToString(der)
		}},
		"trailing bytes": {change: func(r *journal.Record) {
			r.DER = base64.StdEncoding.EncodeToString(append(bytes.Clone(first), 0))
		}},
		"no certificate": {change: func(r *journal.Record) { r.DER = "AAAA" }},
	} {
		srv, err := server.New(server.Options{Admission: w.admission})
		must(t, err)
		record := outcome
		c.change(&record)
		must(t, srv.Remember(&record))
		srv.SetCore(w.core)
		a := postTo(srv.HTTPHandler(), w.body(token))
		stored, err := base64.StdEncoding.DecodeString(record.DER)
		must(t, err)
		if got := strings.Contains(a, pemText(stored)); got != c.same || !strings.Contains(a, "BEGIN CERTIFICATE") {
			t.Errorf("%s: the certificate of the journal: %t\n%.200s", name, got, a)
		}
	}
	srv, err := server.New(server.Options{})
	must(t, err)
	for _, bad := range []journal.Record{{Retry: "xyz", DER: "AAAA"}, {Retry: outcome.Retry, DER: "*"}} {
		if srv.Remember(&bad) == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

// D20: a repeated request is no further use of a token with a budget; another key is.
func TestIdempotentRetryWithBudget(t *testing.T) {
	t.Parallel()
	w := newFixtureWith(t, false, budgetOf(1))
	w.counting()
	w.idempotent("abc")
	token := w.idp.Token(nil)
	first := w.obtain(token)
	if !bytes.Equal(first, w.obtain(token)) {
		t.Error("another certificate")
	}
	w.key = pki.NewKey(pki.P256).(*ecdsa.PrivateKey)
	_, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(token))
	if reason, _ := reasonOf(err); reason != "TOKEN_REPLAYED" {
		t.Errorf("another key: %v", err)
	}
}
