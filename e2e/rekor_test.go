package e2e_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// logSignature logs the signature of an artifact at a Rekor v2 log, with a new key, and returns the index and the tree
// size of the answer.
func (c embeddedCase) logSignature(url, artifact string) (index, size string) {
	c.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.Fatal(err)
	}
	digest := sha256.Sum256([]byte(artifact))
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		c.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		c.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"hashedRekordRequestV002": map[string]any{
		"digest": digest[:],
		"signature": map[string]any{"content": sig, "verifier": map[string]any{
			"publicKey": map[string]any{"rawBytes": spki}, "keyDetails": "PKIX_ECDSA_P256_SHA_256",
		}},
	}})
	if err != nil {
		c.Fatal(err)
	}
	req, err := http.NewRequestWithContext(c.Context(), http.MethodPost, url+"/api/v2/log/entries",
		bytes.NewReader(body))
	if err != nil {
		c.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var out struct {
		LogIndex       string
		InclusionProof struct{ TreeSize string }
	}
	if err != nil || resp.StatusCode != http.StatusCreated || json.Unmarshal(text, &out) != nil {
		c.Fatalf("%s: status %d: %s %v", artifact, resp.StatusCode, text, err)
	}
	return out.LogIndex, out.InclusionProof.TreeSize
}

// TestRekorMigration moves the log of signatures to a real rekor-tiles on the same files: the same key, the same
// origin, the same entries, and a tree that extends the last checkpoint that mayfly signed.
func TestRekorMigration(t *testing.T) {
	t.Parallel()
	c := newEmbeddedCase(t)
	ca := c.serve("  embedded: {dir: log, origin: " + embeddedOrigin + "}\n" +
		"rekor: {dir: rekor, origin: 127.0.0.1, admit: any}\n")
	for i := range 5 {
		if index, _ := c.logSignature(ca.URL, fmt.Sprint("artifact ", i)); index != fmt.Sprint(i) &&
			(i > 0 || index != "") {
			t.Errorf("index %q of entry %d", index, i)
		}
	}
	dir := ca.Dir + "/rekor"
	ca.Stop()
	fsck := []string{"log", "fsck", "--log", "rekor", "--dir", dir}
	c.Run(lab.Command{Name: "mayfly", Args: fsck})
	lines := strings.Split(c.Read(dir+"/checkpoint"), "\n")
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || lines[0] != "127.0.0.1" || lines[1] != "5" {
		t.Fatalf("checkpoint %q: %v", lines, err)
	}

	address := c.Address()
	host, port, _ := strings.Cut(address, ":")
	_, grpcPort, _ := strings.Cut(c.Address(), ":")
	_, metricsPort, _ := strings.Cut(c.Address(), ":")
	server := c.Start("rekor-server", lab.Command{Name: "rekor-server", Args: []string{
		"serve", "--http-address", host, "--http-port", port, "--grpc-address", host, "--grpc-port", grpcPort,
		"--http-metrics-port", metricsPort, "--hostname", "127.0.0.1", "--storage-dir", dir,
		"--signer-filepath", dir + "/log.key.pem", "--checkpoint-interval", "1s",
	}}, func(ctx context.Context) error { return lab.GetOK(ctx, "http://"+address+"/healthz") })
	for i := 5; i < 8; i++ {
		if index, _ := c.logSignature("http://"+address, fmt.Sprint("artifact ", i)); index != fmt.Sprint(i) {
			t.Errorf("index %q of entry %d", index, i)
		}
	}
	server.Kill()
	if r := c.Run(lab.Command{Name: "mayfly", Args: fsck}); !strings.Contains(r.Stdout, "none") {
		t.Errorf("fsck says %s", r.Stdout)
	}
	leaves := []byte(c.Read(dir + "/tile/0/000.p/8"))
	if got := rootOf(leaves[:5*sha256.Size]); !bytes.Equal(got, root) {
		t.Errorf("the first entries have the root %x now, mayfly signed %x", got, root)
	}

	// And back: mayfly continues the log of the server.
	ca = c.serve("  embedded: {dir: log, origin: " + embeddedOrigin + "}\n" +
		"rekor: {dir: " + dir + ", origin: 127.0.0.1, admit: any}\n")
	if index, size := c.logSignature(ca.URL, "artifact 8"); index != "8" || size != "9" {
		t.Errorf("index %s of %s", index, size)
	}
	ca.Stop()
}
