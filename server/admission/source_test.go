package admission

import (
	"net/netip"
	"strings"
	"testing"
)

// A source is an IPv4 address or the /64 of an IPv6 address; an IPv4 address that is written as IPv6 is the same one.
func TestSourceOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::1%eth1", true},
	} {
		if same := SourceOf(netip.MustParseAddr(c.a)) == SourceOf(netip.MustParseAddr(c.b)); same != c.same {
			t.Errorf("%s and %s: %t", c.a, c.b, same)
		}
	}
}

// The client is the last address that is not a trusted proxy; the search ends at an entry that is not an address.
func TestForwarded(t *testing.T) {
	t.Parallel()
	p := Proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:f::/48")}
	for _, c := range []struct {
		peer      string
		forwarded []string
		want      string
	}{
		{"192.0.2.1", []string{"203.0.113.9"}, "192.0.2.1"},
		{"10.0.0.1", nil, "10.0.0.1"},
		{"10.0.0.1", []string{""}, "10.0.0.1"},
		{"10.0.0.1", []string{"203.0.113.9"}, "203.0.113.9"},
		{"10.0.0.1", []string{"203.0.113.9:1234"}, "203.0.113.9"},
		{"10.0.0.1", []string{"[2001:db8::1]:1234"}, "2001:db8::1"},
		{"10.0.0.1", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"10.0.0.1", []string{"2001:db8::1"}, "2001:db8::1"},
		{"::ffff:10.0.0.1", []string{"203.0.113.9"}, "203.0.113.9"},
		{"10.0.0.1", []string{"::ffff:203.0.113.9"}, "203.0.113.9"},
		{"10.0.0.1", []string{"198.51.100.1, 203.0.113.9"}, "203.0.113.9"},
		{"10.0.0.1", []string{"198.51.100.1", "203.0.113.9"}, "203.0.113.9"},
		{"10.0.0.1", []string{"203.0.113.9, 10.0.0.7", "2001:db8:f::1"}, "203.0.113.9"},
		{"10.0.0.1", []string{"10.0.0.9, 10.0.0.8"}, "10.0.0.9"},
		{"10.0.0.1", []string{"203.0.113.9, unknown"}, "10.0.0.1"},
		{"10.0.0.1", []string{"203.0.113.9, , 10.0.0.8"}, "10.0.0.8"},
		{"10.0.0.1", []string{"203.0.113.9" + strings.Repeat(", 10.0.0.8", 40)}, "10.0.0.8"},
	} {
		if got := p.Client(netip.MustParseAddr(c.peer), c.forwarded,
			false); got.Unmap() != netip.MustParseAddr(c.want) {
			t.Errorf("%s, %q: %s, want %s", c.peer, c.forwarded, got, c.want)
		}
	}
}

// The same of Forwarded (RFC 7239).
func TestForwardedStandard(t *testing.T) {
	t.Parallel()
	p := Proxies{netip.MustParsePrefix("10.0.0.0/8")}
	for text, want := range map[string]string{
		"for=203.0.113.9":                               "203.0.113.9",
		"For=203.0.113.9;proto=https;by=10.0.0.1":       "203.0.113.9",
		`proto=https; for="203.0.113.9:4711"`:           "203.0.113.9",
		`for="[2001:db8::17]:4711"`:                     "2001:db8::17",
		`for="[2001:db8::17]"`:                          "2001:db8::17",
		"for=198.51.100.1, for=203.0.113.9":             "203.0.113.9",
		"for=203.0.113.9,for=10.0.0.7":                  "203.0.113.9",
		`for="198.51.100.1, for=203.0.113.9`:            "203.0.113.9", // the client's part has no end
		`for=198.51.100.1, for="10.0.0.5;for=192.0.2.1`: "10.0.0.1",
		"for=203.0.113.9, for=unknown":                  "10.0.0.1",
		"for=203.0.113.9, for=_hidden":                  "10.0.0.1",
		"for=203.0.113.9;for=198.51.100.1":              "10.0.0.1",
		"203.0.113.9":                                   "10.0.0.1",
		"by=203.0.113.9":                                "10.0.0.1",
		`for="203.0.113.9`:                              "10.0.0.1",
		"":                                              "10.0.0.1",
	} {
		got := p.Client(netip.MustParseAddr("10.0.0.1"), []string{text}, true)
		if got != netip.MustParseAddr(want) {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// For any header, the result is the peer, or an address of the header that is followed only by trusted proxies. What a
// client writes before the entry of a proxy changes nothing.
func FuzzForwarded(f *testing.F) {
	f.Add("198.51.100.1, 203.0.113.9, 10.0.0.1")
	f.Add("[2001:db8::1]:1,::ffff:10.0.0.1")
	f.Add(",,,")
	p, peer := Proxies{netip.MustParsePrefix("10.0.0.0/8")}, netip.MustParseAddr("10.9.9.9")
	f.Fuzz(func(t *testing.T, text string) {
		for _, header := range [][]string{{text + ", 203.0.113.9"}, {text, "203.0.113.9, 10.0.0.1"}} {
			if got := p.Client(peer, header, false); got != netip.MustParseAddr("203.0.113.9") {
				t.Fatalf("%q: %s, which the client wrote", header, got)
			}
		}
		got := p.Client(peer, []string{text}, false)
		if !got.IsValid() || got.Zone() != "" {
			t.Fatalf("%q: %v", text, got)
		}
		if got == peer {
			return
		}
		words := strings.Split(text, ",")
		for i := len(words) - 1; i >= 0; i-- {
			a, ok := parseHop(words[i])
			if !ok {
				t.Fatalf("%q: %s stands before what is no address", text, got)
			}
			if a == got {
				return
			}
			if !p.Has(a) {
				t.Fatalf("%q: %s stands before %s, which is no proxy", text, got, a)
			}
		}
		t.Fatalf("%q: %s is not in it", text, got)
	})
}

// What a client writes before the entry of a proxy changes nothing.
func FuzzForwardedStandard(f *testing.F) {
	f.Add(`for=198.51.100.1;by="x`)
	f.Add(`for="[2001:db8::1]:1", for=10.0.0.1`)
	p, peer := Proxies{netip.MustParsePrefix("10.0.0.0/8")}, netip.MustParseAddr("10.9.9.9")
	client := netip.MustParseAddr("203.0.113.9")
	f.Fuzz(func(t *testing.T, text string) {
		if got := p.Client(peer, []string{text}, true); !got.IsValid() || got.Zone() != "" {
			t.Errorf("%q: %v", text, got)
		}
		for _, header := range [][]string{{text + ", for=203.0.113.9"}, {text, "for=203.0.113.9;proto=https"}} {
			if got := p.Client(peer, header, true); got != client {
				t.Errorf("%q: %s", header, got)
			}
		}
	})
}
