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

// TestKeysCeremonyParent has the PKI engine of a real OpenBao sign the issuing certificate for a key in its transit
// engine, with the commands of the documentation, and makes a root and an issuing certificate with both keys there.
func TestKeysCeremonyParent(t *testing.T) {
	l := lab.New(t)
	project := l.Project("clients/openbao", "sh", "-c",
		"python3 -m venv venv && venv/bin/pip install --quiet --requirement requirements.txt")
	address := l.Address()
	l.Start("openbao", lab.Command{Name: project + "/venv/bin/bao", Args: []string{
		"server", "-dev", "-dev-root-token-id=root", "-dev-listen-address=" + address, "-dev-no-store-token",
	}}, func(ctx context.Context) error { return lab.GetOK(ctx, "http://"+address+"/v1/sys/health") })
	env := []string{
		"BAO_ADDR=http://" + address, "BAO_TOKEN=root",
		"PATH=" + filepath.Dir(l.Look("mayfly")) + ":" + project + "/venv/bin:" + os.Getenv("PATH"),
	}
	key := func(name, chain string) string {
		return "{kms: {key: \"openbao://" + name + "\", chain: " + chain + ", vault: {address: \"http://" + address +
			"\", token: {file: token}}}}"
	}
	l.Write("ca.yaml", "ca: "+key("ca", "chain.pem")+"\n")
	l.Write("plan.yaml", "root:\n  subject: {common_name: Root, organization: Example Inc.}\n  key: "+
		key("root", "two/root.pem")+
		"\nissuing:\n  subject: {common_name: Issuing, organization: Example Inc.}\n  key: "+key("ca", "two/chain.pem")+
		"\nsign_transcript: true\n")
	sh := func(script string) lab.Result {
		return l.Run(lab.Command{Name: "bash", Args: []string{"-c", "set -eu\n" + script}, Env: env})
	}
	sh(`bao secrets enable -max-lease-ttl=87600h pki
bao secrets enable transit
bao write -f transit/keys/ca type=ecdsa-p256
bao write -f transit/keys/root type=ecdsa-p384
printf root > token
bao write pki/root/generate/internal common_name="Corporate root" organization=Example key_type=ec key_bits=384 ` +
		`ttl=87600h max_path_length=1
mayfly ca csr --config ca.yaml --common-name "Example issuing" --organization "Example Inc." --out next.csr`)
	commands := documented(t, "ceremony.md", "bao write")
	sh(commands)
	check := sh("mayfly ca check --config ca.yaml")
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

	// Both keys in OpenBao.
	sh("mayfly ca init --plan plan.yaml > ca2.yaml\n" +
		"mayfly ca check --config ca2.yaml --transcript two/transcript.json\n" +
		"mayfly ca replay two/transcript.json --plan plan.yaml")

	// What OpenBao makes without the values of the request is refused, with what is missing.
	sh(`bao write -field=certificate pki/root/sign-intermediate csr=@next.csr common_name="Example issuing" ` +
		`organization=Example max_path_length=0 ttl=43800h > without.pem`)
	l.RunFails(lab.Command{Name: "mayfly", Args: []string{
		"ca", "sign", "--csr", "next.csr", "--import", "without.pem", "--parent", "corporate.pem", "--out", "other.pem",
	}}, "lacks codeSigning")
}
