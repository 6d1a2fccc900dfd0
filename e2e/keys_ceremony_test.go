//go:build keys

package e2e_test

import (
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// documented is the shell block of a page of the documentation that has the text.
func documented(t *testing.T, page, text string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(data), "```sh\n")[1:] {
		if block, _, _ := strings.Cut(part, "```"); strings.Contains(block, text) {
			return block
		}
	}
	t.Fatalf("%s has no block with %q", page, text)
	return ""
}

// TestKeysCeremonyParent has the PKI engine of a real OpenBao sign the issuing certificate of a CA, with the commands
// of the documentation, and issues a certificate under it.
func TestKeysCeremonyParent(t *testing.T) {
	l := lab.New(t)
	project := l.Project("clients/openbao", "sh", "-c",
		"python3 -m venv venv && venv/bin/pip install --quiet --requirement requirements.txt")
	address := l.Address()
	l.Start("openbao", lab.Command{Name: project + "/venv/bin/bao", Args: []string{
		"server", "-dev", "-dev-root-token-id=root", "-dev-listen-address=" + address, "-dev-no-store-token",
	}}, func(ctx context.Context) error { return lab.GetOK(ctx, "http://"+address+"/v1/sys/health") })
	env := []string{
		"BAO_ADDR=http://" + address, "BAO_TOKEN=root", "CA_PASSWORD=a password of the test",
		"PATH=" + filepath.Dir(l.Look("mayfly")) + ":" + project + "/venv/bin:" + os.Getenv("PATH"),
	}
	sh := func(script string) lab.Result {
		return l.Run(lab.Command{Name: "bash", Args: []string{"-c", "set -eu\n" + script}, Env: env})
	}
	sh(`bao secrets enable -max-lease-ttl=87600h pki
bao write pki/root/generate/internal common_name="Corporate root" organization=Example key_type=ec key_bits=384 ` +
		`ttl=87600h max_path_length=1
mayfly ca csr --key ca-key.pem --generate ecdsa-p256 --password-env CA_PASSWORD --common-name "Example issuing" ` +
		`--organization "Example Inc." --out next.csr`)
	commands := documented(t, "ceremony.md", "bao write")
	sh(commands)
	check := sh("mayfly ca check chain.pem --key ca-key.pem --password-env CA_PASSWORD")
	for _, bad := range []string{"wrong ", "warning "} {
		if strings.Contains(check.Stdout, bad) {
			t.Errorf("%s", check.Stdout)
		}
	}
	chain := l.Certificates(l.Read(l.Path("chain.pem")))
	roots := x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	if _, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}); err != nil || len(chain) != 2 || !chain[0].MaxPathLenZero {
		t.Errorf("%d certificates, %v", len(chain), err)
	}

	// What OpenBao makes without the values of the request is refused, with what is missing.
	sh(`bao write -field=certificate pki/root/sign-intermediate csr=@next.csr common_name="Example issuing" ` +
		`organization=Example max_path_length=0 ttl=43800h > without.pem`)
	l.RunFails(lab.Command{Name: "mayfly", Args: []string{
		"ca", "sign", "--csr", "next.csr", "--import", "without.pem", "--parent", "corporate.pem", "--out", "other.pem",
	}}, "lacks codeSigning")
}
