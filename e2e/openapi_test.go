//go:build openapi

package e2e_test

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/binaries"
)

// TestOpenAPIClients generates clients from the document that a running CA serves, and runs them against that CA. "make
// openapi-clients" runs this test alone: it needs python3 and npm, and none of the programs that the other tests build.
func TestOpenAPIClients(t *testing.T) {
	b, err := binaries.New(".", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	own, err := b.Mayfly(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mayfly, dir := filepath.Join(own, "mayfly"), t.TempDir()
	url := development(t, mayfly, dir)
	out, err := exec.CommandContext(t.Context(), mayfly, "dev", "token", "--dir", filepath.Join(dir, "dev"), "--email",
		"alice@example.com").Output()
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(out))
	document := filepath.Join(dir, "openapi.json")
	response, err := http.Get(url + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response.Status, err)
	}
	if err := os.WriteFile(document, data, 0o600); err != nil {
		t.Fatal(err)
	}

	t.Run("python", func(t *testing.T) {
		project, err := b.Project(t.Context(), "clients/openapi-python", "sh", "-c",
			"python3 -m venv venv && venv/bin/pip install --quiet --requirement requirements.txt")
		if err != nil {
			t.Fatal(err)
		}
		bin := filepath.Join(project, "venv", "bin")
		run(t, dir, filepath.Join(bin, "openapi-spec-validator"), document)
		run(t, dir, filepath.Join(bin, "openapi-python-client"), "generate", "--path", document, "--meta", "none",
			"--output-path", filepath.Join(dir, "generated"),
			"--config", filepath.Join(project, "config.yaml"), "--fail-on-warning")
		copyFile(t, filepath.Join(project, "client.py"), dir)
		run(t, dir, filepath.Join(bin, "python"), "client.py", url, token, "alice@example.com")
	})
	t.Run("typescript", func(t *testing.T) {
		project, err := b.Project(t.Context(), "clients/openapi-typescript", "npm", "install", "--no-audit",
			"--no-fund", "--no-package-lock")
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(dir, "typescript")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(project, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
			t.Fatal(err)
		}
		bin := filepath.Join(project, "node_modules", ".bin")
		run(t, dir, filepath.Join(bin, "openapi-typescript"), document, "--output", "api.ts")
		copyFile(t, filepath.Join(project, "client.ts"), dir)
		copyFile(t, filepath.Join(project, "package.json"), dir)
		run(t, dir, filepath.Join(bin, "tsc"), "--strict", "--noUncheckedIndexedAccess", "--target", "es2022",
			"--module", "nodenext", "client.ts")
		run(t, dir, "node", "client.js", url, token, "alice@example.com")
	})
}

// development starts "mayfly dev" on free ports with its directory at dir/dev, and returns the URL of its REST API.
func development(t *testing.T, mayfly, dir string) string {
	t.Helper()
	free := "127.0.0.1:0"
	cmd := exec.Command(mayfly, "dev", "--dir", filepath.Join(dir, "dev"), "--http", free, "--grpc", "off", "--admin",
		"off", "--idp", free)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
	})
	url := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) == 2 && f[0] == "REST" {
			url = f[1]
		}
		if strings.Contains(lines.Text(), "Ctrl-C stops") {
			return url
		}
	}
	t.Fatal("mayfly dev did not become ready")
	return ""
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
}

func copyFile(t *testing.T, from, dir string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, filepath.Base(from)), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
