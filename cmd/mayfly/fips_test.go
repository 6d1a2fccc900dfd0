package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/pemfile"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"google.golang.org/protobuf/encoding/protojson"
)

const fipsOnly = "GODEBUG=fips140=only"

// Where FIPS 140-3 is enforced, the CA starts and issues, the key identifier is one of RFC 7093, and metrics, readiness
// and version say in which state the process is.
func TestFIPSIssues(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: provider.URL(), Embedded: true, Admin: true, Env: []string{fipsOnly},
		CA: "  precert_issuer: true\n",
	})
	r := process.Requests(t, provider)[0]
	response, err := http.Post("http://"+s.HTTP+"/api/v2/signingCert", "application/json", bytes.NewReader(r.JSON))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%d %s %v\n%s", response.StatusCode, body, err, s.Logs)
	}
	var answer fulciopb.SigningCertificate
	if err := protojson.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	chain,
		err := pemfile.Certificates([]byte(strings.Join(answer.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates(), "\n")))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(r.Proto.GetPublicKeyRequest().GetPublicKey().GetContent()))
	key := block.Bytes[len(block.Bytes)-65:] // the point of a P-256 key
	if sum := sha256.Sum256(key); !bytes.Equal(chain[0].SubjectKeyId, sum[:20]) {
		t.Errorf("the subject key identifier %x is not that of RFC 7093 section 2 (1)", chain[0].SubjectKeyId)
	}
	if _, metrics := process.Get(t, "http://"+s.Admin+"/metrics"); !bytes.Contains(metrics, []byte(`state="only"`)) {
		t.Error("the metrics do not say that FIPS 140-3 is enforced")
	}
	if _, ready := process.Get(t, "http://"+s.Admin+"/readyz"); !bytes.Contains(ready, []byte("FIPS 140-3: only")) {
		t.Errorf("readiness does not say that FIPS 140-3 is enforced: %s", ready)
	}
}

// enforced runs the program where FIPS 140-3 is enforced.
func enforced(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), cmp.Or(os.Getenv("MAYFLY"), "mayfly"), args...)
	cmd.Env = append(os.Environ(), fipsOnly)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// What is not available where FIPS 140-3 is enforced is refused by name.
func TestFIPSRefuses(t *testing.T) {
	t.Parallel()
	if out, err := enforced(t, "version", "--json"); err != nil || !strings.Contains(out, `"state": "only"`) {
		t.Errorf("%v: %s", err, out)
	}
	dir := t.TempDir()
	p := pki.New(pki.Options{})
	keys, err := filepath.Abs("../../ca/signer/file/testdata")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"chain.pem": p.ChainPEM(), "password": []byte("secure"),
		"identity.yaml": []byte("oidc-issuers:\n  https://idp.example.com: {client-id: sigstore, type: email}\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for key, want := range map[string]string{
		"openssl/p256.pkcs12.p12": "PKCS#12 of the private key is not approved",
		"openssl/p256.scrypt.pem": "scrypt in the key derivation of the private key is not approved",
		"openssl/p256.legacy-aes256.pem": "the old PEM encryption (DEK-Info) of the " +
			"private key is not approved",
		"openssl/p256.pbes2-des3.pem": "the cipher DES-EDE3-CBC of the private key is not approved",
		"openssl/p256.pbes2-hmacWithSHA1-aes256.pem": "HMAC-SHA1 in the key derivation of the " +
			"private key is not approved",
		"openssl/p256.pbes2-default.pem": "a salt of less than 16 bytes in the key derivation of the " +
			"private key is not approved",
		"age/p256.password.age": "the encryption by age of the private key is not approved",
	} {
		file := filepath.Join(dir, filepath.Base(key)+".yaml")
		if err := os.WriteFile(file,
			[]byte("listen: {http: \"127.0.0.1:1\", grpc: \"off\"}\nidentity: {file: identity.yaml}\n"+
				"ct: {embedded: {dir: log, origin: ct.example.com}}\nca:\n  file: {chain: chain.pem, key: "+
				filepath.Join(keys, key)+", password: {file: password}}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := enforced(t, "config", "check", "--config", file)
		if flat := strings.Join(strings.Fields(out), " "); err == nil || !strings.Contains(flat, want) {
			t.Errorf("%s: %v, want %q in\n%s", key, err, want, out)
		}
	}
}
