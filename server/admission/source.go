package server

import (
	"net"
	"net/netip"
	"strings"
)

// sourceKey is what the limits by source address count for: an IPv4 address, or the /64 of an IPv6 address, because
// whoever has one address of a /64 usually has all of them.
func sourceKey(a netip.Addr) netip.Addr {
	if a = a.Unmap(); !a.Is6() {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr()
}

// addressOf returns the IP address of a network address, or the zero address if it has none.
func addressOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case nil:
		return netip.Addr{}
	case *net.TCPAddr:
		ip, _ := netip.AddrFromSlice(a.IP)
		return ip.Unmap()
	}
	out, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return out.Addr().Unmap().WithZone("")
}

// proxies are the addresses of the proxies in front of the server whose word about the address of a client is believed.
type proxies []netip.Prefix

func (p proxies) has(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, one := range p {
		if one.Contains(a) {
			return true
		}
	}
	return false
}

// maxHops is how many addresses of an X-Forwarded-For header are looked at.
const maxHops = 32

// client returns the address of the client behind a connection: that of the peer, unless the peer is a trusted proxy.
// Each proxy appends the address that it was reached from to X-Forwarded-For, so that the last address that is not a
// trusted proxy is the last one that somebody who is trusted has seen; what stands before it is the client's own word.
// An entry that is no address ends the search.
func (p proxies) client(peer netip.Addr, forwarded []string) netip.Addr {
	out := peer
	if !p.has(peer) {
		return out
	}
	hops := 0
	for i := len(forwarded) - 1; i >= 0; i-- {
		rest := forwarded[i]
		for more := true; more; {
			var word string
			at := strings.LastIndexByte(rest, ',')
			word, more = rest[at+1:], at >= 0
			rest = rest[:max(at, 0)]
			hop, ok := parseHop(word)
			if hops++; !ok || hops > maxHops {
				return out
			}
			if out = hop; !p.has(hop) {
				return out
			}
		}
	}
	return out
}

// parseHop reads an entry of X-Forwarded-For: an IP address, which may have a port; an IPv6 address may stand in
// brackets.
func parseHop(word string) (netip.Addr, bool) {
	word = strings.Trim(word, " \t")
	if len(word) > 64 {
		return netip.Addr{}, false
	}
	if a, err := netip.ParseAddr(word); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if a, err := netip.ParseAddrPort(word); err == nil {
		return a.Addr().Unmap().WithZone(""), true
	}
	if inner, ok := strings.CutPrefix(word, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			if a, err := netip.ParseAddr(inner); err == nil && a.Is6() {
				return a.WithZone(""), true
			}
		}
	}
	return netip.Addr{}, false
}
