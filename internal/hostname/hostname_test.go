package hostname_test

import (
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/hostname"
)

func TestIsLoopback(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"localhost": true, "LocalHost": true, "localhost.": true, "127.0.0.1": true, "127.255.255.254": true,
		"::1": true, "0:0:0:0:0:0:0:1": true, "::ffff:127.0.0.1": true,
		"": false, "a.localhost": false, "localhost.example.com": false, "127.0.0.1.example.com": false,
		"0.0.0.0": false, "::": false, "::2": false, "::1%lo": false, "127.1": false, "0177.0.0.1": false,
		"2130706433": false, "[::1]": false, "127.0.0.1:80": false, "192.0.2.1": false, "169.254.1.1": false,
		"localhost..": false, "loсalhost": false, "::ffff:192.0.2.1": false,
		" localhost": false, //nolint:gocritic // the space is what is tested
	} {
		if got := hostname.IsLoopback(host); got != want {
			t.Errorf("IsLoopback(%q) = %t", host, got)
		}
	}
}

func TestIsLoopbackRequest(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"localhost": true, "localhost:2112": true, "LOCALHOST.": true, "mayfly.localhost": true,
		"mayfly.localhost:80": true, "Mayfly.LocalHost.": true, "127.0.0.1": true, "127.0.0.1:80": true, "::1": true,
		"[::1]": true, "[::1]:80": true,
		"": false, ":80": false, "example.com": false, "example.com:80": false, "localhost.example.com": false,
		"127.0.0.1.example.com:80": false, "192.0.2.1:80": false, "[::2]": false, "xlocalhost": false,
	} {
		if got := hostname.IsLoopbackRequest(host); got != want {
			t.Errorf("IsLoopbackRequest(%q) = %t", host, got)
		}
	}
}

func TestIsConfidential(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"https://example.com/x": true, "https://localhost": true, "http://localhost:1/x": true, "http://[::1]:1": true,
		"http://127.0.0.1":   true,
		"http://example.com": false, "http://127.0.0.1.example.com": false, "http://localhost@example.com": false,
		"": false, "https:": false, "https:///x": false, "https://:443/": false, "ftp://localhost": false,
		"localhost": false, "//localhost": false,
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := hostname.IsConfidential(u); got != want {
			t.Errorf("IsConfidential(%q) = %t", text, got)
		}
	}
}

func TestIsDNSName(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("a", 63)
	for name, want := range map[string]bool{
		"example.com": true, "EXAMPLE.com": true, "xn--bcher-kva.example": true, "a-b.c1": true, "1.example.com": true,
		label + ".com": true, strings.Repeat("a.", 126) + "b": true, "a.b2": true,
		"": false, "localhost": false, ".": false, "example.com.": false, ".example.com": false, "a..b": false,
		"*.example.com": false, "_dmarc.example.com": false, "-a.com": false, "a-.com": false, "a.com-": false,
		"bücher.example": false, "a b.com": false, "example.com:80": false, "192.0.2.1": false, "a.1": false,
		"a" + label + ".com": false, strings.Repeat("a.", 126) + "bb": false,
	} {
		if got := hostname.IsDNSName(name); got != want {
			t.Errorf("IsDNSName(%q) = %t", name, got)
		}
	}
}

// A loopback host is one that the standard library connects to a loopback address without a name server; a DNS name is
// never an address.
func FuzzIsLoopback(f *testing.F) {
	for _, s := range []string{"localhost", "127.0.0.1", "::1", "::ffff:127.0.0.1", "example.com", "1.2.3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if hostname.IsLoopback(s) && !strings.EqualFold(strings.TrimSuffix(s, "."), "localhost") {
			if ip := net.ParseIP(s); ip == nil || !ip.IsLoopback() {
				t.Errorf("%q is no loopback address", s)
			}
		}
		if hostname.IsDNSName(s) {
			if _, err := netip.ParseAddr(s); err == nil ||
				strings.ToLower(s) != strings.Map(ascii, strings.ToLower(s)) {
				t.Errorf("%q is no DNS name", s)
			}
			if u, err := url.Parse("https://" + s + ":1/"); err != nil || u.Hostname() != s {
				t.Errorf("%q is not a host of a URL: %v", s, err)
			}
		}
	})
}

func ascii(r rune) rune {
	if r > 0x7f {
		return -1
	}
	return r
}
