package servertls_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server/servertls"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
)

// authority issues TLS certificates.
type authority struct {
	*testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	dir  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{T: t, dir: t.TempDir(), pool: x509.NewCertPool()}
	a.key = newKey(t)
	a.cert = a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}, a.key)
	a.pool.AddCert(a.cert)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	a.Helper()
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	if err != nil {
		a.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.Fatal(err)
	}
	return cert
}

// leaf returns a certificate for name, changed by change, and its key.
func (a *authority) leaf(name string, change func(*x509.Certificate)) (certificate, key []byte) {
	a.Helper()
	k := newKey(a.T)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.sign(template, k).Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// write writes files to the directory, and returns the configuration that names them.
func (a *authority) write(certificate, key []byte) servertls.Config {
	a.Helper()
	c := servertls.Config{Certificate: filepath.Join(a.dir, "tls.crt"), Key: filepath.Join(a.dir, "tls.key")}
	if err := errors.Join(os.WriteFile(c.Certificate, certificate, 0o600),
		os.WriteFile(c.Key, key, 0o600)); err != nil {
		a.Fatal(err)
	}
	return c
}

// A client that comes again resumes its session: the server makes no signature.
func TestResumption(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	server := open(t, a.write(a.leaf("ca.test", nil)), nil).Config(servertls.Both)
	client := &tls.Config{RootCAs: a.pool, ServerName: "ca.test", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for i := range 2 {
		if st, err := connect(t, server, client); err != nil || st.DidResume != (i == 1) {
			t.Errorf("connection %d: resumed %v, %v", i, st.DidResume, err)
		}
	}
}

// handshake connects to a server with the source, and returns the state of the connection or the error of either side.
func handshake(t *testing.T, s *servertls.Source, p servertls.Protocols,
	client *tls.Config,
) (tls.ConnectionState, error) {
	t.Helper()
	return connect(t, s.Config(p), client)
}

func connect(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	failed := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			failed <- err
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		secure := tls.Server(c, server)
		if err = secure.Handshake(); err == nil {
			_, err = secure.Write([]byte("x")) // TLS 1.3: the client learns of a refused certificate when it reads
		}
		failed <- err
	}()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", l.Addr().String(), client)
	if err != nil {
		return tls.ConnectionState{}, errors.Join(err, <-failed)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_, err = c.Read(make([]byte, 1))
	return c.ConnectionState(), errors.Join(err, <-failed)
}

func open(t *testing.T, c servertls.Config, log *logbuf.Buffer) *servertls.Source {
	t.Helper()
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	o := servertls.Options{StateDir: t.TempDir()}
	if log != nil {
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
	}
	s, err := servertls.Open(c, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A pair is replaced while the server runs, and no pair that cannot be used replaces one that works.
func TestReload(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	var log logbuf.Buffer
	s := open(t, a.write(a.leaf("one.test", nil)), &log)
	serves := func(name string) {
		t.Helper()
		if _, err := handshake(t, s, servertls.Both, &tls.Config{RootCAs: a.pool, ServerName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	serves("one.test")
	a.write(a.leaf("two.test", nil))
	s.Reload()
	serves("two.test")
	certificate, _ := a.leaf("three.test", nil)
	_, other := a.leaf("four.test", nil)
	over := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	early := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }
	unnamed := func(c *x509.Certificate) { c.DNSNames = nil }
	pair := func(change func(*x509.Certificate)) [2][]byte {
		c, k := a.leaf("five.test", change)
		return [2][]byte{c, k}
	}
	for name, c := range map[string]struct {
		files [2][]byte
		want  string
	}{
		"the key of another certificate": {[2][]byte{certificate, other}, "private key does not match"},
		"half of a file":                 {[2][]byte{certificate[:len(certificate)/2], other}, "tls.crt"},
		"an empty key":                   {[2][]byte{certificate, nil}, "tls.key"},
		"ended":                          {pair(over), "the TLS certificate ended at"},
		"not begun":                      {pair(early), "the TLS certificate begins at"},
		"without a name":                 {pair(unnamed), "neither a DNS name nor an IP address"},
	} {
		a.write(c.files[0], c.files[1])
		s.Reload()
		serves("two.test")
		if p := s.Status().Problem; !strings.Contains(p, c.want) {
			t.Errorf("%s: %q", name, p)
		}
		if err := servertls.Verify(servertls.Config{
			Certificate: filepath.Join(a.dir, "tls.crt"), Key: filepath.Join(a.dir, "tls.key"),
		}); err == nil {
			t.Errorf("%s: the check of the configuration accepts it", name)
		}
	}
	a.write(a.leaf("six.test", nil))
	s.Reload()
	serves("six.test")
	if p := s.Status().Problem; p != "" {
		t.Errorf("%q", p)
	}
	if strings.Contains(log.String(), "PRIVATE KEY") {
		t.Errorf("the log has a key\n%s", &log)
	}
}

// With client_ca, a client without a certificate of that CA is refused, also one that resumes a session from before a
// change of the CA.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	c := a.write(a.leaf("ca.test", nil))
	c.ClientCA = filepath.Join(a.dir, "clients.pem")
	trust := func(who *authority) {
		if err := os.WriteFile(c.ClientCA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: who.cert.Raw}),
			0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust(a)
	s := open(t, c, nil)
	client := func(who *authority) *tls.Config {
		conf := &tls.Config{RootCAs: a.pool, ServerName: "ca.test", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		if who != nil {
			pair, err := tls.X509KeyPair(who.leaf("client", nil))
			if err != nil {
				t.Fatal(err)
			}
			conf.Certificates = []tls.Certificate{pair}
		}
		return conf
	}
	if _, err := handshake(t, s, servertls.HTTP2, client(nil)); err == nil {
		t.Error("a client without a certificate is accepted")
	}
	if _, err := handshake(t, s, servertls.HTTP2, client(other)); err == nil {
		t.Error("a certificate of another CA is accepted")
	}
	known := client(a)
	known.NextProtos = []string{"h2"}
	for range 2 {
		if _, err := handshake(t, s, servertls.HTTP2, known); err != nil {
			t.Error(err)
		}
	}
	trust(other)
	s.Reload()
	if _, err := handshake(t, s, servertls.HTTP2, known); err == nil {
		t.Error("a session of a client whose CA was removed is resumed")
	}
}

// The key exchange is hybrid by default, and what the settings exclude is refused.
func TestPolicy(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	c := a.write(a.leaf("ca.test", nil))
	client := func(change func(*tls.Config)) *tls.Config {
		conf := &tls.Config{RootCAs: a.pool, ServerName: "ca.test", NextProtos: []string{"h2", "http/1.1"}}
		if change != nil {
			change(conf)
		}
		return conf
	}
	tls12 := func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }
	tls11 := func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }
	classical := func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }
	s := open(t, c, nil)
	st, err := handshake(t, s, servertls.Both, client(nil))
	if err != nil || st.CurveID != tls.X25519MLKEM768 || st.NegotiatedProtocol != "h2" {
		t.Errorf("%v, %s, %v", st.CurveID, st.NegotiatedProtocol, err)
	}
	if st, err = handshake(t, s, servertls.HTTP1, client(nil)); err != nil || st.NegotiatedProtocol != "http/1.1" {
		t.Errorf("%s, %v", st.NegotiatedProtocol, err)
	}
	for name, one := range map[string]struct {
		config servertls.Config
		client func(*tls.Config)
		ok     bool
	}{
		"TLS 1.2 by default":         {servertls.Config{}, tls12, true},
		"TLS 1.1 never":              {servertls.Config{}, tls11, false},
		"TLS 1.2 with 1.3 as lowest": {servertls.Config{MinVersion: "1.3"}, tls12, false},
		"X25519 by default":          {servertls.Config{}, classical, true},
		"X25519 with hybrid alone":   {servertls.Config{KeyExchange: []string{"X25519MLKEM768"}}, classical, false},
	} {
		one.config.Certificate, one.config.Key = c.Certificate, c.Key
		_, err := handshake(t, open(t, one.config, nil), servertls.Both, client(one.client))
		if (err == nil) != one.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A self-signed certificate is made once, and made again for other names.
func TestSelfSigned(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := servertls.Options{StateDir: dir, Hosts: []string{"ca.test", "192.0.2.1"}}
	read := func() string {
		t.Helper()
		if _, err := servertls.Open(servertls.Config{SelfSigned: true}, o); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, "tls", "certificate.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	first := read()
	if read() != first {
		t.Error("the certificate is replaced without need")
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(first))
	s, err := servertls.Open(servertls.Config{SelfSigned: true}, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "ca.test", "192.0.2.1"} {
		if _, err := handshake(t, s, servertls.Both, &tls.Config{RootCAs: pool, ServerName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st, err := os.Stat(filepath.Join(dir, "tls", "key.pem")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	o.Hosts = []string{"other.test"}
	if read() == first {
		t.Error("the certificate lacks a name")
	}
	o.Now = func() time.Time { return time.Now().Add(300 * 24 * time.Hour) }
	second := read()
	if read() != second {
		t.Error("the certificate is replaced without need")
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	good := servertls.ACME{Domains: []string{"ca.example.com"}, Dir: "acme"}
	acme := func(change func(*servertls.ACME)) servertls.Config {
		a := good
		change(&a)
		return servertls.Config{ACME: &a}
	}
	for want, c := range map[string]servertls.Config{
		"":                                 {ACME: &good},
		"the certificate is missing":       {},
		"certificate is missing":           {Key: "k"},
		"key is missing":                   {Certificate: "c"},
		"comes from one place":             {Certificate: "c", Key: "k", ACME: &good},
		`"1.1" is not a version of TLS`:    {SelfSigned: true, MinVersion: "1.1"},
		`"P-224" is not a known key`:       {SelfSigned: true, KeyExchange: []string{"P-224"}},
		"is not an https URL":              acme(func(a *servertls.ACME) { a.Directory = "http://a.test/dir" }),
		"domains is missing":               acme(func(a *servertls.ACME) { a.Domains = nil }),
		"domains has 21 names":             acme(func(a *servertls.ACME) { a.Domains = make([]string, 21) }),
		`"*.a.test" is not a domain name`:  acme(func(a *servertls.ACME) { a.Domains = []string{"*.a.test"} }),
		`"192.0.2.1" is not a domain name`: acme(func(a *servertls.ACME) { a.Domains = []string{"192.0.2.1"} }),
		`"A.test" is not a domain name`:    acme(func(a *servertls.ACME) { a.Domains = []string{"A.test"} }),
		"dir is missing":                   acme(func(a *servertls.ACME) { a.Dir = "" }),
	} {
		err := c.Check()
		if want == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if s, ok := errors.AsType[*fault.Setting](err); err == nil || !strings.Contains(err.Error(), want) ||
			ok && s.Fix == "" {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// Two listeners with an ACME CA each have their own metrics in one registry.
func TestCollectors(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	for _, listener := range []string{"api", "admin"} {
		s, err := servertls.Open(servertls.Config{
			ACME: &servertls.ACME{Domains: []string{"ca.example.com"}, Dir: t.TempDir()},
		}, servertls.Options{Listener: listener})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range s.Collectors() {
			if err := registry.Register(c); err != nil {
				t.Errorf("%s: %v", listener, err)
			}
		}
	}
}
