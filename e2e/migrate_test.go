package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// TestFulcioFlags compares the table of flags in docs/migrating.md with the flags of a released Fulcio.
func TestFulcioFlags(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	help := l.Run(lab.Command{Name: "fulcio", Args: []string{"serve", "--help"}})
	var want, got []string
	flag := regexp.MustCompile(`(?m)^ +(?:-\w, +)?--([\w.-]+)`)
	for _, m := range flag.FindAllStringSubmatch(help.Stdout+help.Stderr, -1) {
		want = append(want, m[1])
	}
	page, err := os.ReadFile("../docs/migrating.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `--([\\w.-]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		got = append(got, m[1])
	}
	slices.Sort(want)
	slices.Sort(got)
	if len(want) != 36 || !slices.Equal(want, got) {
		t.Errorf("Fulcio has %d flags:\n%q\nthe table has %d:\n%q", len(want), want, len(got), got)
	}
}

// move is the move of a released Fulcio to mayfly, by the lines of docs/migrating.md.
type move struct {
	*lab.Lab
	issuer   *lab.Issuer
	services lab.Services
	log      *lab.Log
	old      lab.PKI
	ports    *strings.Replacer
	// bundles are all signatures, in their order.
	bundles []blob
	signed  int
}

// block returns the shell block of the page that has the text, with the addresses of the lab.
func (m *move) block(text string) string {
	m.Helper()
	page, err := os.ReadFile("../docs/migrating.md")
	if err != nil {
		m.Fatal(err)
	}
	for _, part := range strings.Split(string(page), "```sh\n")[1:] {
		if block, _, _ := strings.Cut(part, "```"); strings.Contains(block, text) {
			return m.ports.Replace(block)
		}
	}
	m.Fatalf("docs/migrating.md has no block with %q", text)
	return ""
}

func (m *move) shell(text string) lab.Result {
	m.Helper()
	return m.Run(lab.Command{Name: "bash", Args: []string{"-e", "-c", m.block(text)}})
}

// TestMigrate moves a released Fulcio to mayfly, by the lines of docs/migrating.md: cosign signs before, during and
// after, no signature fails, and all of them verify with the trusted root that the page publishes.
func TestMigrate(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	m := &move{Lab: l, issuer: l.Issuer(nil), services: l.Services(), old: l.PKI()}
	roots := l.Write("roots.pem", l.Read(m.old.RootFile))
	m.log = l.TesseraCT(roots)
	addresses := map[string]string{}
	var pairs []string
	for _, port := range []string{"5555", "5554", "6555", "6554", "6112", "7555", "7554", "7112"} {
		addresses[port] = l.Address()
		pairs = append(pairs, "127.0.0.1:"+port, addresses[port],
			"port="+port, "port="+addresses[port][strings.LastIndex(addresses[port], ":")+1:])
	}
	m.ports = strings.NewReplacer(append(pairs, "http://127.0.0.1:6962", m.log.URL)...)
	url := func(port string) string { return "http://" + addresses[port] }

	l.Write("fulcio/config.yaml",
		fmt.Sprintf("oidc-issuers:\n  %s: {issuer-url: %q, client-id: sigstore, type: email}\n",
			m.issuer.URL, m.issuer.URL))
	l.Write("fulcio/chain.pem", l.Read(m.old.ChainFile))
	l.Write("fulcio/ct.pub", l.Read(m.log.Key.Public))
	l.Run(lab.Command{Name: "openssl", Args: []string{
		"pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:fulcio", "-in", m.old.KeyFile,
		"-out", l.Path("fulcio/key.pem"),
	}})
	translate := m.block("mayfly migrate fulcio --out mayfly")
	_, line, _ := strings.Cut(translate, "-- \\\n")
	metrics := l.Address()
	l.Start("fulcio", lab.Command{Name: "bash", Args: []string{
		"-c", "exec " + strings.TrimSpace(line) + " --metrics-port=" + metrics[strings.LastIndex(metrics, ":")+1:] +
			" --legacy-unix-domain-socket=@mayfly-e2e-" + metrics,
	}}, func(ctx context.Context) error { return lab.GetOK(ctx, url("5555")+"/healthz") })
	at := func(name, ca string) signer {
		return signer{lab: l, issuer: m.issuer.URL, trust: l.Trust(lab.TrustOptions{
			Name: name, CA: ca, ChainFile: m.old.ChainFile, OIDC: m.issuer.URL, Log: m.log, Services: m.services,
		})}
	}
	// lab.Trust writes fulcio/trusted_root.json: the trust material that verifiers of the former Sigstore have
	fulcio, front, after := at("fulcio", url("5555")), at("front", url("6555")), at("after", url("7555"))
	m.sign(fulcio, false)

	m.Run(lab.Command{Name: "bash", Args: []string{"-e", "-c", translate}})
	m.shell("mayfly config check")
	m.shell("mayfly ca init --dir mayfly/ca")
	m.ownKey()
	chain := l.Certificates(l.Read(l.Path("mayfly/ca/chain.pem")))
	l.Write("roots.pem", l.Read(m.old.RootFile)+lab.PEM("CERTIFICATE", chain[len(chain)-1].Raw))
	m.log.Server.Kill()
	m.log.Restart(l)

	shadow := l.Start("shadow", m.server("mayfly shadow --upstream"), func(ctx context.Context) error {
		return lab.GetOK(ctx, url("6112")+"/readyz")
	})
	m.sign(front, false)
	l.Eventually("a report", func(context.Context) error {
		r := l.Try(lab.Command{Name: "bash", Args: []string{"-c", m.block("mayfly shadow report shadow")}})
		if r.Status != 0 {
			return fmt.Errorf("exit status %d: %s%s", r.Status, r.Stdout, r.Stderr)
		}
		return nil
	})
	m.shell("mayfly migrate trust --config")
	l.Start("mayfly", m.server("mayfly serve --config"), func(ctx context.Context) error {
		return lab.GetOK(ctx, url("7112")+"/readyz")
	})
	m.sign(front, false)
	m.shell("mayfly shadow serve shadow 100%")
	m.until(front, true)
	m.shell("mayfly shadow serve shadow 0%")
	m.until(front, false)
	m.shell("mayfly shadow serve shadow 100%")
	m.until(front, true)
	shadow.Stop()
	m.sign(after, true)
	m.verify(l.Path("trust/trusted_root.json"))
	t.Logf("%d signatures", m.signed)
}

// server returns the command of a block that starts a server.
func (m *move) server(text string) lab.Command {
	return lab.Command{Name: "bash", Args: []string{"-c", "exec " + strings.TrimSpace(m.block(text))}}
}

// ownKey writes the block ca of the page into mayfly.yaml, in place of the translated one.
func (m *move) ownKey() {
	m.Helper()
	page, err := os.ReadFile("../docs/migrating.md")
	if err != nil {
		m.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), "```yaml\nca:\n")
	block, _, closed := strings.Cut(rest, "```")
	text := m.Read(m.Path("mayfly/mayfly.yaml"))
	before, tail, found := strings.Cut(text, "\nca:\n")
	_, ct, log := strings.Cut(tail, "\nct:\n")
	if !ok || !closed || !found || !log {
		m.Fatalf("the page, or mayfly.yaml, has no block ca:\n%s", text)
	}
	m.Write("mayfly/mayfly.yaml", before+"\nca:\n"+block+"ct:\n"+ct)
}

// sign signs once, and requires that the certificate is mayfly's, or Fulcio's.
func (m *move) sign(s signer, mayfly bool) {
	m.Helper()
	if got := m.signOnce(s); got != mayfly {
		m.Errorf("signature %d has a certificate of mayfly: %v, want %v", m.signed, got, mayfly)
	}
}

// signOnce signs once, and reports whether the certificate is mayfly's.
func (m *move) signOnce(s signer) bool {
	m.Helper()
	m.signed++
	b := newBlob(m.Lab, fmt.Sprintf("signature-%d", m.signed))
	// the trusted root is for cosign's own check of the certificate
	trusted := s
	if _, err := os.Stat(m.Path("trust/trusted_root.json")); err == nil {
		trusted.trust.TrustedRoot = m.Path("trust/trusted_root.json")
	}
	m.Run(trusted.cosignSign(b, "--identity-token", m.issuer.Email("alice@example.com")))
	m.bundles = append(m.bundles, b)
	return m.Bundle(b.bundle).Leaf.CheckSignatureFrom(m.old.Chain[0]) != nil
}

// until signs until the certificates are those of mayfly, or of Fulcio; a share is followed within a second.
func (m *move) until(s signer, mayfly bool) {
	m.Helper()
	m.Eventually(fmt.Sprintf("a certificate of mayfly: %v", mayfly), func(context.Context) error {
		if m.signOnce(s) != mayfly {
			return fmt.Errorf("signature %d is of the other CA", m.signed)
		}
		return nil
	})
}

// verify verifies all signatures: with the trusted root, and with trust from the TUF repository alone.
func (m *move) verify(root string) {
	m.Helper()
	site := httptest.NewServer(http.FileServer(http.Dir(m.Path("tuf/repository"))))
	m.Cleanup(site.Close)
	env := []string{"TUF_ROOT=" + m.Path("tuf-cache"), "HOME=" + m.Path("tuf-home")}
	m.Run(lab.Command{Name: "cosign", Env: env, Args: []string{
		"initialize", "--mirror", site.URL, "--root", m.Path("tuf/repository/1.root.json"),
	}})
	for _, b := range m.bundles {
		identity := []string{
			"--bundle", b.bundle, "--certificate-identity", "alice@example.com",
			"--certificate-oidc-issuer", m.issuer.URL, b.file,
		}
		m.Run(lab.Command{Name: "cosign", Args: append([]string{"verify-blob", "--trusted-root", root}, identity...)})
		m.Run(lab.Command{Name: "cosign", Env: env, Args: append([]string{"verify-blob"}, identity...)})
		m.Run(lab.Command{Name: "mayfly", Args: []string{
			"verify", b.bundle, "--trusted-root", root, "--artifact", b.file, "--identity", "alice@example.com",
			"--issuer", m.issuer.URL,
		}})
	}
}
