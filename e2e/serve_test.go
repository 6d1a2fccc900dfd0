package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// TestServe signs and verifies with released clients against "mayfly serve", once per kind of log. Timestamps and Rekor
// v2 are real, and no verification is turned off.
func TestServe(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	pki := l.PKI()
	services := l.Services()
	issuer := l.Issuer(nil)
	embedded := &lab.Log{Name: "embedded", Origin: "e2e.test/embedded"}
	for _, log := range []*lab.Log{l.TesseraCT(pki.RootFile), l.CTFE(pki.RootFile), embedded} {
		t.Run(log.Name, func(t *testing.T) {
			l := l.For(t)
			ct := lab.RemoteLog
			if log == embedded {
				ct = func(g *lab.Log) string { return fmt.Sprintf("  embedded: {dir: log, origin: %s}\n", g.Origin) }
			}
			ca := l.Serve(lab.ServeOptions{
				Name: "with-" + log.Name, PKI: pki, CT: ct(log), Identity: lab.EmailIssuer(issuer.URL),
				OnePort: log == embedded,
			})
			if log == embedded {
				log.URL, log.Key.Public = ca.URL+"/ct", ca.Dir+"/log/log.pub.pem"
			}
			s := serveCase{
				ca: ca, log: log, pki: pki, services: services, oidc: issuer,
				signer: signer{lab: l, issuer: issuer.URL, trust: l.Trust(lab.TrustOptions{
					Name: "trust-" + log.Name, CA: ca.URL, ChainFile: pki.ChainFile, OIDC: issuer.URL, Log: log,
					Services: services,
				})},
			}
			t.Run("cosign", s.cosign)
			t.Run("sigstore-go", s.sigstoreGo)
			t.Run("refusals", s.refusals)
			t.Run("exported trust", s.exportedTrust)
			if log.Origin != "" {
				t.Log("log:", l.CheckLog(log))
			}
			if log != embedded {
				t.Run("log gone", s.logGone)
			}
			ca.Stop()
		})
	}
}

// serveCase is one CA with its log.
type serveCase struct {
	signer
	ca       *lab.Mayfly
	log      *lab.Log
	pki      lab.PKI
	services lab.Services
	oidc     *lab.Issuer
}

// checkBundle proves that the certificate in a bundle is in the log, and that the bundle is complete.
func (s serveCase) checkBundle(l *lab.Lab, b blob) {
	l.Helper()
	bundle := l.Bundle(b.bundle)
	if bundle.Entries != 1 || bundle.Timestamps != 1 {
		l.Errorf("%s: %d log entries and %d timestamps in the bundle, want one of each", b.bundle, bundle.Entries,
			bundle.Timestamps)
	}
	l.CheckLogged(s.log, lab.Issued{Leaf: bundle.Leaf, Issuer: s.pki.Chain[0]})
}

// cosignAlgorithms are all values of cosign's --signing-algorithm.
func cosignAlgorithms() []string {
	return []string{
		"ecdsa-sha2-256-nistp256", "ecdsa-sha2-384-nistp384", "ecdsa-sha2-512-nistp521",
		"rsa-sign-pkcs1-2048-sha256", "rsa-sign-pkcs1-3072-sha256", "rsa-sign-pkcs1-4096-sha256",
	}
}

func (s serveCase) cosign(t *testing.T) {
	for _, algorithm := range cosignAlgorithms() {
		t.Run(algorithm, func(t *testing.T) {
			l := s.lab.For(t)
			b := newBlob(l, s.log.Name+"-"+algorithm)
			l.Run(s.cosignSign(b, "--signing-algorithm", algorithm, "--identity-token",
				s.oidc.Email("alice@example.com")))
			r := l.Run(s.cosignVerify(b, "alice@example.com"))
			if !strings.Contains(r.Stderr, "Verified OK") {
				t.Errorf("cosign says %q", r.Stderr)
			}
			s.checkBundle(l, b)
		})
	}
}

func (s serveCase) sigstoreGo(t *testing.T) {
	l := s.lab.For(t)
	b := newBlob(l, s.log.Name+"-conformance")
	l.Run(s.conformanceSign(b, s.oidc.Email("bob@example.com")))
	l.Run(s.conformanceVerify(b, "bob@example.com"))
	l.Run(s.cosignVerify(b, "bob@example.com")) // one client's bundle, the other's verification
	s.checkBundle(l, b)
	l.RunFails(s.conformanceVerify(b, "alice@example.com"), "no matching")
}

// refusals proves that the verifications above can fail: each case differs in one property.
func (s serveCase) refusals(t *testing.T) {
	l := s.lab.For(t)
	b := newBlob(l, s.log.Name+"-refusals")
	l.Run(s.cosignSign(b, "--identity-token", s.oidc.Email("carol@example.com")))
	l.RunFails(s.cosignVerify(b, "alice@example.com"), "no matching CertificateIdentity")

	other := s
	other.issuer = "https://issuer.example.com"
	l.RunFails(other.cosignVerify(b, "carol@example.com"), "no matching CertificateIdentity")

	other = s // a trusted root that holds another log key: the SCT must not verify
	other.trust = l.Trust(lab.TrustOptions{
		Name: "trust-wrong-" + s.log.Name, CA: s.ca.URL, ChainFile: s.pki.ChainFile, OIDC: s.issuer, Log: s.log,
		LogKey: l.LogKey("another-" + s.log.Name).Public, Services: s.services,
	})
	l.RunFails(other.cosignVerify(b, "carol@example.com"), "SCT")
	l.RunFails(other.conformanceVerify(b, "carol@example.com"), "certificate timestamp")

	changed := b
	changed.file = l.Write(s.log.Name+"-changed.txt", "something else\n")
	l.RunFails(s.cosignVerify(changed, "carol@example.com"), "")

	unknown := l.Issuer(nil) // an issuer that the CA does not know
	l.RunFails(s.cosignSign(newBlob(l, s.log.Name+"-unknown"), "--identity-token", unknown.Email("carol@example.com")),
		"There was an error processing the identity token")
}

// exportedTrust uses the files of "mayfly trust export", which name neither Rekor nor a timestamp authority here.
func (s serveCase) exportedTrust(t *testing.T) {
	l := s.lab.For(t)
	dir := l.Path("exported-" + s.log.Name)
	l.Run(lab.Command{Name: "mayfly", Args: []string{
		"trust", "export", "--config",
		s.ca.Dir + "/mayfly.yaml", "--out", dir,
	}})
	s.trust = lab.Trust{TrustedRoot: dir + "/trusted_root.json", SigningConfig: dir + "/signing_config.json"}
	b := newBlob(l, s.log.Name+"-exported")
	token := s.oidc.Email("dave@example.com")
	l.Run(s.cosignSign(b, "--identity-token", token))
	l.Run(s.cosignVerify(b, "dave@example.com", "--insecure-ignore-tlog"))
	l.RunFails(s.cosignVerify(b, "alice@example.com", "--insecure-ignore-tlog"), "no matching CertificateIdentity")
	l.Run(lab.Command{Name: "mayfly", Args: []string{
		"request", "--url", s.ca.URL, "--trusted-root", s.trust.TrustedRoot, "--token-file",
		l.Write(s.log.Name+"-token", token),
	}})
}

// logGone kills the log: requests must fail in time and with the right reason, and succeed when the log is back. // E2
// G2
func (s serveCase) logGone(t *testing.T) {
	l := s.lab.For(t)
	client := &http.Client{Timeout: lab.MaxWait}
	request := func() lab.Answer {
		t.Helper()
		a, err := lab.RequestCertificate(t.Context(), client, s.ca.URL, s.oidc.Email("erin@example.com"),
			"erin@example.com")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	s.log.Server.Kill()
	for range 3 {
		a := request()
		refusal, err := a.Refused()
		if err != nil {
			t.Fatal(err)
		}
		if a.Status != http.StatusServiceUnavailable || a.Took > 20*time.Second {
			t.Errorf("status %d after %s, want 503 within 20 s: %s", a.Status, a.Took, a.Body)
		}
		if wait, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || wait < 1 {
			t.Errorf("Retry-After %q, want whole seconds", a.Header.Get("Retry-After"))
		}
		if len(refusal.Details) == 0 || refusal.Details[0].Reason != "LOG_UNAVAILABLE" {
			t.Errorf("the reason is not LOG_UNAVAILABLE: %s", a.Body)
		}
		t.Logf("answer after %s", a.Took)
	}
	b := newBlob(l, s.log.Name+"-gone")
	l.RunFails(s.cosignSign(b, "--identity-token", s.oidc.Email("erin@example.com")), "")
	if _, err := os.Stat(b.bundle); err == nil {
		t.Error("cosign wrote a bundle without a certificate")
	}

	s.log.Restart(l)
	l.Eventually("certificates again", func(ctx context.Context) error {
		a, err := lab.RequestCertificate(ctx, client, s.ca.URL, s.oidc.Email("erin@example.com"), "erin@example.com")
		if err != nil {
			return err
		}
		issued, err := a.Signed()
		if err == nil {
			l.CheckLogged(s.log, issued)
		}
		return err
	})
}
