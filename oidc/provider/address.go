package provider

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// dialPublicOnly is the Control function of a dialer that refuses addresses that are not public. It sees the resolved
// address, so a name that resolves to a private address the second time (DNS rebinding) is refused as well.
func dialPublicOnly(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return publicAddress(ap.Addr())
}

// globalUnicast6 is the only block of IPv6 from which IANA allocates public unicast addresses (RFC 4291 §2.4 and IANA's
// registry of the IPv6 address space). Everything outside the block is refused: loopback, link-local, site-local,
// unique local and multicast addresses, NAT64 (64:ff9b::/96, 64:ff9b:1::/48), and every form of an IPv4 address below
// ::/8 (mapped, compatible, translated).
var globalUnicast6 = netip.MustParsePrefix("2000::/3")

// specialPrefixes are blocks inside the public ranges that are not for the public internet (RFC 6890 and IANA's
// registries of special-purpose addresses), blocks that carry an IPv4 address (6to4, Teredo), and the address at which
// Azure serves credentials.
var specialPrefixes = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.31.196.0/24",
	"192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24",
	"203.0.113.0/24", "224.0.0.0/4",
	"240.0.0.0/4", "168.63.129.16/32",
	"2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3ffe::/16", "3fff::/20",
)

func prefixes(all ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(all))
	for i, text := range all {
		out[i] = netip.MustParsePrefix(text)
	}
	return out
}

// publicAddress refuses an address that is not a public unicast address. An address with a zone is refused: a zone
// names a link of this machine, and the kernel ignores the zone of addresses with a wider scope.
func publicAddress(a netip.Addr) error {
	plain := a.WithZone("").Unmap()
	special := a.Zone() != "" || !plain.IsValid() ||
		plain.Is6() && (!globalUnicast6.Contains(plain) || isatap(plain)) ||
		slices.ContainsFunc(specialPrefixes, func(p netip.Prefix) bool { return p.Contains(plain) })
	if special {
		return fmt.Errorf("%s is not a public address; private-network: true allows it", a)
	}
	return nil
}

// isatap reports whether the interface identifier of an IPv6 address is an embedded IPv4 address (RFC 5214 §6.1).
func isatap(a netip.Addr) bool {
	b := a.As16()
	return b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}

// privateSuffixes are top-level labels that do not exist in the public DNS: RFC 6761, RFC 6762, RFC 7686, and common
// names of private networks.
var privateSuffixes = []string{
	"internal", "intranet", "private", "local", "localhost", "localdomain", "lan", "home", "corp", "arpa", "svc",
	"cluster", "consul", "test", "invalid",
	"example", "onion",
}

// publicName reports whether a proxy, which resolves names itself, may be asked for a host. It refuses names of one
// label, names of private networks, numbers that are not in the usual form of an address, and names that are not ASCII,
// which a proxy could map to another name.
func publicName(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return publicAddress(a) == nil
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 || r <= ' ' || r == '%' }) {
		return false
	}
	labels := strings.Split(strings.ToLower(host), ".")
	last := labels[len(labels)-1]
	return len(labels) > 1 && last != "" && !slices.Contains(privateSuffixes, last) &&
		strings.ContainsFunc(last, func(r rune) bool { return r >= 'a' && r <= 'z' }) && !strings.HasPrefix(last, "0x")
}
