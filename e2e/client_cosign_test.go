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

// interactive signs without a token: cosign shows a code, and the test signs in with that code at the development
// provider.
func (w *environment) interactive() {
	w.Helper()
	b := newBlob(w.Lab, "interactive")
	cosign := w.Spawn("cosign-interactive", w.cosignSign(b))
	code := regexp.MustCompile(`verification code ([A-Z0-9]{4}-[A-Z0-9]{4}) in your browser`)
	w.Eventually("a code to sign in with", func(ctx context.Context) error {
		shown := code.FindStringSubmatch(cosign.Stderr() + cosign.Stdout())
		if shown == nil {
			return errors.New("not shown yet")
		}
		form := strings.NewReader(url.Values{"user_code": {shown[1]}, "email": {alice}}.Encode())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.dev.Issuer+"/device", form)
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
	w.secondClients(b)
	w.Run(lab.Command{Name: "mayfly", Args: []string{
		"verify", b.bundle, "--trusted-root", w.trust.TrustedRoot, "--artifact", b.file, "--identity",
		alice, "--issuer",
		w.dev.Issuer,
	}})
	w.proven("interactive sign-in (device flow)")
}
