package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// site is three servers of mayfly behind a balancer.
type site struct {
	*lab.Lab
	issuer  *lab.Issuer
	servers []*lab.Mayfly
	url     string // of the balancer
	roots   *x509.CertPool

	certificate, key, both string // files of the TLS certificate, of its key, and of both
}

// Listeners of the servers of a site.
const (
	twoPorts = iota // REST and gRPC in plain text
	onePort         // both on one port, in plain text
	onePortTLS
)

// newSite starts the servers. Their listeners have further settings, indented by two spaces.
func newSite(l *lab.Lab, mode int, listen string) *site {
	l.Helper()
	s := emptySite(l)
	if mode == onePortTLS {
		listen += s.listenTLS()
	}
	pki := l.PKI()
	for i := range 3 {
		s.servers = append(s.servers, l.Serve(lab.ServeOptions{
			Name: fmt.Sprintf("s%d", i+1), PKI: pki, Identity: lab.EmailIssuer(s.issuer.URL), OnePort: mode != twoPorts,
			CT:     fmt.Sprintf("  embedded: {dir: log, origin: e2e.test/s%d}\n", i+1),
			Listen: listen, More: "audit: {file: journal.jsonl}\n",
		}))
	}
	return s
}

// emptySite is a site without servers.
func emptySite(l *lab.Lab) *site {
	l.Helper()
	s := &site{Lab: l, issuer: l.Issuer(nil), url: "https://" + l.Address(), roots: x509.NewCertPool()}
	certificate, key := serverPair(l.TB, "ca.example.com")
	s.certificate, s.key = l.Write("tls/tls.crt", certificate), l.Write("tls/tls.key", key)
	s.both = l.Write("tls/both.pem", certificate+key)
	s.roots.AppendCertsFromPEM([]byte(certificate))
	return s
}

// listenTLS is the setting of listen for the TLS certificate of the site.
func (s *site) listenTLS() string {
	return fmt.Sprintf("  tls: {certificate: %s, key: %s}\n", s.certificate, s.key)
}

// bare returns HOST:PORT of a URL.
func bare(url string) string {
	_, address, _ := strings.Cut(url, "://")
	return address
}

func port(url string) string { return url[strings.LastIndexByte(url, ':')+1:] }

// sample returns the path of a file of deploy/proxy with the addresses and paths of the site in place of those of the
// sample: pairs of a text of the sample and its replacement.
func (s *site) sample(name string, pairs ...string) string {
	s.Helper()
	data, err := os.ReadFile(filepath.Join("..", "deploy", "proxy", name))
	if err != nil {
		s.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "#") { // comments on mayfly.yaml
			lines = append(lines, line)
		}
	}
	text := strings.Join(lines, "")
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			s.Fatalf("%s has no %q", name, pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	for _, rest := range []string{"10.0.0.", "/etc/", "/run/"} {
		if strings.Contains(text, rest) {
			s.Fatalf("%s still has %q:\n%s", name, rest, text)
		}
	}
	return s.Write("balancer/"+name, text)
}

// answers waits until the balancer answers requests.
func (s *site) answers(ctx context.Context) error {
	client := s.client("127.0.0.1", false)
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/api/v2/trustBundle", nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}

func (s *site) nginx() *lab.Process {
	s.Helper()
	var pairs []string
	for i, m := range s.servers {
		at := fmt.Sprintf("10.0.0.1%d:", i+1)
		pairs = append(pairs, at+"5555", bare(m.URL), at+"5554", m.GRPC)
	}
	temp := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temp += fmt.Sprintf("    %s_temp_path %s;\n", kind, s.Mkdir("balancer", kind))
	}
	file := s.sample("nginx.conf", append(pairs, "listen 443 ", "listen "+bare(s.url)+" ", "/etc/nginx/tls/tls.crt",
		s.certificate, "/etc/nginx/tls/tls.key", s.key, "/run/nginx.pid", s.Path("balancer", "pid"), "http {\n",
		"http {\n"+temp)...)
	return s.Start("nginx", lab.Command{
		Name: s.System("nginx"),
		Args: []string{"-c", file, "-p", s.Path("balancer"), "-e", "stderr", "-g", "daemon off;"},
	}, s.answers)
}

// haproxy starts HAProxy. more are further replacements in the sample.
func (s *site) haproxy(more ...string) *lab.Process {
	s.Helper()
	pairs := append(more, "10.0.0.10:443", bare(s.url), "/etc/haproxy/tls.pem", s.both)
	for i, m := range s.servers {
		pairs = append(pairs, fmt.Sprintf("10.0.0.1%d:443 check port 2112", i+1),
			fmt.Sprintf("%s check port %s", bare(m.URL), port(m.Admin)), fmt.Sprintf("10.0.0.1%d:443 track", i+1),
			m.GRPC+" track")
	}
	file := s.sample("haproxy.cfg", pairs...)
	return s.Start("haproxy", lab.Command{Name: s.System("haproxy"), Args: []string{"-db", "-f", file}}, s.answers)
}

func (s *site) envoy() *lab.Process {
	s.Helper()
	project := s.Project("clients/envoy", "sh", "-c",
		"python3 -m venv venv && venv/bin/pip install --quiet --requirement requirements.txt")
	pairs := []string{
		"address: 10.0.0.10, port_value: 443", "address: 127.0.0.1, port_value: " + port(s.url),
		"/etc/envoy/tls/tls.crt", s.certificate, "/etc/envoy/tls/tls.key", s.key,
	}
	admin := func(at string) string { return "port_value: " + at + "}" }
	for i, m := range s.servers {
		const between = "}}\n                  health_check_config: {"
		pairs = append(pairs, fmt.Sprintf("address: 10.0.0.1%d, port_value: 5555%s%s", i+1, between, admin("2112")),
			fmt.Sprintf("address: 127.0.0.1, port_value: %s%s%s", port(m.URL), between, admin(port(m.Admin))))
	}
	return s.Start("envoy", lab.Command{Name: project + "/venv/bin/envoy", Args: []string{
		"-c", s.sample("envoy.yaml", pairs...), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warn",
	}}, s.answers)
}

// client returns a client of the balancer with an address. It sends no request twice.
func (s *site) client(from string, h2 bool) *http.Client {
	return &http.Client{Timeout: lab.MaxWait, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.roots}, ForceAttemptHTTP2: h2,
		DialContext: (&net.Dialer{
			Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)},
		}).DialContext,
	}}
}

// forging adds headers with an address that the client invented.
type forging struct{ next http.RoundTripper }

const forged = "203.0.113.66"

func (f forging) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Forwarded-For", forged+", "+forged)
	r.Header.Set("Forwarded", "for="+forged)
	r.Header.Set("X-Real-Ip", forged)
	return f.next.RoundTrip(r)
}

// sources returns the addresses of clients in the journals, and in the log lines of requests, of all servers, with
// their number.
func (s *site) sources() (journal, log map[string]int) {
	s.Helper()
	count := func(text string, wanted func(msg, kind string) bool) map[string]int {
		out := map[string]int{}
		for line := range strings.Lines(text) {
			var r struct{ Msg, Type, Source string }
			if json.Unmarshal([]byte(line), &r) == nil && r.Source != "" && wanted(r.Msg, r.Type) {
				out[r.Source]++
			}
		}
		return out
	}
	journal, log = map[string]int{}, map[string]int{}
	for _, m := range s.servers {
		for k, n := range count(s.Read(m.Dir+"/journal.jsonl"), func(string, string) bool { return true }) {
			journal[k] += n
		}
		for k, n := range count(m.Stderr(), func(msg, _ string) bool { return msg == "request" }) {
			log[k] += n
		}
	}
	return journal, log
}

const who = "alice@example.com"

func (s *site) rest(ctx context.Context, client *http.Client) error {
	a, err := lab.RequestCertificate(ctx, client, s.url, s.issuer.Email(who), who)
	if err == nil {
		_, err = a.Signed()
	}
	return err
}

func (s *site) grpc(ctx context.Context, client *http.Client) error {
	_, err := lab.RequestOverGRPC(ctx, client, s.url, s.issuer.Email(who), who)
	return err
}

// TestBalancers puts the samples of deploy/proxy in front of three servers, with the released programs. Certificates
// are issued over REST and gRPC; journal and log have the address of the client, and never one that the client
// invented; a body that is too large is refused; and a server that is not ready gets no requests.
func TestBalancers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		mode   int
		listen string
		start  func(*site) *lab.Process
		fail   func(*site, *http.Client, *http.Client)
	}{
		{"nginx", twoPorts, "", (*site).nginx, (*site).refusing},
		{"haproxy", onePortTLS, "  proxy_protocol: true\n", (*site).haproxyTLS, (*site).unready},
		{"envoy", onePort, "", (*site).envoy, (*site).unready},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(lab.New(t), c.mode, "  trusted_proxies: [127.0.0.1]\n  drain_delay: 1m\n"+c.listen)
			c.start(s)
			rest, grpc := s.client("127.0.0.2", false), s.client("127.0.0.2", true)
			rest.Transport, grpc.Transport = forging{rest.Transport}, forging{grpc.Transport}
			const each = 9
			for range each {
				if err := s.rest(t.Context(), rest); err != nil {
					t.Errorf("REST: %v", err)
				}
				if err := s.grpc(t.Context(), grpc); err != nil {
					t.Errorf("gRPC: %v", err)
				}
			}
			journal, log := s.sources()
			if journal["127.0.0.2"] < 2*each || log["127.0.0.2"] != 2*each || journal[forged]+log[forged] > 0 {
				t.Errorf("sources in the journals: %v, in the logs: %v", journal, log)
			}
			if n := s.busy(); n != 3 {
				t.Errorf("%d servers have had requests", n)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/api/v2/signingCert",
				// the server reads a small remainder, so that no write fails
				strings.NewReader(strings.Repeat("x", 66000)))
			if err != nil {
				t.Fatal(err)
			}
			res, err := rest.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("a body of 66,000 bytes: %s", res.Status)
			}
			c.fail(s, rest, grpc)
		})
	}
}

// haproxyTLS starts HAProxy in front of servers with TLS, as the sample has it.
func (s *site) haproxyTLS() *lab.Process { return s.haproxy("/etc/haproxy/ca.pem", s.certificate) }

// busy returns how many servers have had requests for certificates.
func (s *site) busy() (n int) {
	for _, m := range s.servers {
		if served(m) > 0 {
			n++
		}
	}
	return n
}

// served returns how many requests for certificates a server has answered.
func served(m *lab.Mayfly) int {
	return strings.Count(m.Stderr(), `"method":"CreateSigningCertificate"`)
}

// unready has one server say that it is not ready: it is told to stop, and serves requests for its drain delay. The
// balancer sends it none.
func (s *site) unready(rest, grpc *http.Client) {
	s.Helper()
	leaving := s.servers[1]
	terminate(s.Lab, leaving)
	s.Eventually("the server is not ready", func(ctx context.Context) error {
		if lab.GetOK(ctx, leaving.Admin+"/readyz") == nil {
			return errors.New("ready")
		}
		return nil
	})
	time.Sleep(3 * time.Second) // an interval of the checks, and their duration
	before := served(leaving)
	for range 12 {
		if err := errors.Join(s.rest(s.Context(), rest), s.grpc(s.Context(), grpc)); err != nil {
			s.Error(err)
		}
	}
	if n := served(leaving) - before; n > 0 || leaving.Ended() {
		s.Errorf("%d requests reached the server that is not ready; ended: %t", n, leaving.Ended())
	}
}

// refusing has one server refuse connections. No client notices: the request was not sent, and nginx sends it to
// another server.
func (s *site) refusing(rest, grpc *http.Client) {
	s.Helper()
	s.servers[1].Kill()
	for range 12 {
		if err := errors.Join(s.rest(s.Context(), rest), s.grpc(s.Context(), grpc)); err != nil {
			s.Error(err)
		}
	}
}

func terminate(l *lab.Lab, m *lab.Mayfly) {
	l.Helper()
	if err := syscall.Kill(m.PID(), syscall.SIGTERM); err != nil {
		l.Fatal(err)
	}
}
