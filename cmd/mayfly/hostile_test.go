package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/cmd/internal/clients"
	"github.com/mayfly-ca/mayfly/fault"

	escape "github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/trust"
)

// hostile contains control characters, a bidirectional override and a line feed, and would print a line of its own.
const hostile = "x\x1b[2J\x1b[H\x1b[32m\r\nPAINTED " +
	"verified\u009b1m\u202e\u202a\u2067\u200b\u200e\u2028\ufeff\U000e0041\x7fz"

// harmless reports an error if an output can control a terminal or contains the line from hostile.
func harmless(t *testing.T, what, output string) {
	t.Helper()
	for line := range strings.Lines(output) {
		if r, hidden := escape.Hidden(strings.TrimSuffix(line, "\n")); hidden && r != '\t' {
			t.Errorf("%s: %U in %+q", what, r, line)
		}
		if strings.HasPrefix(line, "PAINTED") {
			t.Errorf("%s: the line from the untrusted text is printed: %q", what, line)
		}
	}
}

func hostileCertificate(t *testing.T) []byte {
	t.Helper()
	h, err := ca.NewHierarchy(ca.HierarchyOptions{Organization: "x", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := asn1.MarshalWithParams(hostile, "utf8")
	if err != nil {
		t.Fatal(err)
	}
	parent := *h.Chain[0]
	parent.RawSubject, parent.Subject = nil, pkix.Name{CommonName: hostile, Organization: []string{hostile}}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(9 * time.Minute),
		Subject:        pkix.Name{CommonName: hostile},
		EmailAddresses: []string{"x\x1b[2J\r\nPAINTED@example.com"},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: text},
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 24}, Value: text},
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 9}, Value: text},
			{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: text},
		},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, &parent, k.Public(), h.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Untrusted text is escaped in tables, errors and JSON, whether it is from a server, a certificate, a bundle, a token,
// a trusted root or a journal.
func TestHostileText(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		full := filepath.Join(dir, name)
		if err := os.WriteFile(full, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return full
	}
	certificate := hostileCertificate(t)
	claims := map[string]any{
		"iss": "https://idp.example.com", "aud": "sigstore", "sub": hostile, "email": hostile,
		"email_verified": true, hostile: hostile,
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
	}
	recorded, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	part := base64.RawURLEncoding.EncodeToString
	token := file("token", []byte(part([]byte(`{"alg":"RS256","kid":"`+"\\u001b[2J"+`"}`))+"."+part(recorded)+".c2ln"))
	issuers := file("issuers.yaml",
		[]byte("oidc-issuers:\n  https://idp.example.com: {client-id: sigstore, type: email}\n"))
	answers := map[string]func(w http.ResponseWriter){
		"refusal": func(w http.ResponseWriter) {
			w.Header().Set("X-Request-Id", "id\x7f")
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]any{"code": 3, "message": hostile, "details": []any{map[string]any{
				"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "AUDIENCE_MISMATCH", "domain": "mayfly",
				"metadata": map[string]string{"want": hostile, "got": hostile, "request_id": hostile},
			}}})
		},
		"no reason": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = io.WriteString(w, hostile)
		},
		"certificate": func(w http.ResponseWriter) {
			_ = json.NewEncoder(w).Encode(map[string]any{"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{"certificates": []string{string(certificate)}}}})
		},
		"no certificate": func(w http.ResponseWriter) {
			_ = json.NewEncoder(w).Encode(map[string]any{"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{"certificates": []string{hostile}}}})
		},
	}
	try := func(what string, args ...string) {
		t.Helper()
		var out, errs bytes.Buffer
		run(t.Context(), args, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
		harmless(t, what, out.String())
		harmless(t, what, errs.String())
		if out.Len()+errs.Len() == 0 {
			t.Errorf("%s printed nothing", what)
		}
	}
	for what, answer := range answers {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
		t.Cleanup(s.Close)
		for _, more := range [][]string{
			{"--insecure-skip-verify"},
			{"--insecure-skip-verify", "--json"},
			{"--insecure-skip-verify", "--identity", "alice@example.com"},
		} {
			try("request, "+what, append([]string{"request", "--url", s.URL, "--token-file", token, "--csr"},
				more...)...)
		}
	}
	cert := file("cert.pem", certificate)
	try("inspect", "inspect", cert)
	try("inspect --json", "inspect", "--json", cert)
	try("explain of claims", "config", "explain", "--identity", issuers, "--claims", file("claims.json", recorded))
	try("explain of a token", "config", "explain", "--identity", issuers, "--token", token)
	root := file("root.json", []byte(`{"mediaType":"x`+"\u202e"+`","certificateAuthorities":[]}`))
	bundle := file("bundle.json", []byte(`{"mediaType":"`+"\u202e\u200b\x7f"+`\u001b[2J\r\nPAINTED"}`))
	try("verify", "verify", bundle, "--trusted-root", root, "--artifact", token, "--identity", "a", "--issuer", "b")
	journal := filepath.Join(dir, "journal.jsonl")
	hostileJournal(t, journal)
	for _, verb := range []string{"query", "verify", "tail"} {
		for _, more := range [][]string{nil, {"--json"}} {
			try("audit "+verb, append([]string{"audit", verb, "--file", journal}, more...)...)
		}
	}
}

// hostileJournal writes a journal with a valid record and an invalid line.
func hostileJournal(t *testing.T, name string) {
	t.Helper()
	r := journal.Record{
		Kind: journal.Outcome, Time: time.Now(), Result: journal.Issued, SAN: hostile, Subject: hostile,
		Issuer: hostile, Serial: hostile, Text: hostile, Rule: hostile, Reason: hostile,
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(string(data)+"\n{\"kind\":\"\u202e\u200b\x7f"+"\"}\n"+"\x1b[2J\rPAINTED\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printRecords(&out, []journal.Record{r}); err != nil {
		t.Fatal(err)
	}
	harmless(t, "records", out.String())
}

// The values of a verified bundle are chosen by the signer, and the text of an error by the server. Both are escaped.
func TestHostileValues(t *testing.T) {
	t.Parallel()
	b, _ := pem.Decode(hostileCertificate(t))
	leaf, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	v := &trust.Verified{
		Leaf: leaf, Identity: hostile, Issuer: hostile, Statement: hostile,
		Times: []trust.Time{{Kind: hostile, Source: hostile, At: time.Now()}},
	}
	if err := clients.PrintVerified(&out, v, nil); err != nil {
		t.Fatal(err)
	}
	harmless(t, "verify", out.String())
	for r := range fault.Reasons() {
		e := &client.Error{Message: hostile, Reason: r, RequestID: hostile, Metadata: map[string]string{}}
		for _, key := range []string{"issuer", "got", "want", "seconds", "max", "alg", "claim", "rule", "cause"} {
			e.Metadata[key] = hostile
		}
		harmless(t, string(r), client.Explain(e))
		harmless(t, string(r), e.Error())
	}
	harmless(t, "a reason", client.Explain(&client.Error{Message: "m", Reason: fault.Reason(hostile)}))
}
