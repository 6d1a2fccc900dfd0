package admission

import (
	"context"
	"net"
	"net/netip"
	"strings"
)

// Source is the key of limits by source address: the IPv4 address of a client, or the /64 of its IPv6 address, because
// the holder of one address of a /64 usually has all of them. The zero Source is a client with an unknown address.
type Source struct{ netip.Addr }

// SourceOf returns the source of a client with the address a.
func SourceOf(a netip.Addr) Source {
	if a = a.Unmap(); !a.Is6() {
		return Source{a}
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return Source{}
	}
	return Source{p.Addr()}
}

// ContextKey is the key under which the context of a request has its [*Source].
type ContextKey struct{}

// SourceIn returns the source of a request; the zero Source if its context has none.
func SourceIn(ctx context.Context) Source {
	if s, ok := ctx.Value(ContextKey{}).(*Source); ok {
		return *s
	}
	return Source{}
}

// AddressOf returns the IP address of a network address, or the zero Addr if there is none.
func AddressOf(a net.Addr) netip.Addr {
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

// Proxies are the addresses of the proxies in front of the server, which are trusted to report the address of a client.
type Proxies []netip.Prefix

// Has reports whether a is the address of a trusted proxy.
func (p Proxies) Has(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, one := range p {
		if one.Contains(a) {
			return true
		}
	}
	return false
}

// maxHops is the number of entries of an X-Forwarded-For header that are read.
const maxHops = 32

// Client returns the address of the client of a connection: the peer, unless the peer is a trusted proxy. Each proxy
// appends the address of its own peer to X-Forwarded-For, or to Forwarded (RFC 7239) if standard is set. The client is
// therefore the last address in the header that is not a trusted proxy; everything before it may have been written by
// the client. The search ends at an entry that is not an address.
func (p Proxies) Client(peer netip.Addr, forwarded []string, standard bool) netip.Addr {
	read := parseHop
	if standard {
		read = parseForwarded
	}
	out := peer
	if !p.Has(peer) {
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
			hop, ok := read(word)
			if hops++; !ok || hops > maxHops {
				return out
			}
			if out = hop; !p.Has(hop) {
				return out
			}
		}
	}
	return out
}

// parseForwarded reads an entry of Forwarded (RFC 7239 §4): pairs with semicolons between them, of which "for" has the
// address. A quoted value with a comma, a semicolon or a backslash is not an address. An entry with two values of "for"
// is not read.
func parseForwarded(word string) (out netip.Addr, ok bool) {
	if len(word) > 512 {
		return netip.Addr{}, false
	}
	for pair := range strings.SplitSeq(word, ";") {
		name, value, found := strings.Cut(strings.Trim(pair, " \t"), "=")
		if !found || !strings.EqualFold(name, "for") {
			continue
		}
		if ok {
			return netip.Addr{}, false
		}
		if inner, quoted := strings.CutPrefix(value, `"`); quoted {
			if value, quoted = strings.CutSuffix(inner, `"`); !quoted {
				return netip.Addr{}, false
			}
		}
		if out, ok = parseHop(value); !ok {
			return netip.Addr{}, false
		}
	}
	return out, ok
}

// parseHop reads an entry of X-Forwarded-For: an IP address, with or without a port. An IPv6 address may be in
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
