package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"strings"
	"time"
)

// TLS puts TLS with HTTP/2 before the server at url, as a load balancer would, and returns its URL and its certificate
// in PEM.
func (l *Lab) TLS(url string) (string, string) {
	l.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(l)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "load balancer"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true, IsCA: true,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(l)
	listener := must(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12,
	}))(l)
	ctx, cancel := context.WithCancel(context.Background())
	l.Cleanup(func() {
		cancel()
		_ = listener.Close()
	})
	target := strings.TrimPrefix(url, "http://")
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go forward(ctx, in, target)
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return "https://localhost:" + port, encode("CERTIFICATE", der)
}

// forward copies both ways until one side ends.
func forward(ctx context.Context, in net.Conn, target string) {
	defer in.Close()
	var d net.Dialer
	out, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return
	}
	defer out.Close()
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1])
			done <- struct{}{}
		}()
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}
