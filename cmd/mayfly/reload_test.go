package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// generation returns what GET /api/v2/configuration says of the configuration in force.
func (s *serveProcess) generation(t *testing.T) (number, digest string) {
	t.Helper()
	resp, err := http.Get("http://" + s.http + "/api/v2/configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.Header.Get("Mayfly-Config-Generation"), resp.Header.Get("Mayfly-Config-Digest")
}

// until waits for another process to have done something, at most ten seconds.
func (s *serveProcess) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not %s; log:\n%s", what, s.logs)
		}
		time.Sleep(10 * time.Millisecond) // another process: there is nothing to wait on but its answers
	}
}

// replace writes a file the way careful programs do: beside it, then renamed.
func (s *serveProcess) replace(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (s *serveProcess) hangup(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// digest is that of the configuration with this issuer file.
func (s *serveProcess) digest(t *testing.T, identity []byte) string {
	t.Helper()
	main, err := os.ReadFile(filepath.Join(s.dir, "mayfly.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	a, b := sha256.Sum256(main), sha256.Sum256(identity)
	return fmt.Sprintf("%x", sha256.Sum256(append(a[:], b[:]...)))
}

// C2 // G3: a hundred reloads in a second cost no request. A broken file changes nothing, and says where it is broken.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := startServe(t, serveSetup{pki: pki.New(pki.Options{}), issuer: provider.URL()})
	requests := makeRequests(t, provider)
	identity := func(n int, rest string) []byte {
		return fmt.Appendf(nil, "oidc-issuers:\n  %q: {client-id: sigstore, type: email, description: \"%d\"%s}\n", provider.URL(), n, rest)
	}
	stop := make(chan struct{})
	var done atomic.Int64
	var callers sync.WaitGroup
	for i := range 8 {
		call, release := s.caller(t, i%2 == 0)
		callers.Go(func() {
			defer release()
			for n := i; ; n += 8 {
				select {
				case <-stop:
					return
				default:
				}
				if err := call(requests[n%len(requests)]); err != nil {
					t.Errorf("a request failed during reloads: %v", err)
					return
				}
				done.Add(1)
			}
		})
	}
	first, before := s.generation(t)
	for n := range 100 {
		s.replace(t, "identity.yaml", identity(n, ""))
		s.hangup(t)
		time.Sleep(10 * time.Millisecond) // a hundred a second
	}
	s.until(t, "reloaded", func() bool { _, d := s.generation(t); return d != before })
	s.replace(t, "identity.yaml", identity(1000, ""))
	last := s.digest(t, identity(1000, "")) // an earlier reload may still be under way
	s.until(t, "reloaded because the file changed", func() bool { _, d := s.generation(t); return d == last })
	number, good := s.generation(t) // a reload that was asked for may still count it up
	if number == first || done.Load() == 0 {
		t.Errorf("generation %s after %s, %d requests", number, first, done.Load())
	}

	s.replace(t, "identity.yaml", identity(1, ", audiense: [x]"))
	s.hangup(t)
	s.until(t, "refused", func() bool { return strings.Contains(s.logs.String(), "not reloaded") })
	if text := s.logs.String(); !strings.Contains(text, "identity.yaml:2:") || !strings.Contains(text, "did you mean") {
		t.Errorf("the log does not say where: %s", text)
	}
	if n, d := s.generation(t); d != good {
		t.Errorf("a broken file is in force: generation %s", n)
	}
	close(stop)
	callers.Wait()
	if strings.Contains(s.logs.String(), "panic") {
		t.Error(s.logs)
	}

	s.replace(t, "identity.yaml", identity(2, ", policy: {rules: [{name: nobody, deny: 'true'}]}"))
	s.hangup(t)
	s.until(t, "reloaded", func() bool { _, d := s.generation(t); return d != good })
	call, release := s.caller(t, true)
	defer release()
	if err := call(requests[0]); err == nil || !strings.Contains(err.Error(), "status 403") || !strings.Contains(err.Error(), `"rule":"nobody"`) {
		t.Errorf("the new policy is not in force: %v", err)
	}
}

// C6: a chain is replaced as a pair with its key, never by half; requests on their way still reach the embedded log.
func TestReloadChain(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	old, fresh := pki.New(pki.Options{}), pki.New(pki.Options{})
	s := startServe(t, serveSetup{pki: old, issuer: provider.URL(), embedded: true})
	chains := func() int {
		status, body := get(t, "http://"+s.http+"/api/v2/trustBundle")
		var bundle struct{ Chains []any }
		if err := json.Unmarshal(body, &bundle); err != nil || status != http.StatusOK {
			t.Fatalf("%d %v", status, err)
		}
		return len(bundle.Chains)
	}
	s.replace(t, "chain.pem", fresh.ChainPEM())
	s.hangup(t)
	s.until(t, "refused", func() bool { return strings.Contains(s.logs.String(), "not reloaded") })
	if n := chains(); n != 1 {
		t.Errorf("%d chains after half a change", n)
	}
	s.replace(t, "key.pem", fresh.KeyPEM())
	s.hangup(t)
	issuing := base64.StdEncoding.EncodeToString(fresh.Intermediate.Raw)
	s.until(t, "replaced", func() bool {
		_, bundle := get(t, "http://"+s.http+"/api/v2/trustBundle")
		return strings.Contains(strings.ReplaceAll(string(bundle), `\n`, ""), issuing)
	})
	if n := chains(); n != 1 {
		t.Errorf("%d chains after a change", n)
	}
	call, release := s.caller(t, true)
	defer release()
	if err := call(makeRequests(t, provider)[0]); err != nil {
		t.Error(err)
	}
	if _, roots := get(t, "http://"+s.http+"/ct/ct/v1/get-roots"); bytes.Count(roots, []byte(`MII`)) < 2 {
		t.Errorf("the embedded log does not know both roots: %s", roots)
	}
}

// C4: the trust bundle has the chains that the configuration names: a replaced one stays while ca.trust lists it, and a
// chain whose key was stolen is out with the reload that replaces it.
func TestReplacedChain(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	old, fresh := pki.New(pki.Options{}), pki.New(pki.Options{})
	s := startServe(t, serveSetup{pki: old, issuer: provider.URL(), embedded: true})
	bundle := func() string {
		_, body := get(t, "http://"+s.http+"/api/v2/trustBundle")
		return string(body)
	}
	has := func(p *pki.PKI) bool {
		der := base64.StdEncoding.EncodeToString(p.Intermediate.Raw)
		return strings.Contains(strings.ReplaceAll(bundle(), `\n`, ""), der)
	}
	main, err := os.ReadFile(filepath.Join(s.dir, "mayfly.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	listed := bytes.Replace(main, []byte("ca:\n"), []byte("ca:\n  trust: [old.pem]\n"), 1)
	if bytes.Equal(listed, main) {
		t.Fatalf("no place for ca.trust in\n%s", main)
	}
	s.replace(t, "old.pem", old.ChainPEM())
	s.replace(t, "chain.pem", fresh.ChainPEM())
	s.replace(t, "key.pem", fresh.KeyPEM())
	s.replace(t, "mayfly.yaml", listed)
	s.hangup(t)
	s.until(t, "replaced", func() bool { return has(fresh) })
	if !has(old) {
		t.Error("the chain that ca.trust lists is not in the trust bundle")
	}
	s.replace(t, "mayfly.yaml", main)
	s.hangup(t)
	s.until(t, "taken out", func() bool { return !has(old) })
	if !strings.Contains(s.logs.String(), "a chain leaves the trust bundle") {
		t.Error("no warning of a chain that leaves the trust bundle")
	}
}

// G3: a file that a refused configuration names is watched too: its correction is a reload.
func TestReloadCorrected(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := startServe(t, serveSetup{pki: pki.New(pki.Options{}), issuer: provider.URL()})
	_, before := s.generation(t)
	main, err := os.ReadFile(filepath.Join(s.dir, "mayfly.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.dir, "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.replace(t, "other/identity.yaml", []byte("oidc-issuers: x\n"))
	s.replace(t, "mayfly.yaml", bytes.Replace(main, []byte("identity.yaml"), []byte("other/identity.yaml"), 1))
	s.until(t, "refused", func() bool { return strings.Contains(s.logs.String(), "not reloaded") })
	s.replace(t, "other/identity.yaml", fmt.Appendf(nil, "oidc-issuers:\n  %q: {client-id: sigstore, type: email}\n", provider.URL()))
	s.until(t, "reloaded", func() bool { _, d := s.generation(t); return d != before })
}

// G2: what stops the start stops the check, before a socket opens.
func TestCheckIsStart(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := startServe(t, serveSetup{pki: pki.New(pki.Options{}), issuer: provider.URL()})
	main, err := os.ReadFile(filepath.Join(s.dir, "mayfly.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	good := string(main)
	_, logs, _ := strings.Cut(good, "  logs:\n")
	twice := good + strings.Replace(logs, "name: lab", "name: two", 1)
	if err := os.MkdirAll(filepath.Join(s.dir, "junk"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.replace(t, "junk/log.key.pem", []byte("junk"))
	s.replace(t, "other.json", rootWithoutLogs(t, pki.New(pki.Options{})))
	head, _, _ := strings.Cut(good, "ct:\n")
	for name, text := range map[string]string{
		"good": good, "one key, two logs": twice, "key of the embedded log": head + "ct:\n  embedded: {dir: junk, origin: x.example.com/ct}\n",
		"log that is not published": good + "  policy: {trusted_root: other.json}\n", "too many operators": good + "  policy: {min_scts: 2, min_operators: 2}\n",
		"log of another id": strings.Replace(good, "name: lab", "log_id: "+strings.Repeat("ab", 32)+", name: lab", 1),
		"wrong":             good + "nonsense: 1\n", "no chain": strings.Replace(good, "chain.pem", "ct.pem", 1),
	} {
		s.replace(t, "try.yaml", []byte(text))
		_, errCheck := runIn(s.dir, "config", "check", "--config", "try.yaml")
		text = strings.ReplaceAll(text, s.http, "127.0.0.1:0")
		s.replace(t, "try.yaml", []byte(strings.ReplaceAll(text, s.grpc, "127.0.0.1:0")))
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		cmd := exec.CommandContext(ctx, "mayfly", "serve", "--config", "try.yaml")
		cmd.Dir = s.dir
		out, errStart := cmd.CombinedOutput()
		started := bytes.Contains(out, []byte(`"msg":"listening`)) || bytes.Contains(out, []byte(`"msg":"ready"`))
		cancel()
		if started != (errCheck == nil) || started != (name == "good") {
			t.Errorf("%s: check says %v, start says %v: %s", name, errCheck, errStart, out)
		}
	}
}

// The older API goes and comes back with the configuration.
func TestReloadV1(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := startServe(t, serveSetup{pki: pki.New(pki.Options{}), issuer: provider.URL()})
	main, err := os.ReadFile(filepath.Join(s.dir, "mayfly.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	status := func() (int, string) {
		code, body := get(t, "http://"+s.http+"/api/v1/rootCert")
		return code, string(body)
	}
	if code, body := status(); code != http.StatusOK || !strings.HasPrefix(body, "-----BEGIN") {
		t.Fatalf("v1: %d %s", code, body)
	}
	s.replace(t, "mayfly.yaml", append(bytes.Clone(main), "api: {v1: false}\n"...))
	s.until(t, "v1 off", func() bool { code, _ := status(); return code == http.StatusNotFound })
	if _, body := status(); !strings.Contains(body, "use /api/v2/trustBundle") {
		t.Errorf("the answer does not say what to use: %s", body)
	}
	s.replace(t, "mayfly.yaml", main)
	s.until(t, "v1 on", func() bool { code, _ := status(); return code == http.StatusOK })
}
