package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// TestACME has a released ACME server issue the TLS certificate of a CA. The certificate outlasts a restart of the CA
// while that server is gone.
func TestACME(t *testing.T) {
	t.Parallel()
	const domain = "ca.e2e.test"
	l := lab.New(t)
	l.Need("pebble", "pebble-challtestsrv")
	directory, management, dns, public := l.Address(), l.Address(), l.Address(), l.Address()
	_, port, err := net.SplitHostPort(public)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key := serverPair(t)
	l.Start("dns", lab.Command{Name: "pebble-challtestsrv", Args: []string{
		"-dnsserver", dns, "-doh", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-management", l.Address(),
		"-defaultIPv4", "127.0.0.1", "-defaultIPv6", "",
	}}, func(context.Context) error { return nil })
	config := l.Write("pebble/config.json", fmt.Sprintf(`{"pebble": {"listenAddress": %q, "managementListenAddress": %q,
		"certificate": %q, "privateKey": %q, "httpPort": 1, "tlsPort": %s}}`, directory, management,
		l.Write("pebble/certificate.pem", certificate), l.Write("pebble/key.pem", key), port))
	insecure := &http.Client{Timeout: lab.MaxWait, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the test server's own certificate
	}}
	get := func(client *http.Client, url string) (string, error) {
		req, err := http.NewRequestWithContext(l.Context(), http.MethodGet, url, nil)
		if err != nil {
			return "", err
		}
		res, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		data, err := io.ReadAll(res.Body)
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s %s", url, res.Status, data)
		}
		return string(data), err
	}
	acme := l.Start("pebble", lab.Command{
		Name: "pebble", Args: []string{"-config", config, "-dnsserver", dns, "-strict"},
		Env: []string{"PEBBLE_VA_NOSLEEP=1"},
	}, func(context.Context) error { _, err := get(insecure, "https://"+directory+"/dir"); return err })
	root, err := get(insecure, "https://"+management+"/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(root))

	issuer, pki, admin := l.Issuer(nil), l.PKI(), l.Address()
	l.Write("ca/identity.yaml", lab.EmailIssuer(issuer.URL))
	file := l.Write("ca/mayfly.yaml", fmt.Sprintf(`listen:
  http: %q
  grpc: %q
  admin: %q
  tls:
    acme: {directory: "https://%s/dir", ca_bundle: ../pebble/certificate.pem, domains: [%s], dir: acme}
identity: {file: identity.yaml}
ca: {file: {chain: %s, key: %s}}
ct: {embedded: {dir: log, origin: e2e.test/acme}}
`, public, public, admin, directory, domain, pki.ChainFile, pki.KeyFile))
	l.Run(lab.Command{Name: "mayfly", Args: []string{"config", "check", "--config", file}})
	serve := func() *lab.Process {
		return l.Start("serve", lab.Command{Name: "mayfly", Args: []string{"serve", "--config", file}},
			func(ctx context.Context) error { return lab.GetOK(ctx, "http://"+admin+"/readyz") })
	}
	client := &http.Client{Timeout: lab.MaxWait, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, public)
		},
	}}
	answers := func(context.Context) error {
		_, err := get(client, "https://"+domain+"/api/v2/trustBundle")
		return err
	}
	ca := serve()
	l.Eventually("the certificate of the ACME server is served", answers)
	a, err := lab.RequestCertificate(l.Context(), client, "https://"+domain, issuer.Email("alice@example.com"),
		"alice@example.com")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Signed(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`mayfly_tls_acme_requests_total{listener="api",result="success"}`,
		`mayfly_expiry_timestamp_seconds{kind="tls",name="api"}`,
	} {
		l.Eventually(want, func(context.Context) error {
			if !strings.Contains(string(l.Get("http://"+admin+"/metrics")), want) {
				return errors.New("is not among the metrics")
			}
			return nil
		})
	}
	ca.Stop()
	acme.Kill()
	client.CloseIdleConnections()
	serve()
	l.Eventually("the certificate is still served", answers)
}

// serverPair returns a self-signed certificate for 127.0.0.1 and names, and its key, both in PEM.
func serverPair(t testing.TB, names ...string) (certificate, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pebble"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}))
}
