package binaries

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Extra returns the programs that few tests need, most of them of "make e2e-all" alone. Each is built when a test asks
// for it.
func Extra() []Tool {
	return []Tool{
		{Name: "crane", Package: "github.com/google/go-containerregistry/cmd/crane", Version: "v0.22.1"},
		{
			Name: "omniwitness", Package: "github.com/transparency-dev/witness/cmd/omniwitness",
			Version: "v0.0.0-20260720115447-2e1c6971d19e",
		},
		{Name: "gitsign", Module: "tools/gitsign", Package: "github.com/sigstore/gitsign", Version: "v0.14.0"},
		{
			Name: "kube-apiserver", Module: "tools/kube", Package: "k8s.io/kubernetes/cmd/kube-apiserver",
			Version: "v1.35.4",
		},
		{Name: "helm", Package: "helm.sh/helm/v4/cmd/helm", Version: "v4.3.2"},
		{Name: "kubeconform", Package: "github.com/yannh/kubeconform/cmd/kubeconform", Version: "v0.8.0"},
		{
			Name: "spire-server", Module: "tools/spire", Package: "github.com/spiffe/spire/cmd/spire-server",
			Version: "v1.13.3",
		},
		{
			Name: "spire-agent", Module: "tools/spire", Package: "github.com/spiffe/spire/cmd/spire-agent",
			Version: "v1.13.3",
		},
		{Name: "otelcol", Module: "tools/otelcol", Package: ".", Version: "v0.165.0"},
		{Name: "minivault", Module: "tools/minivault", Package: ".", Version: "v1.21.0"},
		{Name: "pebble", Package: "github.com/letsencrypt/pebble/v2/cmd/pebble", Version: "v2.10.3"},
		{
			Name: "pebble-challtestsrv", Package: "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv",
			Version: "v2.10.3",
		},
		{Name: "local-kms", Package: "github.com/nsmithuk/local-kms", Version: "v0.0.0-20260228092603-2a5e92d09ab6"},
		{
			Name: "oidc-discovery-provider", Module: "tools/spire",
			Package: "github.com/spiffe/spire/support/oidc-discovery-provider", Version: "v1.13.3",
		},
	}
}

// Tool builds a program of [Extra] if it is missing and returns its folder.
func (b *Builder) Tool(ctx context.Context, name string) (string, error) {
	for _, t := range Extra() {
		if t.Name == name {
			return b.tool(ctx, t, name)
		}
	}
	return "", fmt.Errorf("no program %q in the table", name)
}

// Project copies the folder dir to the cache and runs install there, once for each content, and returns the copy.
func (b *Builder) Project(ctx context.Context, dir string, install ...string) (string, error) {
	key, err := b.key(Tool{Name: "project-" + filepath.Base(dir), Module: dir})
	if err != nil {
		return "", err
	}
	out := filepath.Join(b.cache, key)
	done := filepath.Join(out, ".installed")
	unlock, err := lock(ctx, filepath.Join(b.cache, "."+filepath.Base(dir)+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(done); err == nil {
		return out, nil
	}
	if err := errors.Join(os.RemoveAll(out), os.CopyFS(out, os.DirFS(filepath.Join(b.root, dir)))); err != nil {
		return "", err
	}
	fmt.Fprintf(b.progress, "e2e: installing %s ...\n", dir)
	cmd := exec.CommandContext(ctx, install[0], install[1:]...)
	cmd.Dir = out
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", install, err, text)
	}
	return out, os.WriteFile(done, nil, 0o644)
}
