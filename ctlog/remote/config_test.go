package ctlog_test

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/testkit/ct"
)

// settings returns the paths of the settings in err.
func settings(err error) []string {
	var out []string
	switch e := err.(type) { //nolint:errorlint // walks the tree itself
	case *fault.Setting:
		out = append(out, strings.Join(e.Path, "."))
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			out = append(out, settings(one)...)
		}
	}
	return out
}

// G1
func TestLogConfigCheck(t *testing.T) {
	t.Parallel()
	good := ctlog.LogConfig{Name: "lab", URL: "https://ct.example.com/2026", PublicKey: "ct.pem"}
	for _, row := range []struct {
		name   string
		change func(c *ctlog.LogConfig)
		want   []string
	}{
		{"good", func(*ctlog.LogConfig) {}, nil},
		{"nothing", func(c *ctlog.LogConfig) { *c = ctlog.LogConfig{} }, []string{"name", "url", "public_key"}},
		{"a name with a line end", func(c *ctlog.LogConfig) { c.Name = "lab\n" }, []string{"name"}},
		{"blank name", func(c *ctlog.LogConfig) { c.Name = " " }, []string{"name"}},
		{"loopback v4", func(c *ctlog.LogConfig) { c.URL = "http://127.0.0.1:6962/lab" }, nil},
		{"loopback v6", func(c *ctlog.LogConfig) { c.URL = "http://[::1]:6962/lab/" }, nil},
		{"localhost", func(c *ctlog.LogConfig) { c.URL = "http://localhost" }, nil},
		{"plain http", func(c *ctlog.LogConfig) { c.URL = "http://ct.example.com" }, []string{"url"}},
		{"plain http to a name like loopback", func(c *ctlog.LogConfig) { c.URL = "http://127.0.0.1.example.com" }, []string{"url"}},
		{"plain http, wanted", func(c *ctlog.LogConfig) { c.URL, c.Insecure = "http://ct.example.com", true }, nil},
		{"other scheme, insecure", func(c *ctlog.LogConfig) { c.URL, c.Insecure = "ftp://ct.example.com", true }, []string{"url"}},
		{"no scheme", func(c *ctlog.LogConfig) { c.URL = "ct.example.com" }, []string{"url"}},
		{"no host", func(c *ctlog.LogConfig) { c.URL = "https:///x" }, []string{"url"}},
		{"password", func(c *ctlog.LogConfig) { c.URL = "https://u:p@ct.example.com" }, []string{"url"}},
		{"query", func(c *ctlog.LogConfig) { c.URL += "?x" }, []string{"url"}},
		{"control character", func(c *ctlog.LogConfig) { c.URL += "\x01" }, []string{"url"}},
		{"the API's path", func(c *ctlog.LogConfig) { c.URL += "/ct/v1/add-pre-chain" }, []string{"url"}},
		{"dates", func(c *ctlog.LogConfig) { c.NotBefore, c.NotAfter = "2026-01-01", "2026-07-01T00:00:00Z" }, nil},
		{"no dates", func(c *ctlog.LogConfig) { c.NotBefore, c.NotAfter = "yesterday", "2026-13-01" }, []string{"not_before", "not_after"}},
		{"log ID in hexadecimal", func(c *ctlog.LogConfig) { c.LogID = strings.Repeat("0f", 32) }, nil},
		{"log ID in base64", func(c *ctlog.LogConfig) { c.LogID = base64.StdEncoding.EncodeToString(make([]byte, 32)) }, nil},
		{"short log ID", func(c *ctlog.LogConfig) { c.LogID = "0f0f" }, []string{"log_id"}},
		{"proxy", func(c *ctlog.LogConfig) { c.Proxy = "socks5://127.0.0.1:1080" }, nil},
		{"no proxy", func(c *ctlog.LogConfig) { c.Proxy = "proxy.example.com:3128" }, []string{"proxy"}},
		{"proxy with a password", func(c *ctlog.LogConfig) { c.Proxy = "http://u:p@proxy.example.com:3128" }, []string{"proxy"}},
		{"half a client certificate", func(c *ctlog.LogConfig) { c.ClientCertificate = &ctlog.ClientCertificateConfig{Key: "k.pem"} }, []string{"client_certificate"}},
		{"client certificate", func(c *ctlog.LogConfig) {
			c.ClientCertificate = &ctlog.ClientCertificateConfig{Certificate: "c.pem", Key: "k.pem"}
		}, nil},
		{"rate", func(c *ctlog.LogConfig) { c.Rate = 0.5 }, nil},
		{"negative rate", func(c *ctlog.LogConfig) { c.Rate = -1 }, []string{"rate"}},
		{"rate without end", func(c *ctlog.LogConfig) { c.Rate = math.Inf(1) }, []string{"rate"}},
		{"monitoring", func(c *ctlog.LogConfig) {
			c.MonitoringURL, c.MaxMergeDelay = "https://mon.example.com/2026", time.Minute
		}, nil},
		{"no monitoring", func(c *ctlog.LogConfig) { c.MonitoringURL, c.MaxMergeDelay = "http://mon.example.com", time.Second }, []string{"monitoring_url", "max_merge_delay"}},
		{"wrong order", func(c *ctlog.LogConfig) { c.NotBefore, c.NotAfter = "2026-01-01", "2026-01-01" }, []string{"not_after"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := good
			row.change(&c)
			err := c.Check()
			if diff := gocmp.Diff(row.want, settings(err)); diff != "" || (err == nil) != (row.want == nil) {
				t.Errorf("%v: %s", err, diff)
			}
			if err != nil && strings.Contains(err.Error(), "u:p@") {
				t.Errorf("the password is in %q", err)
			}
		})
	}
}

func TestWindowOfConfig(t *testing.T) {
	t.Parallel()
	from, to, err := ctlog.LogConfig{NotBefore: "2026-01-01", NotAfter: "2026-07-01T02:00:00+02:00"}.Window()
	if err != nil || !from.Equal(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) || !to.Equal(time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("%s to %s, %v", from, to, err)
	}
	if from, to, err = (ctlog.LogConfig{}).Window(); err != nil || !from.IsZero() || !to.IsZero() {
		t.Errorf("%s to %s, %v", from, to, err)
	}
}

// B2: New refuses a set in which a log could count twice, or that cannot meet its policy.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	a, b := newLog(t).member(t, "a"), newLog(t).member(t, "b")
	nameless, same, twin, weak, deaf := a, b, a, b, b
	nameless.Name, same.Name, twin.Name, deaf.Submitter = "", "a", "twin", nil
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak.Key = small.Public()
	for _, row := range []struct {
		name string
		o    ctlog.Options
		text string
	}{
		{"no members", ctlog.Options{}, "no log"},
		{"no name", ctlog.Options{Members: []ctlog.Member{nameless}}, "without name"},
		{"no submitter", ctlog.Options{Members: []ctlog.Member{deaf}}, "without submitter"},
		{"one name", ctlog.Options{Members: []ctlog.Member{a, same}}, "two logs have the name"},
		{"one key", ctlog.Options{Members: []ctlog.Member{a, twin}}, "same key"},
		{"weak key", ctlog.Options{Members: []ctlog.Member{a, weak}}, "P-224"},
		{"more SCTs than logs", ctlog.Options{Members: []ctlog.Member{a, b}, Policy: ctlog.PolicyConfig{MinSCTs: 3}}, "policy.min_scts: 3 SCTs of 2 logs"},
		{"fewer than none", ctlog.Options{Members: []ctlog.Member{a, b}, Policy: ctlog.PolicyConfig{MinSCTs: -1}}, "policy.min_scts: -1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, err := ctlog.New(row.o)
			if err == nil || !strings.Contains(err.Error(), row.text) || settings(err) == nil {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestParsePublicKey(t *testing.T) {
	t.Parallel()
	ecKey := func(c elliptic.Curve) []byte { return publicPEM(t, newKey(t, c).Public()) }
	p256 := ecKey(elliptic.P256())
	rsaKey := func(bits int) []byte {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return publicPEM(t, k.Public())
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(p256)
	for _, row := range []struct {
		name string
		data []byte
		want string // in the error
	}{
		{"P-256", p256, ""},
		{"P-384", ecKey(elliptic.P384()), ""},
		{"RSA 2048", rsaKey(2048), ""},
		{"text before, blank after", []byte("the lab's key\n" + string(p256) + "\n \n"), ""},
		{"P-521", ecKey(elliptic.P521()), "P-521"},
		{"RSA 1024", rsaKey(1024), "1024 bits"},
		{"Ed25519", publicPEM(t, ed), "ed25519"},
		{"two blocks", append(append([]byte{}, p256...), p256...), "exactly one"},
		{"text after", []byte(string(p256) + "x"), "exactly one"},
		{"private key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: block.Bytes}), "a PRIVATE KEY, not"},
		{"cut short", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: block.Bytes[:40]}), "log key"},
		{"DER", block.Bytes, "no PEM block"},
		{"nothing", nil, "no PEM block"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			key, err := ctlog.ParsePublicKey(row.data)
			if (err == nil) != (row.want == "") || (key == nil) != (row.want != "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("key %T, error %v", key, err)
			}
		})
	}
}

func TestOpenRemoteRefuses(t *testing.T) {
	t.Parallel()
	key := publicPEM(t, newKey(t, elliptic.P256()).Public())
	for _, row := range []struct {
		name string
		c    ctlog.LogConfig
		o    ctlog.RemoteOptions
		want string
	}{
		{"url", ctlog.LogConfig{URL: "http://ct.example.com"}, ctlog.RemoteOptions{PublicKeyPEM: key}, "url"},
		{"key", ctlog.LogConfig{}, ctlog.RemoteOptions{}, "public_key"},
		{"CA certificates", ctlog.LogConfig{}, ctlog.RemoteOptions{PublicKeyPEM: key, CACertPEM: []byte("x")}, "ca_cert"},
		{"client certificate", ctlog.LogConfig{}, ctlog.RemoteOptions{PublicKeyPEM: key, ClientCertificatePEM: key, ClientKeyPEM: key}, "client_certificate"},
		{"proxy", ctlog.LogConfig{Proxy: "nowhere"}, ctlog.RemoteOptions{PublicKeyPEM: key}, "proxy"},
		{"log ID", ctlog.LogConfig{LogID: strings.Repeat("ab", 32)}, ctlog.RemoteOptions{PublicKeyPEM: key}, "log_id"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.c.Name, row.c.URL = "lab", cmp.Or(row.c.URL, "https://ct.example.com")
			_, err := ctlog.OpenRemote(row.c, row.o)
			var s *fault.Setting
			if !errors.As(err, &s) || strings.Join(s.Path, ".") != row.want {
				t.Errorf("error is %v", err)
			}
		})
	}
}

// B2: the ID that the operator wrote is compared with the key, and an error has both.
func TestLogID(t *testing.T) {
	t.Parallel()
	l := ct.New(t, ct.Options{})
	spki, err := x509.MarshalPKIXPublicKey(l.Key())
	if err != nil {
		t.Fatal(err)
	}
	id, other := sha256.Sum256(spki), strings.Repeat("ab", 32)
	for text, ok := range map[string]bool{"": true, hex.EncodeToString(id[:]): true, base64.StdEncoding.EncodeToString(id[:]): true, other: false} {
		_, err := ctlog.OpenRemote(ctlog.LogConfig{Name: "lab", URL: l.URL(), LogID: text}, ctlog.RemoteOptions{PublicKeyPEM: l.PublicKeyPEM()})
		if (err == nil) != ok || err != nil && (!strings.Contains(err.Error(), other) || !strings.Contains(err.Error(), hex.EncodeToString(id[:]))) {
			t.Errorf("log_id %q: %v", text, err)
		}
	}
}
