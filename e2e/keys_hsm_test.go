//go:build keys

package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// hsmLab is a SoftHSM token with a P-256 key "ca", a chain for the key, and the library of testdata/pkcs11-shim.c
// between mayfly-hsm and SoftHSM.
type hsmLab struct {
	*lab.Lab
	env    []string
	module string // the shim
	ca     *lab.Mayfly
	issuer *lab.Issuer
}

// The PINs are texts that nothing else in a log has.
const rightPIN, wrongPIN = "pin-of-the-token", "pin-of-another-token"

// softHSM returns the path of the library.
func softHSM(t *testing.T) string {
	t.Helper()
	for _, pattern := range []string{
		"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib*/*/softhsm/libsofthsm2.so",
		"/usr/lib*/softhsm/libsofthsm2.so",
	} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("SoftHSM is not installed: apt-get install softhsm2 opensc")
	return ""
}

func newHSMLab(t *testing.T) *hsmLab {
	l := &hsmLab{Lab: lab.Plain(t, "mayfly-hsm")}
	library := softHSM(t)
	l.Mkdir("tokens")
	l.Mkdir("shim")
	l.module = l.Path("shim.so")
	source, err := filepath.Abs("testdata/pkcs11-shim.c")
	if err != nil {
		t.Fatal(err)
	}
	l.Run(lab.Command{Name: "cc", Args: []string{"-shared", "-fPIC", "-o", l.module, source, "-ldl"}})
	l.env = []string{
		"SOFTHSM2_CONF=" + l.Write("softhsm2.conf", "directories.tokendir = "+l.Path("tokens")+
			"\nobjectstore.backend = file\nlog.level = ERROR\n"),
		"SHIM_DIR=" + l.Path("shim"), "SHIM_MODULE=" + library,
	}
	l.Write("pin", rightPIN+"\n")
	l.tool("softhsm2-util", "--init-token", "--free", "--label", "e2e", "--pin", rightPIN, "--so-pin", "5678")
	l.tool("pkcs11-tool", "--module", library, "--login", "--pin", rightPIN, "--token-label", "e2e", "--keypairgen",
		"--id", "01", "--label", "ca", "--key-type", "EC:prime256v1")
	l.tool("pkcs11-tool", "--module", library, "--token-label", "e2e", "--read-object", "--type",
		"pubkey", "--id", "01",
		"--output-file", l.Path("pub.der"))
	l.chain()
	return l
}

func (l *hsmLab) tool(name string, args ...string) lab.Result {
	l.Helper()
	return l.Run(lab.Command{Name: name, Args: args, Env: l.env})
}

// chain writes a chain for the key in the token.
func (l *hsmLab) chain() {
	l.Helper()
	public, err := x509.ParsePKIXPublicKey([]byte(l.Read(l.Path("pub.der"))))
	if err != nil {
		l.Fatal(err)
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		l.Fatal(err)
	}
	now := time.Now()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"e2e"}, CommonName: "e2e root"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true,
	}
	issuing := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{Organization: []string{"e2e"}, CommonName: "e2e HSM"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, BasicConstraintsValid: true, IsCA: true,
		MaxPathLenZero: true,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		l.Fatal(err)
	}
	if root, err = x509.ParseCertificate(rootDER); err != nil {
		l.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, issuing, root, public, rootKey)
	if err != nil {
		l.Fatal(err)
	}
	l.Write("ca/chain.pem", lab.PEM("CERTIFICATE", der)+lab.PEM("CERTIFICATE", rootDER))
}

// hsmArgs are the arguments of mayfly-hsm.
func (l *hsmLab) hsmArgs() []string {
	return []string{
		"--module", l.module, "--token", "e2e", "--key", "ca", "--pin-file", l.Path("pin"), "--call-limit", "1s",
		"--state-dir", l.Path("shim"),
	}
}

// serve starts the CA with the settings of the key.
func (l *hsmLab) serve(settings string) {
	l.Helper()
	l.issuer = l.Issuer(nil)
	l.ca = &lab.Mayfly{
		URL: "http://" + l.Address(), GRPC: l.Address(), Admin: "http://" + l.Address(),
		Dir: l.Path("ca"),
	}
	l.Write("ca/identity.yaml", lab.EmailIssuer(l.issuer.URL))
	l.Write("ca/mayfly.yaml", fmt.Sprintf(`listen: {http: %q, grpc: %q, admin: %q}
identity: {file: identity.yaml}
ca:
  pkcs11: {chain: chain.pem, key: ca, %s}
ct:
  embedded: {dir: log, origin: e2e.test/hsm}
audit: {file: journal.jsonl}
`, strings.TrimPrefix(l.ca.URL, "http://"), l.ca.GRPC, strings.TrimPrefix(l.ca.Admin, "http://"), settings))
	l.ca.ServeAgain(l.Lab, append([]string{"env"}, l.env...)...)
}

// supervised are the settings with which the CA runs mayfly-hsm itself.
func (l *hsmLab) supervised() string {
	words := []string{strconv.Quote(l.Look("mayfly-hsm"))}
	for _, a := range l.hsmArgs() {
		words = append(words, strconv.Quote(a))
	}
	return "command: [" + strings.Join(words, ", ") + "]"
}

// request requests one certificate, and returns the reason of the refusal.
func (l *hsmLab) request(client *http.Client) (reason string, err error) {
	a, err := lab.RequestCertificate(l.Context(), client, l.ca.URL, l.issuer.Email("alice@example.com"),
		"alice@example.com")
	if err != nil {
		return "", err
	}
	if a.Status == http.StatusOK {
		_, err := a.Signed()
		return "", err
	}
	r, err := a.Refused()
	if err != nil {
		return "", err
	}
	if a.Header.Get("Retry-After") == "" {
		return "", fmt.Errorf("a refusal without Retry-After: %s", a.Body)
	}
	for _, d := range r.Details {
		if d.Reason != "" {
			return d.Reason, nil
		}
	}
	return "", fmt.Errorf("a refusal without a reason: %s", a.Body)
}

// hsmLoad is certificates that are requested all the time.
type hsmLoad struct {
	*hsmLab
	stop    chan struct{}
	running sync.WaitGroup
	good    atomic.Int64
	mu      sync.Mutex
	refused map[string]int
	last    time.Time // of a certificate
}

func (l *hsmLab) load(callers int) *hsmLoad {
	w := &hsmLoad{hsmLab: l, stop: make(chan struct{}), refused: map[string]int{}}
	for range callers {
		w.running.Go(func() {
			client := &http.Client{Timeout: 30 * time.Second}
			for {
				select {
				case <-w.stop:
					return
				default:
				}
				reason, err := l.request(client)
				w.mu.Lock()
				switch {
				case err != nil:
					l.Errorf("a request: %v", err)
				case reason == "":
					w.good.Add(1)
					w.last = time.Now()
				default:
					w.refused[reason]++
				}
				w.mu.Unlock()
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	return w
}

// next waits until a certificate is issued that was requested now, and returns how long that took.
func (w *hsmLoad) next() time.Duration {
	w.Helper()
	start := time.Now()
	for time.Since(start) < 60*time.Second {
		w.mu.Lock()
		last := w.last
		w.mu.Unlock()
		if last.After(start) {
			return last.Sub(start)
		}
		time.Sleep(2 * time.Millisecond)
	}
	w.Fatalf("no certificate within a minute\n%s", w.ca.Stderr())
	return 0
}

// end stops the load. All refusals have the one reason that names the signer.
func (w *hsmLoad) end(what string) {
	w.Helper()
	close(w.stop)
	w.running.Wait()
	w.Logf("%s: %d certificates, refused %v", what, w.good.Load(), w.refused)
	for reason := range w.refused {
		if reason != "SIGNER_UNAVAILABLE" {
			w.Errorf("%s: refused with %s", what, reason)
		}
	}
}

// children are the processes mayfly-hsm that process pid started.
func children(t *testing.T, pid int) (out []int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range tasks {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for _, word := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(word); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// mayflyPID is the process of the CA, which "env" became.
func (l *hsmLab) mayflyPID() int { return l.ca.PID() }

func (l *hsmLab) killHSM() {
	l.Helper()
	var killed bool
	for range 500 {
		for _, pid := range children(l.TB.(*testing.T), l.mayflyPID()) {
			killed = syscall.Kill(pid, syscall.SIGKILL) == nil || killed
		}
		if killed {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.Fatal("the CA runs no mayfly-hsm")
}

// readiness is the line of the signer in /readyz; "" while it is well.
func (l *hsmLab) readiness() string {
	resp, err := http.Get(l.ca.Admin + "/readyz?verbose")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	var body any
	_ = json.NewDecoder(resp.Body).Decode(&body)
	if resp.StatusCode == http.StatusOK {
		return ""
	}
	return fmt.Sprint(body)
}

// TestKeysHSMCrash runs the CA on a SoftHSM token whose library crashes and hangs, and whose process is killed, under
// load. The CA never ends, refuses with one reason, and issues again within seconds.
func TestKeysHSMCrash(t *testing.T) {
	t.Parallel()
	l := newHSMLab(t)
	l.serve(l.supervised())
	pid := l.mayflyPID()

	w := l.load(4)
	w.next()
	var longest time.Duration
	for range 10 {
		l.killHSM()
		longest = max(longest, w.next())
		time.Sleep(2 * time.Second)
	}
	w.end("killed ten times")
	t.Logf("killed ten times: at most %s until the next certificate", longest)

	w = l.load(4)
	w.next()
	for range 3 {
		l.Write("shim/crash", "")
		l.Eventually("the crash", func(context.Context) error {
			if _, err := os.Stat(l.Path("shim/crash")); err == nil {
				return errors.New("not yet")
			}
			return nil
		})
		t.Logf("the library crashed: %s until the next certificate", w.next())
	}
	w.end("crashed three times")

	w = l.load(4)
	w.next()
	l.Write("shim/hang", "")
	l.Eventually("the end of the process that hangs", func(context.Context) error {
		if !strings.Contains(l.ca.Stderr(), "a call to the PKCS#11 library does not return") {
			return errors.New("not yet")
		}
		return nil
	})
	l.Eventually("readiness that names the cause", func(context.Context) error {
		if text := l.readiness(); !strings.Contains(text, "signer") {
			return fmt.Errorf("readiness: %s", text)
		}
		return nil
	})
	if err := os.Remove(l.Path("shim/hang")); err != nil {
		t.Fatal(err)
	}
	t.Logf("the library hung: %s until the next certificate", w.next())
	w.end("hung")
	if got := l.mayflyPID(); got != pid || l.ca.Ended() {
		t.Error("the CA ended")
	}
	// A CA that is killed leaves no process behind.
	left := children(t, pid)
	l.ca.Kill()
	l.Eventually("the end of mayfly-hsm", func(context.Context) error {
		for _, p := range left {
			if syscall.Kill(p, 0) == nil {
				return fmt.Errorf("process %d is still there", p)
			}
		}
		return nil
	})
	if len(left) != 1 {
		t.Errorf("%d processes", len(left))
	}
}

// TestKeysHSMToken removes the token under load and brings it back, and changes the PIN. mayfly-hsm runs on its own.
func TestKeysHSMToken(t *testing.T) {
	t.Parallel()
	l := newHSMLab(t)
	socket := filepath.Join(os.TempDir(), fmt.Sprintf("e2e-hsm-%d.sock", os.Getpid())) // short enough for a socket
	args := append(l.hsmArgs(), "--socket", socket)
	start := func() *lab.Process {
		return l.Start("hsm", lab.Command{Name: "mayfly-hsm", Args: args, Env: l.env}, func(context.Context) error {
			if _, err := os.Stat(socket); err != nil {
				return err
			}
			return nil
		})
	}
	logins := func() int { text, _ := os.ReadFile(l.Path("shim/logins")); return len(text) }

	check := l.tool("mayfly-hsm", append(l.hsmArgs(), "--check")...)
	for _, want := range []string{"ECDSA P-256, label ca, id:01", "signs", "yes, in", "CKA_NEVER_EXTRACTABLE is true"} {
		if !strings.Contains(check.Stdout, want) {
			t.Errorf("--check does not say %q:\n%s", want, check.Stdout)
		}
	}
	before := logins()
	hsm := start()
	l.serve("socket: " + strconv.Quote(socket))
	w := l.load(4)
	w.next()
	for range 3 {
		if err := os.Rename(l.Path("tokens"), l.Path("away")); err != nil {
			t.Fatal(err)
		}
		l.Mkdir("tokens")
		l.Eventually("refusals", func(context.Context) error {
			if text := l.readiness(); !strings.Contains(text, "token") {
				return fmt.Errorf("readiness: %s", text)
			}
			return nil
		})
		if err := errors.Join(os.Remove(l.Path("tokens")), os.Rename(l.Path("away"), l.Path("tokens"))); err != nil {
			t.Fatal(err)
		}
		t.Logf("the token is back: %s until the next certificate", w.next())
	}
	if n := logins() - before; n > 4+3 { // a login may come too early, while the token is moved
		t.Errorf("%d logins for 4 connections", n)
	}
	w.end("token removed three times")

	// A wrong PIN is sent once, however often the process is started.
	w = l.load(2)
	w.next()
	l.Write("pin", wrongPIN+"\n")
	before = logins()
	for range 3 {
		hsm.Kill()
		hsm = start()
		l.Eventually("the refusal of the PIN", func(context.Context) error {
			if text := l.readiness(); !strings.Contains(text, "PIN") {
				return fmt.Errorf("readiness: %s", text)
			}
			return nil
		})
	}
	if n := logins() - before; n != 1 {
		t.Errorf("the wrong PIN was sent %d times", n)
	}
	for _, text := range []string{hsm.Stderr(), l.ca.Stderr(), hsm.Stdout()} {
		if strings.Contains(text, rightPIN) || strings.Contains(text, wrongPIN) {
			t.Error("a PIN is in the log")
		}
	}
	l.Write("pin", rightPIN+"\n")
	t.Logf("the right PIN is in its place: %s until the next certificate", w.next())
	if n := logins() - before; n != 2 {
		t.Errorf("%d logins", n)
	}
	w.end("wrong PIN")
	hsm.Stop()
	l.ca.Stop()
}

// TestKeysHSMKinds signs with every kind of key that a CA may have.
func TestKeysHSMKinds(t *testing.T) {
	t.Parallel()
	l := newHSMLab(t)
	library := softHSM(t)
	args := l.hsmArgs()
	kinds := map[string]string{
		"p384": "EC:secp384r1", "p521": "EC:secp521r1", "rsa2": "rsa:2048", "rsa4": "rsa:4096", "ed": "EC:edwards25519",
	}
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		id := fmt.Sprintf("%02x", i+16)
		l.tool("pkcs11-tool", "--module", library, "--login", "--pin", rightPIN, "--token-label", "e2e", "--keypairgen",
			"--id", id, "--label", name, "--key-type", kinds[name])
		args = append(args, "--key", name+",id:"+id)
	}
	r := l.tool("mayfly-hsm", append(args, "--check")...)
	if n := strings.Count(r.Stdout, "yes, in"); n != len(kinds)+1 {
		t.Errorf("%d keys sign\n%s", n, r.Stdout)
	}
	r = l.Try(lab.Command{Name: "mayfly-hsm", Args: append(args, "--key", "nothing", "--check"), Env: l.env})
	if r.Status != 3 || !strings.Contains(r.Stderr, "does not have this private key") ||
		strings.Count(r.Stdout, "yes, in") != len(kinds)+1 {
		t.Errorf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
}

// TestKeysHSMPage runs the walk-through of docs/keys-hsm.md in its order.
func TestKeysHSMPage(t *testing.T) {
	t.Parallel()
	l := lab.Plain(t, "mayfly-hsm")
	page, err := os.ReadFile("../docs/keys-hsm.md")
	if err != nil {
		t.Fatal(err)
	}
	script := "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n"
	change := strings.NewReplacer("/usr/lib/softhsm/libsofthsm2.so", softHSM(t), "bin/mayfly", "mayfly",
		"127.0.0.1:5555", l.Address(), "127.0.0.1:6112", l.Address())
	blocks := 0
	_, walk, found := strings.Cut(string(page), "## A CA on SoftHSM")
	walk, _, closed := strings.Cut(walk, "\n## ")
	if !found || !closed {
		t.Fatal("the page has no walk-through")
	}
	for _, b := range strings.Split(walk, "```")[1:] {
		language, text, _ := strings.Cut(b, "\n")
		switch language {
		case "sh":
			script += change.Replace(text)
			blocks++
		case "yaml":
			name, _, _ := strings.Cut(strings.TrimPrefix(text, "# "), "\n")
			script += "cat > " + name + " <<'END OF FILE'\n" + change.Replace(text) + "END OF FILE\n"
			blocks++
		}
	}
	if blocks < 6 {
		t.Fatalf("%d blocks", blocks)
	}
	r := l.Run(lab.Command{Name: "bash", Args: []string{l.Write("page.sh", script+"echo all done\n")}})
	if !strings.HasSuffix(strings.TrimSpace(r.Stdout), "all done") {
		t.Errorf("not to the end:\n%s%s", r.Stdout, r.Stderr)
	}
	t.Log(r.Stdout)
}
