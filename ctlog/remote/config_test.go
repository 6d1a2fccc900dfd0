package remote_test

import (
	"cmp"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/settings"
)

// G1
func TestConfigCheck(t *testing.T) {
	t.Parallel()
	good := remote.Config{Name: "lab", URL: "https://ct.example.com/2026", PublicKey: "ct.pem"}
	for _, row := range []struct {
		name   string
		change func(c *remote.Config)
		want   []string
	}{
		{"good", func(*remote.Config) {}, nil},
		{"nothing", func(c *remote.Config) { *c = remote.Config{} }, []string{"name", "url", "public_key"}},
		{"a name with a line end", func(c *remote.Config) { c.Name = "lab\n" }, []string{"name"}},
		{"blank name", func(c *remote.Config) { c.Name = " " }, []string{"name"}},
		{"loopback v4", func(c *remote.Config) { c.URL = "http://127.0.0.1:6962/lab" }, nil},
		{"loopback v6", func(c *remote.Config) { c.URL = "http://[::1]:6962/lab/" }, nil},
		{"localhost", func(c *remote.Config) { c.URL = "http://localhost" }, nil},
		{"plain http", func(c *remote.Config) { c.URL = "http://ct.example.com" }, []string{"url"}},
		{
			"plain http to a name like loopback",
			func(c *remote.Config) { c.URL = "http://127.0.0.1.example.com" },
			[]string{"url"},
		},
		{"plain http, wanted", func(c *remote.Config) { c.URL, c.Insecure = "http://ct.example.com", true }, nil},
		{
			"other scheme, insecure", func(c *remote.Config) { c.URL, c.Insecure = "ftp://ct.example.com", true },
			[]string{"url"},
		},
		{"no scheme", func(c *remote.Config) { c.URL = "ct.example.com" }, []string{"url"}},
		{"no host", func(c *remote.Config) { c.URL = "https:///x" }, []string{"url"}},
		{"password", func(c *remote.Config) { c.URL = "https://u:p@ct.example.com" }, []string{"url"}},
		{"query", func(c *remote.Config) { c.URL += "?x" }, []string{"url"}},
		{"control character", func(c *remote.Config) { c.URL += "\x01" }, []string{"url"}},
		{"the API's path", func(c *remote.Config) { c.URL += "/ct/v1/add-pre-chain" }, []string{"url"}},
		{"dates", func(c *remote.Config) { c.NotBefore, c.NotAfter = "2026-01-01", "2026-07-01T00:00:00Z" }, nil},
		{
			"no dates", func(c *remote.Config) { c.NotBefore, c.NotAfter = "yesterday", "2026-13-01" },
			[]string{"not_before", "not_after"},
		},
		{"log ID in hexadecimal", func(c *remote.Config) { c.LogID = strings.Repeat("0f", 32) }, nil},
		{
			"log ID in base64",
			func(c *remote.Config) { c.LogID = base64.StdEncoding.EncodeToString(make([]byte, 32)) },
			nil,
		},
		{"short log ID", func(c *remote.Config) { c.LogID = "0f0f" }, []string{"log_id"}},
		{"proxy", func(c *remote.Config) { c.Proxy = "socks5://127.0.0.1:1080" }, nil},
		{"no proxy", func(c *remote.Config) { c.Proxy = "proxy.example.com:3128" }, []string{"proxy"}},
		{
			"proxy with a password", func(c *remote.Config) { c.Proxy = "http://u:p@proxy.example.com:3128" },
			[]string{"proxy"},
		},
		{
			"half a client certificate",
			func(c *remote.Config) { c.ClientCertificate = &remote.ClientCertificateConfig{Key: "k.pem"} },
			[]string{"client_certificate"},
		},
		{"client certificate", func(c *remote.Config) {
			c.ClientCertificate = &remote.ClientCertificateConfig{Certificate: "c.pem", Key: "k.pem"}
		}, nil},
		{"rate", func(c *remote.Config) { c.Rate = 0.5 }, nil},
		{"negative rate", func(c *remote.Config) { c.Rate = -1 }, []string{"rate"}},
		{"rate without end", func(c *remote.Config) { c.Rate = math.Inf(1) }, []string{"rate"}},
		{"monitoring", func(c *remote.Config) {
			c.MonitoringURL, c.MaxMergeDelay = "https://mon.example.com/2026", time.Minute
		}, nil},
		{
			"no monitoring",
			func(c *remote.Config) { c.MonitoringURL, c.MaxMergeDelay = "http://mon.example.com", time.Second },
			[]string{"monitoring_url", "max_merge_delay"},
		},
		{
			"wrong order", func(c *remote.Config) { c.NotBefore, c.NotAfter = "2026-01-01", "2026-01-01" },
			[]string{"not_after"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := good
			row.change(&c)
			err := c.Check()
			if diff := gocmp.Diff(row.want, settings.Paths(err)); diff != "" || (err == nil) != (row.want == nil) {
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
	from, to := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	w, err := remote.Config{NotBefore: "2026-01-01", NotAfter: "2026-07-01T02:00:00+02:00"}.Window()
	if err != nil || !w.NotBefore.Equal(from) || !w.NotAfter.Equal(to) {
		t.Errorf("window %v, %v", w, err)
	}
	if w, err = (remote.Config{}).Window(); err != nil || w != (loglist.Window{}) {
		t.Errorf("window %v, %v", w, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	key := pki.PublicPEM(newKey(t, elliptic.P256()).Public())
	for _, row := range []struct {
		name string
		c    remote.Config
		o    remote.Options
		want string
	}{
		{"url", remote.Config{URL: "http://ct.example.com"}, remote.Options{PublicKeyPEM: key}, "url"},
		{"key", remote.Config{}, remote.Options{}, "public_key"},
		{"CA certificates", remote.Config{}, remote.Options{PublicKeyPEM: key, CACertPEM: []byte("x")}, "ca_cert"},
		{
			"client certificate",
			remote.Config{},
			remote.Options{PublicKeyPEM: key, ClientCertificatePEM: key, ClientKeyPEM: key},
			"client_certificate",
		},
		{"proxy", remote.Config{Proxy: "nowhere"}, remote.Options{PublicKeyPEM: key}, "proxy"},
		{"log ID", remote.Config{LogID: strings.Repeat("ab", 32)}, remote.Options{PublicKeyPEM: key}, "log_id"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.c.Name, row.c.URL = "lab", cmp.Or(row.c.URL, "https://ct.example.com")
			_, err := remote.Open(row.c, row.o)
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
	for text, ok := range map[string]bool{
		"": true, hex.EncodeToString(id[:]): true,
		base64.StdEncoding.EncodeToString(id[:]): true, other: false,
	} {
		_, err := remote.Open(remote.Config{Name: "lab", URL: l.URL(), LogID: text},
			remote.Options{PublicKeyPEM: l.PublicKeyPEM()})
		if (err == nil) != ok || err != nil &&
			(!strings.Contains(err.Error(), other) || !strings.Contains(err.Error(), hex.EncodeToString(id[:]))) {
			t.Errorf("log_id %q: %v", text, err)
		}
	}
}
