package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// waitForBanner returns what "mayfly dev" prints after its self-test.
func waitForBanner(l *lab.Lab, dev *lab.Mayfly) string {
	l.Helper()
	l.Eventually("the banner", func(context.Context) error {
		if !strings.Contains(dev.Stdout(), "Ctrl-C stops") {
			return errors.New("not printed yet")
		}
		return nil
	})
	return dev.Stdout()
}

// printedLines returns the commands of the banner that need cosign, curl and grpcurl: the indented lines after the
// list of files, but for comments and the lines for other clients.
func printedLines(t *testing.T, banner string) string {
	t.Helper()
	_, commands, found := strings.Cut(banner, "\nSign and verify")
	before, rest, others := strings.Cut(commands, "\nThe same with another client\n")
	_, after, closed := strings.Cut(rest, "\nA certificate alone\n")
	if !found || !others || !closed {
		t.Fatalf("the banner has no commands:\n%s", banner)
	}
	var lines []string
	for line := range strings.Lines(before + after) {
		if command, indented := strings.CutPrefix(line, "  "); indented && !strings.HasPrefix(command, "#") {
			lines = append(lines, command)
		}
	}
	return strings.Join(lines, "")
}

// printedLine returns the command that the banner has for a client.
func printedLine(t testing.TB, banner, client string) string {
	t.Helper()
	_, rest, found := strings.Cut(banner, "  # "+client+"\n  ")
	line, _, complete := strings.Cut(rest, "\n")
	if !found || !complete {
		t.Fatalf("the banner has no line for %s:\n%s", client, banner)
	}
	return line
}

// logSize reads the size out of the checker's line.
func logSize(t *testing.T, line string) (size uint64) {
	t.Helper()
	if _, err := fmt.Sscanf(line, "size=%d", &size); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return size
}

// blob is a file to sign and its bundle.
type blob struct{ file, bundle string }

func newBlob(l *lab.Lab, name string) blob {
	l.Helper()
	return blob{file: l.Write(name+".txt", "content of "+name+"\n"), bundle: l.Path(name + ".bundle.json")}
}

// signer is how a client signs.
type signer struct {
	lab    *lab.Lab
	trust  lab.Trust
	issuer string
}

func (s signer) cosignSign(b blob, extra ...string) lab.Command {
	return lab.Command{Name: "cosign", Args: append([]string{
		"sign-blob", "--yes", "--signing-config", s.trust.SigningConfig, "--trusted-root", s.trust.TrustedRoot,
		"--bundle", b.bundle, b.file,
	}, extra...)}
}

func (s signer) cosignVerify(b blob, identity string, extra ...string) lab.Command {
	return lab.Command{Name: "cosign", Args: append([]string{
		"verify-blob", "--trusted-root", s.trust.TrustedRoot, "--bundle", b.bundle,
		"--certificate-identity", identity, "--certificate-oidc-issuer", s.issuer, b.file,
	}, extra...)}
}

func (s signer) conformanceSign(b blob, token string) lab.Command {
	return lab.Command{Name: "sigstore-go-conformance", Args: []string{
		"sign-bundle", "--identity-token", token, "--bundle", b.bundle, "--signing-config", s.trust.SigningConfig,
		"--trusted-root", s.trust.TrustedRoot, b.file,
	}}
}

func (s signer) conformanceVerify(b blob, identity string) lab.Command {
	return lab.Command{Name: "sigstore-go-conformance", Args: []string{
		"verify-bundle", "--bundle", b.bundle, "--certificate-identity", identity,
		"--certificate-oidc-issuer", s.issuer,
		"--trusted-root", s.trust.TrustedRoot, b.file,
	}}
}
