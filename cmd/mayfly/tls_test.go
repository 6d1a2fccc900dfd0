package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/testkit/site"
)

// tlsPair returns a self-signed certificate for 127.0.0.1 with a serial number, and its key, both in PEM.
func tlsPair(t *testing.T, serial int64) (certificate, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(20 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// G3: a TLS certificate is replaced while the CA runs, by a rename or by the links of a Kubernetes volume, and also
// while the configuration has an error. A pair that cannot be used replaces nothing, and readiness says so.
func TestTLSReplaced(t *testing.T) {
	t.Parallel()
	s := site.New(t, 0)
	provider := idp.New(t, idp.Options{})
	http1, admin := process.FreeAddress(t), process.FreeAddress(t)
	s.Write(t, "identity.yaml", fmt.Appendf(nil,
		"oidc-issuers:\n  %q: {issuer-url: %q, client-id: sigstore, type: email}\n",
		provider.URL(), provider.URL()))
	// The layout of a Kubernetes volume: tls.crt -> ..data/tls.crt, ..data -> a directory that is replaced as a whole.
	volume := func(n int64, certificate, key []byte) {
		t.Helper()
		dir := fmt.Sprintf("..v%d", n)
		if err := os.Mkdir(filepath.Join(s.Dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		s.Write(t, dir+"/tls.crt", certificate)
		s.Write(t, dir+"/tls.key", key)
		link := filepath.Join(s.Dir, "..data_tmp")
		if err := os.Symlink(dir, link); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link, filepath.Join(s.Dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	certificate, key := tlsPair(t, 1)
	volume(1, certificate, key)
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink("..data/"+name, filepath.Join(s.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s.Write(t, "mayfly.yaml", fmt.Appendf(nil, `listen:
  http: %q
  grpc: %q
  admin: %q
  tls: {certificate: tls.crt, key: tls.key}
identity: {file: identity.yaml}
ca: {file: {chain: chain.pem, key: key.pem}}
ct: {embedded: {dir: log, origin: tls.test/ct}}
`, http1, http1, admin))
	logs := &logbuf.Buffer{}
	cmd := exec.Command("mayfly", "serve", "--config", filepath.Join(s.Dir, "mayfly.yaml"))
	cmd.Stderr = logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	serial := func() int64 {
		//nolint:gosec // the serial number is compared
		c, err := tls.Dial("tcp", http1, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return 0
		}
		defer c.Close() //nolint:errcheck // nothing was written
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	ready := func() string { _, body := process.Get(t, "http://"+admin+"/readyz"); return string(body) }
	process.Poll(t, "the first certificate is served", func() bool { return serial() == 1 })
	process.Poll(t, "ready", func() bool {
		res, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})

	s.Write(t, "identity.yaml", []byte("oidc-issuers: broken\n"))
	process.Poll(t, "the configuration is refused",
		func() bool { return strings.Contains(logs.String(), "not reloaded") })
	certificate, key = tlsPair(t, 2)
	volume(2, certificate, key)
	process.Poll(t, "the second certificate is served", func() bool { return serial() == 2 })

	_, other := tlsPair(t, 3)
	volume(3, certificate, other)
	process.Poll(t, "the problem is shown", func() bool { return strings.Contains(ready(), "listener api: ") })
	if n := serial(); n != 2 {
		t.Errorf("certificate %d is served", n)
	}
	certificate, key = tlsPair(t, 4)
	volume(4, certificate, key)
	process.Poll(t, "the fourth certificate is served", func() bool { return serial() == 4 })
	process.Poll(t, "the problem is over", func() bool { return !strings.Contains(ready(), "listener api: ") })
	_, metrics := process.Get(t, "http://"+admin+"/metrics")
	if !strings.Contains(string(metrics), `mayfly_expiry_timestamp_seconds{kind="tls",name="api"}`) {
		t.Error("the end of the certificate is not among the metrics")
	}
}

// A TLS certificate that cannot be used is refused at the start and by "config check", with the position of the
// setting.
func TestTLSRefused(t *testing.T) {
	t.Parallel()
	s := site.New(t, 0)
	certificate, _ := tlsPair(t, 1)
	_, other := tlsPair(t, 2)
	s.Write(t, "tls.crt", certificate)
	s.Write(t, "tls.key", other)
	s.Write(t, "mayfly.yaml", []byte(`listen:
  http: 127.0.0.1:0
  grpc: "off"
  admin: "off"
  tls: {certificate: tls.crt, key: tls.key}
identity: {file: identity.yaml}
ca: {file: {chain: chain.pem, key: key.pem}}
ct: {embedded: {dir: log, origin: tls.test/ct}}
`))
	for _, args := range [][]string{{"config", "check"}, {"serve"}} {
		out, err := exec.Command("mayfly", append(args, "--config",
			filepath.Join(s.Dir, "mayfly.yaml"))...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "mayfly.yaml:5:22") ||
			!strings.Contains(string(out), "private key does not match") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}
