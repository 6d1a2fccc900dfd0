package e2e_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// sameAsFulcio lists entries of an issuer file for which a released Fulcio must issue the same certificates: the file
// with the claims, and the settings. The profiles are those that mayfly ships, printed in Fulcio's format.
var sameAsFulcio = []struct{ claims, settings string }{
	{"email", "type: email"},
	{"email-federated", "type: email, issuer-claim: $.federated_claims.connector_id"},
	{"uri", "type: uri, subject-domain: 'http://127.0.0.1'"},
	{"username", "type: username, subject-domain: 127.0.0.1"},
	{"spiffe", "type: spiffe, spiffe-trust-domain: prod.example.com"},
	{"kubernetes", "type: kubernetes"},
	{"chainguard-identity", "type: chainguard-identity"},
	{"github-workflow", "type: github-workflow"},
	{"github-workflow", "type: ci-provider, ci-provider: github-workflow"},
	{"gitlab-pipeline", "type: gitlab-pipeline"},
	{"gitlab-pipeline", "type: ci-provider, ci-provider: gitlab-pipeline"},
	{"codefresh-workflow", "type: codefresh-workflow"},
	{"codefresh-workflow", "type: ci-provider, ci-provider: codefresh-workflow"},
	{"buildkite-job", "type: buildkite-job"},
	{"buildkite-job", "type: ci-provider, ci-provider: buildkite-job"},
	{"circleci-job", "type: ci-provider, ci-provider: circleci-job"},
	{"buddy-pipeline", "type: ci-provider, ci-provider: buddy-pipeline"},
}

// stricter lists claims that Fulcio certifies and mayfly refuses: missing parts, parts that lead to another path,
// claims that would override an operator's settings, and characters that must not appear in a certificate.
var stricter = map[string]bool{
	"uri user": true, "uri port": true, "uri dots": true, "username empty": true, "username space": true,
	"kubernetes no-namespace": true, "kubernetes dots": true, "kubernetes slash": true, "kubernetes upper": true,
	"kubernetes absent":        true,
	"chainguard-identity dots": true, "github-workflow dots": true, "github-workflow empty-ref": true,
	"github-workflow control": true, "github-workflow null-sha": true,
	"github-workflow url-claim": true,
	"gitlab-pipeline user":      true, "buildkite-job dots": true, "codefresh-workflow no-name": true,
	"circleci-job no-project": true, "email no-sub": true,
}

// different lists claims that both certify with different results: numbers keep their digits, and a # in the name of a
// branch is percent-encoded by mayfly, where Fulcio's path ends at it.
var different = map[string]bool{"github-workflow numbers": true, "github-workflow slash-ref": true}

// TestSameAsFulcio (// H7 // D16) requests certificates from a released Fulcio and from mayfly with the same issuer
// file, for the claims of every golden file, and compares the certificates.
func TestSameAsFulcio(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	var file strings.Builder
	file.WriteString("oidc-issuers:\n")
	var issuers []*lab.Issuer
	profiles := map[string]bool{}
	for _, s := range sameAsFulcio {
		i := l.Issuer(nil)
		issuers = append(issuers, i)
		fmt.Fprintf(&file, "  %s: {issuer-url: %q, client-id: sigstore, %s}\n", i.URL, i.URL, s.settings)
		if _, name, ok := strings.Cut(s.settings, "ci-provider: "); ok {
			profiles[name] = true
		}
	}
	file.WriteString("ci-issuer-metadata:\n")
	for _, name := range slices.Sorted(maps.Keys(profiles)) {
		printed := l.Run(lab.Command{Name: "mayfly", Args: []string{"config", "profiles", name}}).Stdout
		file.WriteString(strings.TrimPrefix(printed, "ci-issuer-metadata:\n"))
	}
	ca := l.Serve(lab.ServeOptions{
		Name: "ca", PKI: l.PKI(), CT: "  none: {reason: \"a comparison of certificates\"}\n",
		Identity: file.String(),
	})
	fulcio := startFulcio(l, file.String())

	csr := newCSR(t)
	compared := 0
	for n, s := range sameAsFulcio {
		for name, claims := range goldenClaims(t, s.claims) {
			key := s.claims + " " + name
			token := issuers[n].Token(claims)
			want, refusal := issue(t, fulcio, token, csr)
			got, ours := issue(t, ca.URL, token, csr)
			switch {
			case want == nil && got == nil:
			case got == nil && stricter[key]:
			case want == nil || got == nil:
				t.Errorf("%s (%s): Fulcio: %s, mayfly: %s", key, s.settings, refusal, ours)
			case different[key]:
			case !maps.Equal(says(want), says(got)):
				t.Errorf("%s (%s):\nFulcio: %v\nmayfly: %v", key, s.settings, says(want), says(got))
			default:
				compared++
			}
		}
	}
	if compared < 30 {
		t.Errorf("only %d certificates were compared", compared)
	}
	t.Logf("%d certificates say the same", compared)
}

func startFulcio(l *lab.Lab, issuers string) (url string) {
	l.Helper()
	rest, grpc, metrics := l.Address(), l.Address(), l.Address()
	port := func(address string) string { return address[strings.LastIndex(address, ":")+1:] }
	l.Start("fulcio", lab.Command{Name: "fulcio", Args: []string{
		"serve", "--ca=ephemeralca", "--host=127.0.0.1", "--grpc-host=127.0.0.1", "--port=" + port(rest),
		"--grpc-port=" + port(grpc), "--metrics-port=" + port(metrics),
		"--legacy-unix-domain-socket=@mayfly-e2e-" + port(rest), "--ct-log-url=",
		"--config-path=" + l.Write("fulcio/identity.yaml", issuers),
	}}, func(ctx context.Context) error { return lab.GetOK(ctx, "http://"+rest+"/healthz") })
	return "http://" + rest
}

// goldenClaims reads the claims of a golden file: the sections NAME.json. Hosts that cannot be issuers here become
// loopback.
func goldenClaims(t *testing.T, name string) map[string]map[string]any {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "oidc", "testdata", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]any{}
	for _, section := range strings.Split("\n"+string(data), "\n-- ")[1:] {
		head, body, _ := strings.Cut(section, " --\n")
		kind, isClaims := strings.CutSuffix(head, ".json")
		if !isClaims {
			continue
		}
		if name == "uri" {
			body = strings.ReplaceAll(strings.ReplaceAll(body, "https://", "http://"), "example.com", "127.0.0.1")
		}
		var claims map[string]any
		d := json.NewDecoder(strings.NewReader(body))
		d.UseNumber()
		if err := d.Decode(&claims); err != nil {
			t.Fatalf("%s %s: %v", name, kind, err)
		}
		out[kind] = claims
	}
	return out
}

func newCSR(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// issue returns a certificate, or nil and the answer.
func issue(t *testing.T, ca, token string, csr []byte) (cert *x509.Certificate, answer string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"credentials":               map[string]any{"oidcIdentityToken": token},
		"certificateSigningRequest": csr,
	})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(ca+"/api/v2/signingCert", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Signed struct {
			Chain struct{ Certificates []string }
		} `json:"signedCertificateDetachedSct"`
	}
	if resp.StatusCode != http.StatusOK {
		return nil, resp.Status + " " + string(data)
	}
	if err := json.Unmarshal(data, &got); err != nil || len(got.Signed.Chain.Certificates) == 0 {
		t.Fatalf("%v in %s", err, data)
	}
	block, _ := pem.Decode([]byte(got.Signed.Chain.Certificates[0]))
	if cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return cert, "a certificate"
}

// says returns the encoded parts of a certificate that describe its subject: name, usages, and the identity extensions.
func says(c *x509.Certificate) map[string]string {
	out := map[string]string{}
	for _, e := range c.Extensions {
		oid := e.Id.String()
		if oid == "2.5.29.17" || oid == "2.5.29.15" || oid == "2.5.29.37" ||
			strings.HasPrefix(oid, "1.3.6.1.4.1.57264.") {
			text := string(e.Value)
			if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) {
				text = hex.EncodeToString(e.Value)
			}
			out[oid] = fmt.Sprint(e.Critical, " ", text)
		}
	}
	return out
}
