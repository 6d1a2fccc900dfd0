//go:build all

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// registry starts an image registry on loopback and returns its address.
func (w *environment) registry() string {
	w.Helper()
	w.Need("crane")
	address := w.Address()
	w.Start("registry", lab.Command{
		Name: "crane",
		Args: []string{"registry", "serve", "--address", address, "--disk", w.Mkdir("registry")},
	},
		func(ctx context.Context) error { return lab.GetOK(ctx, "http://"+address+"/v2/") })
	return address
}

// image pushes a small image and returns its reference by digest.
func (w *environment) image(registry, name string) string {
	w.Helper()
	w.Run(lab.Command{Name: "tar", Args: []string{
		"-cf", "layer.tar",
		w.relative(w.Write("app.txt", "an application\n")),
	}})
	ref := registry + "/" + name
	w.Run(lab.Command{Name: "crane", Args: []string{
		"append", "--insecure", "--new_layer", "layer.tar",
		"--new_tag", ref,
	}})
	digest := strings.TrimSpace(w.Run(lab.Command{Name: "crane", Args: []string{"digest", "--insecure", ref}}).Stdout)
	return strings.Split(ref, ":v")[0] + "@" + digest
}

func (w *environment) relative(path string) string { return strings.TrimPrefix(path, w.Path()+"/") }

// cosignImage returns a cosign command for an image in the registry, with the trusted root of the test environment.
func (w *environment) cosignImage(command, ref string, extra ...string) lab.Command {
	args := []string{
		command, "--allow-insecure-registry", "--allow-http-registry", "--trusted-root",
		w.trust.TrustedRoot,
	}
	if command == "sign" || command == "attest" {
		args = append(args, "--yes", "--signing-config", w.trust.SigningConfig)
	}
	return lab.Command{Name: "cosign", Args: append(append(args, extra...), ref)}
}

func cosignClient(w *environment) {
	w.start(environmentOptions{})
	for _, algorithm := range cosignAlgorithms() {
		b := newBlob(w.Lab, algorithm)
		w.Run(w.cosignSign(b, "--signing-algorithm", algorithm, "--identity-token", w.oidc.Email("alice@example.com")))
		w.Run(w.cosignVerify(b, "alice@example.com"))
		w.RunFails(w.cosignVerify(b, "bob@example.com"), "no matching CertificateIdentity")
		w.checkBundle(w.Lab, b)
	}
	w.proven("blob with each of %d key algorithms", len(cosignAlgorithms()))

	ref := w.image(w.registry(), "app:v1")
	alice := []string{"--certificate-identity", "alice@example.com", "--certificate-oidc-issuer", w.oidc.URL}
	bob := []string{"--certificate-identity", "bob@example.com", "--certificate-oidc-issuer", w.oidc.URL}
	w.Run(w.cosignImage("sign", ref, "--identity-token", w.oidc.Email("alice@example.com")))
	w.Run(w.cosignImage("verify", ref, alice...))
	w.RunFails(w.cosignImage("verify", ref, bob...), "")
	w.proven("container image in a registry")

	predicate := w.Write("predicate.json", `{"builder":{"id":"https://builder.example.com"}}`)
	w.Run(w.cosignImage("attest", ref, "--predicate", predicate, "--type", "https://example.com/predicate/v1",
		"--identity-token", w.oidc.Email("alice@example.com")))
	w.Run(w.cosignImage("verify-attestation", ref, append(alice, "--type", "https://example.com/predicate/v1")...))
	w.RunFails(w.cosignImage("verify-attestation", ref, append(bob, "--type", "https://example.com/predicate/v1")...),
		"")
	w.proven("attestation of an image")

	w.interactive()
}

// interactive signs without a token: cosign shows a code, and the test signs in with that code at the development
// provider.
func (w *environment) interactive() {
	w.Helper()
	dev := w.Dev(w.Path("dev"))
	s := signer{
		lab: w.Lab, issuer: dev.Issuer,
		trust: lab.Trust{TrustedRoot: dev.Dir + "/trusted_root.json", SigningConfig: dev.Dir + "/signing_config.json"},
	}
	b := newBlob(w.Lab, "interactive")
	cosign := w.Spawn("cosign-interactive", s.cosignSign(b))
	code := regexp.MustCompile(`verification code ([A-Z0-9]{4}-[A-Z0-9]{4}) in your browser`)
	w.Eventually("a code to sign in with", func(ctx context.Context) error {
		shown := code.FindStringSubmatch(cosign.Stderr() + cosign.Stdout())
		if shown == nil {
			return errors.New("not shown yet")
		}
		form := strings.NewReader(url.Values{"user_code": {shown[1]}, "email": {"alice@example.com"}}.Encode())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, dev.Issuer+"/device", form)
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("the sign-in page answers %s", resp.Status)
		}
		return nil
	})
	if status := cosign.Wait(); status != 0 {
		w.Fatalf("cosign: exit status %d\n%s", status, cosign.Stderr())
	}
	w.Run(s.cosignVerify(b, "alice@example.com", "--insecure-ignore-tlog"))
	w.Run(lab.Command{Name: "mayfly", Args: []string{
		"verify", b.bundle, "--trusted-root", s.trust.TrustedRoot, "--artifact", b.file, "--identity",
		"alice@example.com", "--issuer", dev.Issuer, "--no-rekor",
	}})
	w.proven("interactive sign-in (device flow) with `mayfly dev`")
}

func sigstoreGoClient(w *environment) {
	w.start(environmentOptions{})
	b := newBlob(w.Lab, "blob")
	w.Run(w.conformanceSign(b, w.oidc.Email("bob@example.com")))
	w.Run(w.conformanceVerify(b, "bob@example.com"))
	w.Run(w.cosignVerify(b, "bob@example.com"))
	w.RunFails(w.conformanceVerify(b, "alice@example.com"), "no matching")
	w.checkBundle(w.Lab, b)
	w.proven("blob, also verified by cosign")
}
