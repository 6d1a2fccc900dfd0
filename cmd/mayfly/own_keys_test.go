package main

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// A12: no certificate is issued for a key of the CA: the keys of its chain, of a chain in ca.trust, of its logs, of the
// embedded log and of the timestamp authority. The key is checked before its proof, so the test needs no private key.
func TestOwnKeysAreRefused(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	p, former := pki.New(pki.Options{}), pki.New(pki.Options{})
	remote := ct.New(t, ct.Options{Roots: []*x509.Certificate{p.Root}})
	dir := t.TempDir()
	stamps, err := ca.NewHierarchy(ca.HierarchyOptions{Organization: "test", Now: time.Now(), Timestamping: true})
	if err != nil {
		t.Fatal(err)
	}
	stampKey, err := x509.MarshalPKCS8PrivateKey(stamps.Key)
	if err != nil {
		t.Fatal(err)
	}
	var stampChain []byte
	for _, c := range stamps.Chain {
		stampChain = append(stampChain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	for name, data := range map[string][]byte{
		"remote.pem": remote.PublicKeyPEM(), "former.pem": former.ChainPEM(), "tsa.pem": stampChain,
		"tsa.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: stampKey}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := process.Serve(t, process.Setup{
		PKI: p, Issuer: provider.URL(), Embedded: true,
		CA: fmt.Sprintf("  trust: [%q]\n", filepath.Join(dir, "former.pem")),
		More: fmt.Sprintf("  logs: [{name: remote, url: %q, public_key: %q}]\ntsa: {file: {chain: %q, key: %q}}\n",
			remote.URL(), filepath.Join(dir, "remote.pem"), filepath.Join(dir, "tsa.pem"),
			filepath.Join(dir, "tsa.key")),
	})
	embedded := s.Read(t, "log/log.pub.pem")
	blocks, err := pemfile.Decode(embedded)
	if err != nil || len(blocks) != 1 {
		t.Fatal(len(blocks), err)
	}
	embeddedKey, err := x509.ParsePKIXPublicKey(blocks[0].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	token := provider.Token(map[string]any{
		"sub": "alice@example.com", "email": "alice@example.com",
		"email_verified": true,
	})
	for name, c := range map[string]struct {
		key  crypto.PublicKey
		want string
	}{
		"issuing certificate":        {p.Intermediate.PublicKey, "KEY_WEAK"},
		"root":                       {p.Root.PublicKey, "KEY_WEAK"},
		"former issuing certificate": {former.Intermediate.PublicKey, "KEY_WEAK"},
		"remote log":                 {remote.Key(), "KEY_WEAK"},
		"embedded log":               {embeddedKey, "KEY_WEAK"},
		"timestamp authority":        {stamps.Key.Public(), "KEY_WEAK"},
		"an unrelated key":           {pki.NewKey(pki.P256).Public(), "PROOF_INVALID"},
	} {
		spki, err := x509.MarshalPKIXPublicKey(c.key)
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(map[string]any{
			"credentials": map[string]any{"oidcIdentityToken": token},
			"publicKeyRequest": map[string]any{
				"publicKey": map[string]any{"content": string(pem.EncodeToMemory(&pem.Block{
					Type:  "PUBLIC KEY",
					Bytes: spki,
				}))},
				"proofOfPossession": []byte("no proof"),
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Post("http://"+s.HTTP+"/api/v2/signingCert", "application/json", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(answer), c.want) {
			t.Errorf("%s: %d %s, want %s (%v)", name, resp.StatusCode, answer, c.want, err)
		}
	}
}
