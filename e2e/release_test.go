package e2e_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// cosign verifies a release with the command of docs/releasing.md, and its provenance as an attestation. The release
// has one program: how many there are makes no difference to the signatures.
func TestReleaseSigned(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	dist := l.Path("dist")
	build := exec.CommandContext(t.Context(), "go", "run", ".", "-root", "..", "-out", dist, "-modified", "-only",
		"windows/amd64")
	build.Dir = "../release"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, block, _ := strings.Cut(l.Read("../docs/releasing.md"), "```sh\ncosign verify-blob ")
	block, _, ok := strings.Cut(block, "```")
	if !ok {
		t.Fatal("docs/releasing.md has no block for cosign")
	}
	verify := lab.Command{Name: "sh", Dir: dist, Args: []string{"-euc", "cosign verify-blob " + block}}
	l.Run(verify)

	entries, err := os.ReadDir(dist)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".exe") {
			continue
		}
		attestation := func(identity string) lab.Command {
			return lab.Command{Name: "cosign", Dir: dist, Args: []string{
				"verify-blob-attestation", "--bundle", "signatures/provenance.intoto.json.sigstore.json",
				"--trusted-root", "signatures/trusted_root.json", "--type", "slsaprovenance1",
				"--certificate-identity", identity, "--certificate-oidc-issuer-regexp", "^http://127.0.0.1:", e.Name(),
			}}
		}
		l.Run(attestation("release@mayfly.invalid"))
		l.RunFails(attestation(bobAddress), "")
	}
	if err := os.WriteFile(dist+"/SHA256SUMS", []byte("another list\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.RunFails(verify, "")
}

// bobAddress is the address of somebody who has signed nothing.
const bobAddress = "bob@example.com"
