// Package process runs mayfly in a separate process.
package process

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// Program says which program of this module to build.
type Program struct {
	Dir     string // a folder of the module
	Package string // relative to Dir, such as ./cmd/mayfly
	Out     string // path of the program
	Overlay string // path of the file for the flag -overlay of "go build"; optional
}

// Build builds the program as the running test was built: with the race detector if the test has it, so that each
// package is compiled once for both.
func Build(tb testing.TB, p Program) {
	tb.Helper()
	args := []string{"build", "-pgo=off", "-ldflags=-s -w", "-overlay", p.Overlay, "-o", p.Out}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-race" {
				args = append(args, "-race="+s.Value)
			}
		}
	}
	cmd := exec.CommandContext(tb.Context(), "go", append(args, p.Package)...)
	cmd.Dir = p.Dir
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// Request is one request in both forms.
type Request struct {
	Proto *fulciopb.CreateSigningCertificateRequest
	JSON  []byte
}

// Requests returns the requests of a script.
func Requests(b testing.TB, provider *idp.Provider) []Request {
	b.Helper()
	out := make([]Request, 40)
	for i := range out {
		email := fmt.Sprintf("user%d@example.com", i)
		token := provider.Token(map[string]any{
			"sub": email, "email": email, "email_verified": true,
			"exp": time.Now().Add(time.Hour).Unix(),
		})
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			b.Fatal(err)
		}
		content := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		digest := sha256.Sum256([]byte(email))
		proof, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		if err != nil {
			b.Fatal(err)
		}
		out[i].Proto = &fulciopb.CreateSigningCertificateRequest{
			Credentials: &fulciopb.Credentials{Credentials: &fulciopb.Credentials_OidcIdentityToken{OidcIdentityToken: token}},
			Key: &fulciopb.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciopb.PublicKeyRequest{
				PublicKey: &fulciopb.PublicKey{Content: content}, ProofOfPossession: proof,
			}},
		}
		out[i].JSON, err = json.Marshal(map[string]any{
			"credentials": map[string]any{"oidcIdentityToken": token},
			"publicKeyRequest": map[string]any{
				"publicKey":         map[string]any{"algorithm": "ECDSA", "content": content},
				"proofOfPossession": proof,
			},
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return out
}

// Setup says how to run "mayfly serve".
type Setup struct {
	PKI      *pki.PKI
	Issuer   string
	Embedded bool
	Issuers  string // further entries of the issuer file
	CA       string // further settings of ca
	More     string // further settings, the first ones of ct
	One      bool   // REST and gRPC on one port
	Admin    bool   // with an admin listener
	TLS      bool   // on the listeners of the API
	Env      []string
	LogLevel string // default: warn
	Listen   string // further settings of listen, each after a comma
}

// Server is a running "mayfly serve".
type Server struct {
	Cmd        *exec.Cmd
	Logs       *logbuf.Buffer
	Dir        string
	HTTP, GRPC string
	Admin      string
	CPUBefore  time.Duration
	env        []string
	level      string      // of the log
	TLS        *tls.Config // of clients; nil: the API is served in plain text
}

// URL returns the URL of the REST API.
func (s *Server) URL() string {
	if s.TLS != nil {
		return "https://" + s.HTTP
	}
	return "http://" + s.HTTP
}

// Credentials are those of a gRPC client.
func (s *Server) Credentials() credentials.TransportCredentials {
	if s.TLS != nil {
		return credentials.NewTLS(s.TLS)
	}
	return insecure.NewCredentials()
}

// Serve starts a server and waits until it is ready.
func Serve(tb testing.TB, set Setup) *Server {
	tb.Helper()
	dir := tb.TempDir()
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	s := &Server{Logs: &logbuf.Buffer{}, Dir: dir, HTTP: FreeAddress(tb), GRPC: FreeAddress(tb), Admin: "off"}
	if set.One {
		s.GRPC = s.HTTP
	}
	if set.Admin {
		s.Admin = FreeAddress(tb)
	}
	logs := "  embedded: {dir: log, origin: mayfly.local/ct}\n"
	if !set.Embedded {
		log := ct.New(tb, ct.Options{Roots: []*x509.Certificate{set.PKI.Root}})
		write("ct.pem", log.PublicKeyPEM())
		logs = fmt.Sprintf("  logs:\n    - {name: lab, url: %q, public_key: ct.pem}\n", log.URL())
	}
	write("chain.pem", set.PKI.ChainPEM())
	write("key.pem", set.PKI.KeyPEM())
	write("identity.yaml",
		fmt.Appendf(nil, "oidc-issuers:\n  %q: {issuer-url: %q, client-id: sigstore, type: email}\n%s", set.Issuer,
			set.Issuer, set.Issuers))
	secured := ""
	if set.TLS {
		certificate, key, err := selfSigned()
		if err != nil {
			tb.Fatal(err)
		}
		write("tls.pem", certificate)
		write("tls.key", key)
		secured = ", tls: {certificate: tls.pem, key: tls.key}"
		s.TLS = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"}
		s.TLS.RootCAs.AppendCertsFromPEM(certificate)
	}
	write("mayfly.yaml", fmt.Appendf(nil, "listen: {http: %q, grpc: %q, admin: %q%s}\n"+
		"identity: {file: identity.yaml}\nca:\n  file: {chain: chain.pem, key: key.pem}\n%sct:\n%s%s",
		s.HTTP, s.GRPC, s.Admin, secured+set.Listen, set.CA, logs, set.More))
	s.env, s.level = append(os.Environ(), set.Env...), set.LogLevel
	tb.Cleanup(func() { _ = s.Stop() })
	s.start(tb)
	return s
}

// Existing says which instance [Start] starts.
type Existing struct {
	Dir         string // of mayfly.yaml
	HTTP, Admin string // its listeners
	TLS         *tls.Config
	Env         []string
}

// Start starts "mayfly serve" with a configuration that exists, and waits until the server is ready.
func Start(tb testing.TB, e Existing) *Server {
	tb.Helper()
	s := &Server{Logs: &logbuf.Buffer{}, Dir: e.Dir, HTTP: e.HTTP, GRPC: e.HTTP, Admin: e.Admin, TLS: e.TLS}
	s.env = append(os.Environ(), e.Env...)
	tb.Cleanup(func() { _ = s.Stop() })
	s.start(tb)
	return s
}

// Stop interrupts the server and waits until it has ended.
func (s *Server) Stop() error {
	if err := s.Cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	return s.Cmd.Wait()
}

// start starts the process and waits until it is ready.
func (s *Server) start(tb testing.TB) {
	tb.Helper()
	s.Cmd = exec.Command(cmp.Or(os.Getenv("MAYFLY"), "mayfly"), "serve", "--config",
		filepath.Join(s.Dir, "mayfly.yaml"), "--log-level", cmp.Or(s.level, "warn"))
	s.Cmd.Stderr, s.Cmd.Env = s.Logs, s.env
	if err := s.Cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		transport := &http.Transport{TLSClientConfig: s.TLS, DisableKeepAlives: true}
		resp, err := (&http.Client{Transport: transport}).Get(s.URL() + "/api/v2/trustBundle")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			tb.Fatalf("mayfly serve is not ready: %v; log:\n%s", err, s.Logs)
		}
		time.Sleep(20 * time.Millisecond) // the state of another process can only be polled
	}
}

// KillAndStart ends the process with SIGKILL, starts it again with the same configuration, and waits until it is ready.
func (s *Server) KillAndStart(tb testing.TB) {
	tb.Helper()
	if err := s.Cmd.Process.Kill(); err != nil {
		tb.Fatal(err)
	}
	_ = s.Cmd.Wait() // the error is expected: the process was killed
	s.start(tb)
}

// selfSigned returns a certificate for localhost and its key, both in PEM.
func selfSigned() (certificate, private []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), err
}

// givenOut counts the addresses that freeAddress has given out.
var givenOut atomic.Int64

// FreeAddress returns an address on loopback that nothing listens on. Its port lies below those that the system gives
// to connections, of which other tests open thousands.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	for range 1000 {
		port := 10000 + (int64(os.Getpid())*97+givenOut.Add(1))%20000
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			defer l.Close() //nolint:errcheck // an error has no consequence for the test
			return l.Addr().String()
		}
	}
	tb.Fatal("no free port between 10000 and 30000")
	return ""
}

// Caller returns a func that makes one request, and one that releases the connections.
func (s *Server) Caller(b testing.TB, rest bool) (call func(Request) error, done func()) {
	b.Helper()
	if rest {
		transport := &http.Transport{MaxIdleConnsPerHost: 128, TLSClientConfig: s.TLS}
		c := &http.Client{Transport: transport, Timeout: 30 * time.Second}
		return func(r Request) error {
			resp, err := c.Post(s.URL()+"/api/v2/signingCert", "application/json", bytes.NewReader(r.JSON))
			if err != nil {
				return err
			}
			defer resp.Body.Close() //nolint:errcheck // an error has no consequence for the test
			body, err := io.ReadAll(resp.Body)
			if err == nil && (resp.StatusCode != http.StatusOK ||
				!bytes.Contains(body, []byte("signedCertificateEmbeddedSct"))) {
				err = fmt.Errorf("status %d: %s", resp.StatusCode, body)
			}
			return err
		}, transport.CloseIdleConnections
	}
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(s.Credentials()))
	if err != nil {
		b.Fatal(err)
	}
	c := fulciopb.NewCAClient(conn)
	return func(r Request) error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		got, err := c.CreateSigningCertificate(ctx, r.Proto)
		if err == nil && got.GetSignedCertificateEmbeddedSct() == nil {
			err = errors.New("no embedded SCT")
		}
		return err
	}, func() { _ = conn.Close() }
}

// CPU returns the processor time that the server has used, from /proc (clock ticks of 10 ms), or 0 without /proc.
func (s *Server) CPU() time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.Cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if errors.Join(err1, err2) != nil {
		return 0
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// PeakRSS returns the server's largest resident size in bytes, from /proc, or 0 without /proc.
func (s *Server) PeakRSS() int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), "VmHWM:")
	var kb int
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		return 0
	}
	return kb << 10
}

// DevProcess is a running "mayfly dev".
type DevProcess struct {
	Cmd                      *exec.Cmd
	Logs                     *logbuf.Buffer
	URL, GRPC, Issuer, Admin string
	printed                  string
}

// Dev starts "mayfly dev" on free ports in the directory cwd and waits until it has printed its lines.
func Dev(cwd string, flags ...string) (*DevProcess, error) { return DevOf("mayfly", cwd, flags...) }

// DevOf is Dev with the mayfly at a path.
func DevOf(mayfly, cwd string, flags ...string) (*DevProcess, error) {
	args := append([]string{
		"dev", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--idp",
		"127.0.0.1:0",
	}, flags...)
	p := &DevProcess{Cmd: exec.Command(mayfly, args...), Logs: &logbuf.Buffer{}}
	p.Cmd.Dir = cwd
	p.Cmd.Env = append(os.Environ(), "NO_COLOR=1")
	p.Cmd.Stderr = p.Logs
	out, err := p.Cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.Cmd.Start(); err != nil {
		return nil, err
	}
	found := make(map[string]string)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		p.printed += lines.Text() + "\n"
		if f := strings.Fields(lines.Text()); len(f) == 2 {
			found[f[0]] = f[1]
		}
		if strings.Contains(lines.Text(), "Ctrl-C stops") {
			break
		}
	}
	p.URL, p.GRPC, p.Issuer, p.Admin = found["REST"], found["gRPC"], found["sign-in"],
		strings.TrimSuffix(found["readiness"], "/readyz")
	if p.URL == "" {
		return nil, fmt.Errorf("mayfly dev printed no addresses: %w; log:\n%s", p.Cmd.Wait(), p.Logs)
	}
	return p, nil
}

// Stop interrupts the process and expects an orderly end within five seconds (two on a machine that does nothing else).
func (p *DevProcess) Stop() error {
	began := time.Now()
	if err := p.Cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	if err := p.Cmd.Wait(); err != nil {
		return fmt.Errorf("mayfly dev: %w; log:\n%s", err, p.Logs)
	}
	if d := time.Since(began); d > 5*time.Second {
		return fmt.Errorf("mayfly dev took %s to stop", d)
	}
	return nil
}

// Get returns the response body of a GET request.
func Get(t *testing.T, url string) (int, []byte) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // an error has no consequence for the test
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// Mayfly returns the path of the binary under test.
func Mayfly(dir string, args ...string) (string, error) {
	cmd := exec.Command("mayfly", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	return string(out), err
}

// Poll waits until the condition holds.
func Poll(t *testing.T, what string, holds func() bool) {
	t.Helper()
	// the background work has no event
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s", what)
		}
	}
}

// Generation returns the answer of GET /api/v2/configuration about the configuration in force.
func (s *Server) Generation(t *testing.T) (number, digest string) {
	t.Helper()
	resp, err := http.Get("http://" + s.HTTP + "/api/v2/configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // an error has no consequence for the test
	return resp.Header.Get("Mayfly-Config-Generation"), resp.Header.Get("Mayfly-Config-Digest")
}

// Until waits at most ten seconds for a condition that another process brings about.
func (s *Server) Until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not %s; log:\n%s", what, s.Logs)
		}
		time.Sleep(10 * time.Millisecond) // the state of another process can only be polled
	}
}

// Read returns the content of a file in the directory of the CA.
func (s *Server) Read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Replace writes a temporary file and renames it, as programs that replace a configuration do.
func (s *Server) Replace(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join(s.Dir, name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// Hangup sends SIGHUP to the server.
func (s *Server) Hangup(t *testing.T) {
	t.Helper()
	if err := s.Cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// Digest returns the digest of the configuration with this issuer file.
func (s *Server) Digest(t *testing.T, identity []byte) string {
	t.Helper()
	main, err := os.ReadFile(filepath.Join(s.Dir, "mayfly.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	a, b := sha256.Sum256(main), sha256.Sum256(identity)
	return fmt.Sprintf("%x", sha256.Sum256(append(a[:], b[:]...)))
}
