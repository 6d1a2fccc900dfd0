// Package hostname has the rules about host names: whether a name is this machine, whether a URL with the name may be
// used without TLS, and whether the name is a DNS name.
//
// No function resolves a name. A name that merely resolves to a loopback address is not loopback.
package hostname

import (
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// IsLoopback reports whether a connection to host stays on this machine: host is "localhost" (RFC 6761 §6.3) or a
// loopback address (127.0.0.0/8, ::1, or one of them as an IPv4-mapped address). host is what [url.URL.Hostname] and
// [net.SplitHostPort] return: without port and brackets.
func IsLoopback(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Zone() == "" && a.Unmap().IsLoopback()
}

// IsLoopbackRequest reports whether the Host of an HTTP request, with or without a port, is a name of this machine. A
// server that checks it cannot be reached by a web page whose own name was made to resolve to a loopback address (DNS
// rebinding). Unlike [IsLoopback] it accepts the names below localhost, which no public name server may answer for (RFC
// 6761 §6.3).
func IsLoopbackRequest(hostport string) bool {
	host := hostport
	if name, _, err := net.SplitHostPort(hostport); err == nil {
		host = name
	} else if inner, ok := strings.CutPrefix(hostport, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	return IsLoopback(host) || strings.HasSuffix(strings.ToLower(strings.TrimSuffix(host, ".")), ".localhost")
}

// IsConfidential reports whether no other machine can read what is sent to u: the scheme is https, or it is http and
// the host is loopback ([IsLoopback]).
func IsConfidential(u *url.URL) bool {
	switch u.Scheme {
	case "https":
		return u.Hostname() != ""
	case "http":
		return IsLoopback(u.Hostname())
	}
	return false
}

// IsDNSName reports whether name is a DNS name as certificates and URLs carry it (RFC 1123 §2.1): two or more labels of
// ASCII letters, digits and hyphens, the last of which is not a number. A final dot, a wildcard and an underscore are
// not accepted.
func IsDNSName(name string) bool {
	labels := strings.Split(name, ".")
	if len(name) > 253 || len(labels) < 2 || strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return false
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.ContainsFunc(l, notLDH) {
			return false
		}
	}
	return true
}

// notLDH reports whether r is not a letter, a digit or a hyphen of ASCII (RFC 5890 §2.3.1).
func notLDH(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
}
