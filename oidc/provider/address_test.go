package provider

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
)

// privateV4 has addresses of each block of IPv4 that is not public (RFC 6890), among them the first and the last.
var privateV4 = []string{
	"0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.100.100.200", "100.127.255.255",
	"127.0.0.1", "127.255.255.255", "169.254.0.0",
	"169.254.169.254", "172.16.0.0", "172.31.255.255", "192.0.0.0", "192.0.0.192", "192.0.0.255", "192.0.2.1",
	"192.88.99.1", "192.168.0.0", "192.168.255.255",
	"198.18.0.0", "198.19.255.255", "198.51.100.1", "203.0.113.255", "224.0.0.1", "239.255.255.255", "240.0.0.0",
	"255.255.255.255", "168.63.129.16",
}

// embeddings are the forms of an IPv4 address within an IPv6 address.
var embeddings = map[string]string{
	"mapped (RFC 4291 §2.5.5.2)":     "::ffff:%02x%02x:%02x%02x",
	"compatible (RFC 4291 §2.5.5.1)": "::%02x%02x:%02x%02x",
	"translated (RFC 2765)":          "::ffff:0:%02x%02x:%02x%02x",
	"NAT64 (RFC 6052)":               "64:ff9b::%02x%02x:%02x%02x",
	"local NAT64 (RFC 8215)":         "64:ff9b:1::%02x%02x:%02x%02x",
	"6to4 (RFC 3056)":                "2002:%02x%02x:%02x%02x::1",
	"Teredo server (RFC 4380)":       "2001:0:%02x%02x:%02x%02x::",
	"Teredo client (RFC 4380)":       "2001:0:4136:e378:8000:63bf:%02x%02x:%02x%02x",
	"ISATAP (RFC 5214)":              "2600::5efe:%02x%02x:%02x%02x",
	"global ISATAP (RFC 5214)":       "2600::200:5efe:%02x%02x:%02x%02x",
}

// E3: an address that is not public is refused in every form, with a zone or without.
func TestPublicAddress(t *testing.T) {
	t.Parallel()
	refused := func(what, text string) {
		t.Helper()
		a, err := netip.ParseAddr(text)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if publicAddress(a) == nil {
			t.Errorf("%s: %s passes as public", what, text)
		}
		if a.Is6() && publicAddress(a.WithZone("lo")) == nil {
			t.Errorf("%s: %s with a zone passes as public", what, text)
		}
		if dialPublicOnly("tcp", netip.AddrPortFrom(a, 443).String(), nil) == nil {
			t.Errorf("%s: %s can be dialed", what, text)
		}
		if publicName(text) {
			t.Errorf("%s: %s can be had by a proxy", what, text)
		}
	}
	for _, text := range privateV4 {
		refused("plain", text)
		b := netip.MustParseAddr(text).As4()
		for what, format := range embeddings {
			refused(what, fmt.Sprintf(format, b[0], b[1], b[2], b[3]))
		}
	}
	for _, text := range []string{
		"::", "::1", "fe80::1", "febf::1", "fec0::1", "feff::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "ff02::1",
		"ff0e::1", "100::1", "2001::1", "2001:1ff::1", "2001:db8::1",
		"2002::1", "3ffe::1", "3fff::1", "5f00::1", "4000::1", "1000::1", "2620:4f:8000::1",
	} {
		refused("IPv6", text)
	}
	for _, text := range []string{
		"1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "192.0.1.1",
		"198.20.0.1", "223.255.255.255", "2600::1", "2a00:1450::8a", "2001:4860:4860::8888", "2400:cb00::1",
	} {
		if err := publicAddress(netip.MustParseAddr(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if publicAddress(netip.MustParseAddr(text).WithZone("lo")) == nil && netip.MustParseAddr(text).Is6() {
			t.Errorf("%s with a zone passes", text)
		}
	}
}

// E3: a proxy gets only names of the public internet.
func TestPublicName(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"idp.example.com": true, "xn--bcher-kva.example.org": true, "IDP.Example.COM": true, "localhost": false,
		"LOCALHOST": false, "a.localhost": false, "metadata": false,
		"metadata.google.internal": false, "a.svc.cluster.local": false, "printer.lan": false, "x.home.arpa": false,
		"2130706433": false, "0x7f.1": false, "0x7f000001": false,
		"127.1": false, "0177.0.0.1": false, "127.0.0.1.": false, "localhost.": false, "idp.example.com.": false,
		"１２７.0.0.1": false, "a.ｌocal": false, "a。local": false,
		"fe80::1%lo": false, "a b.com": false, "": false, "a.0x7f": false,
	} {
		if got := publicName(host); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
}

// E3: every IPv4 address and its mapped form get the same result, and an accepted address is global unicast for the
// standard library too.
func FuzzPublicAddress(f *testing.F) {
	for _, text := range privateV4 {
		b := netip.MustParseAddr(text).As4()
		f.Add(binary.BigEndian.Uint32(b[:]), uint64(0), uint64(1), "lo")
	}
	f.Fuzz(func(t *testing.T, v4 uint32, high, low uint64, zone string) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], v4)
		plain := netip.AddrFrom4(b)
		if (publicAddress(plain) == nil) != (publicAddress(netip.AddrFrom16(plain.As16())) == nil) {
			t.Errorf("%s and its mapped form differ", plain)
		}
		var w [16]byte
		binary.BigEndian.PutUint64(w[:], high)
		binary.BigEndian.PutUint64(w[8:], low)
		for _, a := range []netip.Addr{plain, netip.AddrFrom16(w), netip.AddrFrom16(w).WithZone(zone)} {
			if publicAddress(a) == nil && (!a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() ||
				a.IsLinkLocalUnicast() || a.Zone() != "") {
				t.Errorf("%s passes", a)
			}
		}
	})
}
