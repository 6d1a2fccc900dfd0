package main

import (
	"bytes"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// A client that repeats its request gets the same certificate, also after the process was killed, and with one
// signature and one log entry fewer. The journals of the process before and after the kill agree with each other.
func TestRetryAfterKill(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: provider.URL(), Embedded: true,
		More: "audit: {file: journal.jsonl}\napi: {idempotent_retry: true}\n",
	})
	post := func(r process.Request) string {
		resp, err := http.Post("http://"+s.HTTP+"/api/v2/signingCert", "application/json", bytes.NewReader(r.JSON))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // read to the end
		body, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(body), "BEGIN CERTIFICATE") {
			t.Fatalf("%v %s", err, body)
		}
		return string(body)
	}
	requests := process.Requests(t, provider)
	first := post(requests[0])
	if post(requests[0]) != first {
		t.Error("another certificate before the kill")
	}
	path := filepath.Join(s.Dir, "journal.jsonl")
	count := func() (issued, repeated int) {
		t.Helper()
		for e, err := range journal.Read(path, 0) {
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case e.Result == journal.Issued:
				issued++
			case e.Kind == journal.Repeated:
				repeated++
			}
		}
		return issued, repeated
	}
	// Records of requests that were repeated are written in the background, as those of refusals are.
	s.Until(t, "recorded before the kill", func() bool { _, repeated := count(); return repeated == 1 })
	s.KillAndStart(t)
	if post(requests[0]) != first {
		t.Error("another certificate after the kill")
	}
	if post(requests[1]) == first {
		t.Error("another identity got the certificate")
	}
	s.Until(t, "recorded", func() bool { _, repeated := count(); return repeated == 2 })
	if issued, _ := count(); issued != 2 {
		t.Errorf("%d issued", issued)
	}
	if out, err := process.Mayfly(s.Dir, "audit", "verify", path); err != nil {
		t.Errorf("%v %s", err, out)
	}
	if out, err := process.Mayfly(s.Dir, "audit", "reconcile", "--config", "mayfly.yaml"); err != nil {
		t.Errorf("%v %s", err, out)
	}
}
