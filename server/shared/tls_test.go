package shared_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/mayfly-ca/mayfly/server/shared"
	"github.com/mayfly-ca/mayfly/server/uses"
)

// pair writes a certificate for 127.0.0.1 with its key, signed by itself.
func pair(t *testing.T, dir, name string) (certificate, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for path, b := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}

// C8: TLS with certificates of both sides; a wrong certificate of either side is refused.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	serverCert, serverKey := pair(t, dir, "server")
	clientCert, clientKey := pair(t, dir, "client")
	otherCert, otherKey := pair(t, dir, "other")
	own, err := tls.LoadX509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(clientCert)
	if err != nil {
		t.Fatal(err)
	}
	accepted := x509.NewCertPool()
	accepted.AppendCertsFromPEM(data)
	m, err := miniredis.RunTLS(&tls.Config{
		Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: accepted,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	config := small(m.Addr())
	config.TLS = &shared.TLSConfig{CACert: serverCert, Certificate: clientCert, Key: clientKey}
	c := connect(t, config)
	c.spend(t, token(1), uses.Counted)
	for name, settings := range map[string]shared.TLSConfig{
		"another CA":          {CACert: otherCert, Certificate: clientCert, Key: clientKey},
		"another certificate": {CACert: serverCert, Certificate: otherCert, Key: otherKey},
		"no certificate":      {CACert: serverCert},
		"another name": {
			CACert: serverCert, Certificate: clientCert, Key: clientKey,
			ServerName: "x.example.com",
		},
		"the CAs of the system": {Certificate: clientCert, Key: clientKey},
	} {
		config.TLS = &settings
		wrong := connect(t, config)
		if cause, _ := wrong.Health(); cause == "" {
			t.Errorf("%s: the store is used", name)
		}
		wrong.spend(t, token(1), uses.Unavailable)
	}
}
