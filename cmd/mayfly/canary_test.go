package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/canary"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// post sends a request to the admin listener.
func (l *auditLab) post(path string, header http.Header) (string, int) {
	l.t.Helper()
	req, err := http.NewRequestWithContext(l.t.Context(), http.MethodPost, "http://"+l.admin+path, http.NoBody)
	if err != nil {
		l.t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if host := header.Get("Host"); host != "" {
		req.Host = host
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error(), 0
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return string(body), resp.StatusCode
}

// G6: a canary puts an entry into the log that journal and auditor account for, and the signatures are exact over a
// restart. Its issuer cannot be used from outside. A reload switches it off and on.
func TestCanary(t *testing.T) {
	t.Parallel()
	l := newAuditLab(t, false)
	file := filepath.Join(l.dir, "mayfly.yaml")
	plain, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	l.write("mayfly.yaml", append(plain, "canary: {interval: 24h}\n"...))
	l.start()
	l.issue(3)
	body, status := l.post("/canary", nil)
	var run canary.Run
	if err := json.Unmarshal([]byte(body), &run); err != nil || status != http.StatusOK || !run.OK || run.SCTs != 1 {
		t.Fatalf("status %d, %v, %s", status, err, body)
	}
	// A run of the schedule may be among them: the first one is within a minute of the start.
	l.process.Until(t, "in the log", func() bool { return treeSize(t, "http://"+l.process.HTTP) >= 4 })
	for what, header := range map[string]http.Header{
		"another origin":  {"Sec-Fetch-Site": {"cross-site"}},
		"an older origin": {"Origin": {"https://example.com"}},
		"another host":    {"Host": {"rebound.example.com"}},
	} {
		if body, status := l.post("/canary", header); status != http.StatusForbidden {
			t.Errorf("%s: status %d, %s", what, status, body)
		}
	}
	if page, _ := l.get("/metrics"); l.canaryRuns() == 0 ||
		!strings.Contains(page, `mayfly_canary_seconds_count{stage="log"} `) ||
		!strings.Contains(page, `mayfly_ca_certificates_total{result="success"} 3`) {
		t.Errorf("metrics:\n%s", page)
	}
	if page, _ := l.get("/readyz"); !strings.Contains(page, `"canary":{"ok":true`) {
		t.Errorf("readiness: %s", page)
	}
	l.refusesReserved()

	if kinds, status := l.reconcile(); status != 0 || len(kinds) != 0 {
		t.Errorf("reconcile: status %d, %v", status, kinds)
	}
	out, _, _ := l.mayfly("audit", "query", "--config", file, "--result", "canary")
	if !strings.Contains(out, run.Serial) || !strings.Contains(out, "https://canary.mayfly.invalid/canary") {
		t.Errorf("audit query: %s", out)
	}
	if out, _, _ := l.mayfly("audit", "tail", "--config", file); !strings.Contains(out, "canary") {
		t.Errorf("audit tail: %s", out)
	}

	l.write("mayfly.yaml", plain)
	l.process.Until(t, "off", func() bool {
		_, status := l.get("/canary")
		return status == http.StatusNotFound
	})
	if body, status := l.post("/canary", nil); status != http.StatusNotFound ||
		!strings.Contains(body, "canary: {interval: 1m}") {
		t.Errorf("off: status %d, %s", status, body)
	}
	l.end(syscall.SIGTERM)
	l.start()
	entries := treeSize(t, "http://"+l.process.HTTP)
	l.end(syscall.SIGTERM)
	out, stderr, status := l.mayfly("audit", "verify", "--config", file)
	if status != 0 || !strings.Contains(out, "3 issued, 0 failed") ||
		!strings.Contains(out, fmt.Sprintf(", %d canary,", entries-3)) {
		t.Errorf("audit verify: status %d, %s%s", status, out, stderr)
	}
	l.start()
	if kinds, status := l.reconcile(); status != 0 || len(kinds) != 0 {
		t.Errorf("reconcile after the restart: status %d, %v", status, kinds)
	}
	if page, _ := l.get("/readyz"); strings.Contains(page, "signatures_uncounted") {
		t.Errorf("readiness: %s", page)
	}
}

// canaryRuns returns the number of successful runs of the canary, from the metrics.
func (l *auditLab) canaryRuns() (n int) {
	l.t.Helper()
	page, _ := l.get("/metrics")
	const name = `mayfly_canary_runs_total{result="success"} `
	_, rest, found := strings.Cut(page, "\n"+name)
	if _, err := fmt.Sscan(rest, &n); !found || err != nil {
		l.t.Fatalf("no %s: %v", name, err)
	}
	return n
}

// refusesReserved sends a token of the canary's issuer.
func (l *auditLab) refusesReserved() {
	l.t.Helper()
	token := idp.Signing{Key: pki.NewKey(pki.P256), Alg: jose.ES256, KeyID: "k"}.Token(map[string]any{
		"iss": "https://canary.mayfly.invalid", "sub": "https://canary.mayfly.invalid/canary", "aud": "canary",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
	})
	body := fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q},"publicKeyRequest":{"publicKey":{"content":"x"},`+
		`"proofOfPossession":"eA=="}}`, token)
	resp, err := http.Post("http://"+l.process.HTTP+"/api/v2/signingCert", "application/json",
		bytes.NewReader([]byte(body)))
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Contains(text, []byte("ISSUER_NOT_TRUSTED")) {
		l.t.Errorf("a token of the canary's issuer: %v, %s", err, text)
	}
	resp, err = http.Get("http://" + l.process.HTTP + "/api/v2/configuration")
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || bytes.Contains(text, []byte("mayfly.invalid")) {
		l.t.Errorf("the configuration of the API: %v, %s", err, text)
	}
}
