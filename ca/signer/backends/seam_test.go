package backends_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/trust"
)

// A new key backend is one package and one row of the table. This test builds the program with testdata/device.go as a
// package below ca/signer and with one field more in the table, and changes nothing else: configuration, "config
// check", serving, readiness, reload, "trust export" and "audit reconcile" reach the new backend.
func TestNewBackendIsOnePackageAndOneRow(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the program")
	}
	l := &lab{T: t, dir: t.TempDir(), program: buildWithDevice(t), provider: idp.New(t, idp.Options{})}
	l.put(pki.New(pki.Options{}))
	l.write("on", "")
	l.configure("")

	// Settings are decoded strictly and checked, with their place in the file.
	if out, err := l.run("config", "check", "--config", "mayfly.yaml"); err != nil {
		t.Fatalf("config check: %v\n%s", err, out)
	}
	l.configure(", slot: 1")
	l.fails(`mayfly.yaml:6:43: unknown key "slot" in "device"`, "config", "check", "--config", "mayfly.yaml")
	l.configure("")
	l.write("handle", "junk")
	l.fails("mayfly.yaml:6:35: ca.device.key: handle: is no handle", "config", "check", "--config", "mayfly.yaml")
	first := pki.New(pki.Options{})
	l.put(pki.New(pki.Options{}))
	l.write("chain.pem", string(first.ChainPEM()))
	l.fails("ca.device.key: handle: the key is not the key of certificate 1", "config", "check",
		"--config", "mayfly.yaml")

	// The CA serves, and readiness says when the key cannot be used.
	l.put(first)
	stop := l.serve()
	l.until("ready", func() bool { return l.ready() })
	if out, err := l.run("trust", "export", "--config", "mayfly.yaml", "--out", "trust"); err != nil {
		t.Fatalf("trust export: %v\n%s", err, out)
	}
	l.issues()

	// A reload takes another key: both files are watched.
	l.write("chain.pem", "")
	second := pki.New(pki.Options{})
	l.put(second)
	l.until("the second chain",
		func() bool { return bytes.Contains(l.get("/api/v2/trustBundle"), []byte(line(second.Root))) })
	if out, err := l.run("trust", "export", "--config", "mayfly.yaml", "--out", "trust"); err != nil {
		t.Fatalf("trust export: %v\n%s", err, out)
	}
	l.issues()
	if err := os.Remove(filepath.Join(l.dir, "on")); err != nil {
		t.Fatal(err)
	}
	l.until("not ready",
		func() bool { return !l.ready() && strings.Contains(string(l.admin("/readyz")), "the device is off") })
	stop()

	// The key is released by each process, and the journal is reconciled with the issuing key of the backend.
	if data, err := os.ReadFile(filepath.Join(l.dir, "released")); err != nil || len(data) < 2 {
		t.Errorf("released %d times, %v", len(data), err)
	}
	if out, err := l.run("audit", "reconcile", "--config", "mayfly.yaml"); err != nil {
		t.Errorf("audit reconcile: %v\n%s", err, out)
	}
}

// buildWithDevice builds the program with the test's backend, without a change of the work tree.
func buildWithDevice(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("backends.go")
	if err != nil {
		t.Fatal(err)
	}
	text := string(table)
	for _, line := range [][2]string{
		// the row
		{"type Table struct {\n", "\t// Device is a key of a device.\n\tDevice *device.Settings `yaml:\"device\"`\n"},
		{"import (\n", "\t\"github.com/mayfly-ca/mayfly/ca/signer/device\"\n"},
	} {
		if strings.Count(text, line[0]) != 1 {
			t.Fatalf("%q is not in the table once", line[0])
		}
		text = strings.Replace(text, line[0], line[0]+line[1], 1)
	}
	dir := t.TempDir()
	changed := filepath.Join(dir, "backends.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(root, "ca/signer/device/device.go"): filepath.Join(root,
			"ca/signer/backends/testdata/device.go"),
		filepath.Join(root, "ca/signer/backends/backends.go"): changed,
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{changed: []byte(text), filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "mayfly")
	process.Build(t, process.Program{
		Dir: root, Package: "./cmd/mayfly", Out: program, Overlay: filepath.Join(dir, "overlay.json"),
	})
	return program
}

// lab is a folder with a configuration, and the program.
type lab struct {
	*testing.T
	dir, program        string
	provider            *idp.Provider
	rest, adminEndpoint string
}

func (l *lab) write(name, text string) {
	l.Helper()
	next := filepath.Join(l.dir, name+".next")
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		l.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(l.dir, name)); err != nil {
		l.Fatal(err)
	}
}

// put writes the chain and the handle of the key of p.
func (l *lab) put(p *pki.PKI) {
	l.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		l.Fatal(err)
	}
	l.write("handle", hex.EncodeToString(der))
	l.write("chain.pem", string(p.ChainPEM()))
}

// configure writes the configuration, with more settings in the block of the backend.
func (l *lab) configure(more string) {
	l.Helper()
	if l.rest == "" {
		l.rest, l.adminEndpoint = freeAddress(l.T), freeAddress(l.T)
		l.write("identity.yaml", fmt.Sprintf("oidc-issuers:\n  %q: {client-id: sigstore, type: email}\n",
			l.provider.URL()))
	}
	l.write("mayfly.yaml", fmt.Sprintf(`listen: {http: %q, grpc: "off", admin: %q}
identity: {file: identity.yaml}
ct: {embedded: {dir: log, origin: device.test/ct}}
audit: {file: journal.jsonl}
ca:
  device: {chain: chain.pem, key: handle%s}
`, l.rest, l.adminEndpoint, more))
}

func (l *lab) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(l.Context(), l.program, args...)
	cmd.Dir = l.dir
	return cmd
}

func (l *lab) run(args ...string) (string, error) {
	out, err := l.command(args...).CombinedOutput()
	return string(out), err
}

func (l *lab) fails(want string, args ...string) {
	l.Helper()
	if out, err := l.run(args...); err == nil || !strings.Contains(out, want) {
		l.Errorf("%v: %v, want %q in\n%s", args, err, want, out)
	}
}

// serve starts the CA and returns what stops it.
func (l *lab) serve() (stop func()) {
	l.Helper()
	cmd := l.command("serve", "--config", "mayfly.yaml")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		l.Fatal(err)
	}
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			l.Errorf("serve: %v\n%s", err, &out)
		}
	}
	l.Cleanup(stop)
	return stop
}

func (l *lab) fetch(url string) (int, []byte) {
	r, err := http.NewRequestWithContext(l.Context(), http.MethodGet, url, nil)
	if err != nil {
		l.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	var body bytes.Buffer
	_, _ = body.ReadFrom(answer.Body)
	return answer.StatusCode, body.Bytes()
}

func (l *lab) get(path string) []byte {
	_, body := l.fetch("http://" + l.rest + path)
	return body
}

func (l *lab) admin(path string) []byte {
	_, body := l.fetch("http://" + l.adminEndpoint + path)
	return body
}

func (l *lab) ready() bool {
	code, _ := l.fetch("http://" + l.adminEndpoint + "/readyz")
	return code == http.StatusOK
}

func (l *lab) until(what string, done func() bool) {
	l.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			l.Fatalf("%s: not within a minute\n%s", what, l.admin("/readyz"))
		}
	}
}

// issues requests a certificate and verifies it under the trusted root that was exported.
func (l *lab) issues() {
	l.Helper()
	data, err := os.ReadFile(filepath.Join(l.dir, "trust/trusted_root.json"))
	if err != nil {
		l.Fatal(err)
	}
	root, err := trust.ParseTrustedRoot(data)
	if err != nil {
		l.Fatal(err)
	}
	believed := root.ForClient()
	ca, err := client.New(client.Options{URL: "http://" + l.rest, Trust: &believed})
	if err != nil {
		l.Fatal(err)
	}
	defer ca.Close()
	ctx, cancel := context.WithTimeout(l.Context(), 30*time.Second)
	defer cancel()
	if _, err := ca.Request(ctx, client.Request{
		Token:  l.provider.Token(nil),
		Signer: pki.NewKey(pki.P256),
	}); err != nil {
		l.Fatal(client.Explain(err))
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() //nolint:errcheck // nothing was accepted
	return ln.Addr().String()
}

// line is a line of the certificate in PEM.
func line(c *x509.Certificate) string {
	return strings.Split(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})), "\n")[5]
}
