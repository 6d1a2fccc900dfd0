package main

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/cmd/internal/clients"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/trust"
)

// In the trusted root the validity of the authority ended a day ago, as after a key compromise. A new certificate of
// the authority is refused.
func TestEndedAuthority(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	leaf, err := x509.ParseCertificate(p.Leaf(1, false))
	if err != nil {
		t.Fatal(err)
	}
	for end, good := range map[time.Duration]bool{-24 * time.Hour: false, time.Hour: true, 0: true} {
		a := trust.Authority{URL: "https://ca.example.com", Chain: p.Chain, From: time.Now().Add(-48 * time.Hour)}
		if end != 0 {
			a.To = time.Now().Add(end)
		}
		root, err := trust.Material{Authorities: []trust.Authority{a}}.TrustedRoot()
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "trusted_root.json")
		if err := os.WriteFile(name, root, 0o600); err != nil {
			t.Fatal(err)
		}
		trusted, err := clients.ReadTrustedRoot(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Verify([]*x509.Certificate{leaf}, trusted.ForClient(), time.Now()); (err == nil) != good {
			t.Errorf("an authority that ends in %s: %v", end, err)
		}
	}
}

// An unsupported entry of a trusted root is omitted with a warning. The RSA key of Sigstore's staging root is
// supported.
func TestPublishedRootOfAnotherProducer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := pki.New(pki.Options{})
	log := pki.NewKey(pki.P256).Public()
	m := trust.Material{
		Authorities: []trust.Authority{{
			URL: "https://ca.example.com", Chain: p.Chain,
			From: time.Now().Add(-time.Hour),
		}},
		Logs: []trust.Log{{Log: loglist.Log{
			URL: "https://ct.example.com", Key: log, Window: loglist.Window{NotBefore: time.Now().Add(-time.Hour)},
		}}},
	}
	data, err := m.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	entry := func(raw []byte, details string) map[string]any {
		return map[string]any{
			"baseUrl": "https://old.example.com", "hashAlgorithm": "SHA2_256", "logId": map[string]any{"keyId": "AAAA"},
			"publicKey": map[string]any{
				"rawBytes": base64.StdEncoding.EncodeToString(raw), "keyDetails": details,
				"validFor": map[string]any{"start": "2021-03-14T00:00:00Z"},
			},
		}
	}
	rsaKey := pki.NewKey(pki.RSA2048).Public().(*rsa.PublicKey)
	root["ctlogs"] = append(root["ctlogs"].([]any), entry(x509.MarshalPKCS1PublicKey(rsaKey), "PKCS1_RSA_PKCS1V5"),
		entry([]byte("x"), "TO_COME"))
	if data, err = json.Marshal(root); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"root.json": data, "chain.pem": p.ChainPEM(), "key.pem": p.KeyPEM(), "log.pem": pki.PublicPEM(log),
		"issuers.yaml": []byte("oidc-issuers:\n  https://idp.example.com: {client-id: sigstore, type: email}\n"),
		"mayfly.yaml": []byte("identity: {file: issuers.yaml}\nca: {file: {chain: chain.pem, key: key.pem}}\n" +
			"ct: {logs: [{name: lab, url: \"https://ct.example.com\", public_key: log.pem}], policy: " +
			"{trusted_root: root.json}}\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	status := run(t.Context(), []string{"config", "check", "--config", filepath.Join(dir, "mayfly.yaml")},
		cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
	if status != 0 || !strings.Contains(out.String(), "left out: ctlogs[2]") ||
		strings.Contains(out.String(), "ctlogs[1]") {
		t.Errorf("status %d, %s%s", status, out.String(), errs.String())
	}
}
