package servertls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// selfSignedLife is how long a self-signed certificate is valid: what Apple's systems accept at most is 825 days.
const selfSignedLife = 397 * 24 * time.Hour

// makeSelfSigned makes a key and a certificate, unless the files have a pair for these hosts that is valid for another
// third of its life. The certificate is a CA certificate too: some clients accept no other one as a root.
func makeSelfSigned(f files, hosts []string, now time.Time) error {
	hosts = append([]string{"localhost", "127.0.0.1", "::1"}, hosts...)
	if pair, err := pemfile.LoadKeyPair(f.certificate, f.key); err == nil && pair.Leaf != nil &&
		covers(pair.Leaf, hosts) && pair.Leaf.NotAfter.Sub(now) > selfSignedLife/3 && !now.Before(pair.Leaf.NotBefore) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: pkix.Name{CommonName: "mayfly, self-signed"},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(selfSignedLife),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true, IsCA: true,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.key), 0o700); err != nil {
		return err
	}
	if err := durable.WriteFile(f.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		0o600); err != nil {
		return err
	}
	return durable.WriteFile(f.certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// covers reports whether a certificate has all of the names and addresses.
func covers(leaf *x509.Certificate, hosts []string) bool {
	for _, h := range hosts {
		if leaf.VerifyHostname(h) != nil {
			return false
		}
	}
	return true
}
