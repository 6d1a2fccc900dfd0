package main

import (
	"bytes"
	"context"
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
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/trust"
)

// C2 // G3: no request fails during a hundred reloads in a second. An invalid file has no effect, and the log names the
// position of the error.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{PKI: pki.New(pki.Options{}), Issuer: provider.URL()})
	requests := process.Requests(t, provider)
	identity := func(n int, rest string) []byte {
		return fmt.Appendf(nil, "oidc-issuers:\n  %q: {client-id: sigstore, type: email, description: \"%d\"%s}\n",
			provider.URL(), n, rest)
	}
	stop := make(chan struct{})
	var done atomic.Int64
	var callers sync.WaitGroup
	for i := range 8 {
		call, release := s.Caller(t, i%2 == 0)
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
	first, before := s.Generation(t)
	for n := range 100 {
		s.Replace(t, "identity.yaml", identity(n, ""))
		s.Hangup(t)
		time.Sleep(10 * time.Millisecond) // a hundred a second
	}
	s.Until(t, "reloaded", func() bool { _, d := s.Generation(t); return d != before })
	s.Replace(t, "identity.yaml", identity(1000, ""))
	last := s.Digest(t, identity(1000, "")) // an earlier reload may not have finished
	s.Until(t, "reloaded because the file changed", func() bool { _, d := s.Generation(t); return d == last })
	number, good := s.Generation(t) // a requested reload may still increase the generation
	if number == first || done.Load() == 0 {
		t.Errorf("generation %s after %s, %d requests", number, first, done.Load())
	}

	s.Replace(t, "identity.yaml", identity(1, ", audiense: [x]"))
	s.Hangup(t)
	s.Until(t, "refused", func() bool { return strings.Contains(s.Logs.String(), "not reloaded") })
	if text := s.Logs.String(); !strings.Contains(text, "identity.yaml:2:") || !strings.Contains(text, "did you mean") {
		t.Errorf("the log does not name the position: %s", text)
	}
	if n, d := s.Generation(t); d != good {
		t.Errorf("an invalid file is in force: generation %s", n)
	}
	close(stop)
	callers.Wait()
	if strings.Contains(s.Logs.String(), "panic") {
		t.Error(s.Logs)
	}

	s.Replace(t, "identity.yaml", identity(2, ", policy: {rules: [{name: nothing, deny: 'true'}]}"))
	s.Hangup(t)
	s.Until(t, "reloaded", func() bool { _, d := s.Generation(t); return d != good })
	call, release := s.Caller(t, true)
	defer release()
	if err := call(requests[0]); err == nil || !strings.Contains(err.Error(), "status 403") ||
		!strings.Contains(err.Error(), `"rule":"nothing"`) {
		t.Errorf("the new policy is not in force: %v", err)
	}
}

// C6: a chain is replaced only together with its key. The embedded log still accepts the requests that began before.
func TestReloadChain(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	old, fresh := pki.New(pki.Options{}), pki.New(pki.Options{})
	s := process.Serve(t, process.Setup{PKI: old, Issuer: provider.URL(), Embedded: true})
	chains := func() int {
		status, body := process.Get(t, "http://"+s.HTTP+"/api/v2/trustBundle")
		var bundle struct{ Chains []any }
		if err := json.Unmarshal(body, &bundle); err != nil || status != http.StatusOK {
			t.Fatalf("%d %v", status, err)
		}
		return len(bundle.Chains)
	}
	s.Replace(t, "chain.pem", fresh.ChainPEM())
	s.Hangup(t)
	s.Until(t, "refused", func() bool { return strings.Contains(s.Logs.String(), "not reloaded") })
	if n := chains(); n != 1 {
		t.Errorf("%d chains after replacing only one of the two files", n)
	}
	s.Replace(t, "key.pem", fresh.KeyPEM())
	s.Hangup(t)
	issuing := base64.StdEncoding.EncodeToString(fresh.Intermediate.Raw)
	s.Until(t, "replaced", func() bool {
		_, bundle := process.Get(t, "http://"+s.HTTP+"/api/v2/trustBundle")
		return strings.Contains(strings.ReplaceAll(string(bundle), `\n`, ""), issuing)
	})
	if n := chains(); n != 1 {
		t.Errorf("%d chains after a change", n)
	}
	call, release := s.Caller(t, true)
	defer release()
	if err := call(process.Requests(t, provider)[0]); err != nil {
		t.Error(err)
	}
	if _, roots := process.Get(t, "http://"+s.HTTP+"/ct/ct/v1/get-roots"); bytes.Count(roots, []byte(`MII`)) < 2 {
		t.Errorf("the embedded log does not accept both roots: %s", roots)
	}
}

// C4: the trust bundle has the chains that the configuration names. A replaced chain stays while ca.trust lists it;
// otherwise the reload that replaces the chain removes it from the bundle.
func TestReplacedChain(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	old, fresh := pki.New(pki.Options{}), pki.New(pki.Options{})
	s := process.Serve(t, process.Setup{PKI: old, Issuer: provider.URL(), Embedded: true})
	bundle := func() string {
		_, body := process.Get(t, "http://"+s.HTTP+"/api/v2/trustBundle")
		return string(body)
	}
	has := func(p *pki.PKI) bool {
		der := base64.StdEncoding.EncodeToString(p.Intermediate.Raw)
		return strings.Contains(strings.ReplaceAll(bundle(), `\n`, ""), der)
	}
	main := s.Read(t, "mayfly.yaml")
	listed := bytes.Replace(main, []byte("ca:\n"), []byte("ca:\n  trust: [old.pem]\n"), 1)
	if bytes.Equal(listed, main) {
		t.Fatalf("no place for ca.trust in\n%s", main)
	}
	s.Replace(t, "old.pem", old.ChainPEM())
	s.Replace(t, "chain.pem", fresh.ChainPEM())
	s.Replace(t, "key.pem", fresh.KeyPEM())
	s.Replace(t, "mayfly.yaml", listed)
	s.Hangup(t)
	s.Until(t, "replaced", func() bool { return has(fresh) })
	if !has(old) {
		t.Error("the chain that ca.trust lists is not in the trust bundle")
	}
	s.Replace(t, "mayfly.yaml", main)
	s.Hangup(t)
	s.Until(t, "taken out", func() bool { return !has(old) })
	if !strings.Contains(s.Logs.String(), "a chain is no longer in the trust bundle") {
		t.Error("no warning about a chain that is no longer in the trust bundle")
	}
}

// G3: files that an invalid configuration names are watched, too, so their correction causes a reload.
func TestReloadCorrected(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{PKI: pki.New(pki.Options{}), Issuer: provider.URL()})
	_, before := s.Generation(t)
	main := s.Read(t, "mayfly.yaml")
	if err := os.Mkdir(filepath.Join(s.Dir, "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.Replace(t, "other/identity.yaml", []byte("oidc-issuers: x\n"))
	s.Replace(t, "mayfly.yaml", bytes.Replace(main, []byte("identity.yaml"), []byte("other/identity.yaml"), 1))
	s.Until(t, "refused", func() bool { return strings.Contains(s.Logs.String(), "not reloaded") })
	s.Replace(t, "other/identity.yaml", fmt.Appendf(nil,
		"oidc-issuers:\n  %q: {client-id: sigstore, type: email}\n", provider.URL()))
	s.Until(t, "reloaded", func() bool { _, d := s.Generation(t); return d != before })
}

// G2: "config check" finds the errors that stop a start before a socket opens.
func TestCheckIsStart(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{PKI: pki.New(pki.Options{}), Issuer: provider.URL()})
	main := s.Read(t, "mayfly.yaml")
	good := string(main)
	_, logs, _ := strings.Cut(good, "  logs:\n")
	twice := good + strings.Replace(logs, "name: lab", "name: two", 1)
	if err := os.MkdirAll(filepath.Join(s.Dir, "junk"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.Replace(t, "junk/log.key.pem", []byte("junk"))
	s.Replace(t, "other.json", rootWithoutLogs(t, pki.New(pki.Options{})))
	head, _, _ := strings.Cut(good, "ct:\n")
	for name, text := range map[string]string{
		"good": good, "one key, two logs": twice,
		"key of the embedded log":   head + "ct:\n  embedded: {dir: junk, origin: x.example.com/ct}\n",
		"log that is not published": good + "  policy: {trusted_root: other.json}\n",
		"too many operators":        good + "  policy: {min_scts: 2, min_operators: 2}\n",
		"log of another id": strings.Replace(good, "name: lab",
			"log_id: "+strings.Repeat("ab", 32)+", name: lab", 1),
		"wrong":    good + "nonsense: 1\n",
		"no chain": strings.Replace(good, "chain.pem", "ct.pem", 1),
	} {
		s.Replace(t, "try.yaml", []byte(text))
		_, errCheck := process.Mayfly(s.Dir, "config", "check", "--config", "try.yaml")
		text = strings.ReplaceAll(text, s.HTTP, "127.0.0.1:0")
		s.Replace(t, "try.yaml", []byte(strings.ReplaceAll(text, s.GRPC, "127.0.0.1:0")))
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		cmd := exec.CommandContext(ctx, "mayfly", "serve", "--config", "try.yaml")
		cmd.Dir = s.Dir
		out, errStart := cmd.CombinedOutput()
		started := bytes.Contains(out, []byte(`"msg":"listening`)) || bytes.Contains(out, []byte(`"msg":"ready"`))
		cancel()
		if started != (errCheck == nil) || started != (name == "good") {
			t.Errorf("%s: check says %v, start says %v: %s", name, errCheck, errStart, out)
		}
	}
}

// The older API is disabled and enabled by a reload.
func TestReloadV1(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{PKI: pki.New(pki.Options{}), Issuer: provider.URL()})
	main := s.Read(t, "mayfly.yaml")
	status := func() (int, string) {
		code, body := process.Get(t, "http://"+s.HTTP+"/api/v1/rootCert")
		return code, string(body)
	}
	if code, body := status(); code != http.StatusOK || !strings.HasPrefix(body, "-----BEGIN") {
		t.Fatalf("v1: %d %s", code, body)
	}
	s.Replace(t, "mayfly.yaml", append(bytes.Clone(main), "api: {v1: false}\n"...))
	s.Until(t, "v1 off", func() bool { code, _ := status(); return code == http.StatusNotFound })
	if _, body := status(); !strings.Contains(body, "use /api/v2/trustBundle") {
		t.Errorf("the answer does not say what to use: %s", body)
	}
	s.Replace(t, "mayfly.yaml", main)
	s.Until(t, "v1 on", func() bool { code, _ := status(); return code == http.StatusOK })
}

// B4 // G3: a reload is also checked against the published trusted root.
func TestReloadUnpublished(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{PKI: pki.New(pki.Options{}), Issuer: provider.URL()})
	main := s.Read(t, "mayfly.yaml")
	_, before := s.Generation(t)
	s.Replace(t, "root.json", rootWithoutLogs(t, pki.New(pki.Options{})))
	s.Replace(t, "mayfly.yaml", append(main, "  policy: {trusted_root: root.json}\n"...))
	s.Until(t, "refused", func() bool { return strings.Contains(s.Logs.String(), "log lab: its key") })
	if _, d := s.Generation(t); d != before {
		t.Error("a log that is not published is in force")
	}
	if out, err := process.Mayfly(s.Dir, "trust", "export", "--config", "mayfly.yaml", "--url",
		"https://ca.example.com", "--out", "trust"); err != nil {
		t.Fatal(err, out)
	}
	root := s.Read(t, "trust/trusted_root.json")
	s.Replace(t, "root.json", root) // the file is watched, like every file that the configuration names
	s.Until(t, "reloaded", func() bool { _, d := s.Generation(t); return d != before })
}

// rootWithoutLogs returns a trusted root with a CA and no log.
func rootWithoutLogs(t *testing.T, p *pki.PKI) []byte {
	t.Helper()
	root, err := trust.Material{Authorities: []trust.Authority{{
		URL:   "https://ca.example.com",
		Chain: p.Chain,
	}}}.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	return root
}
