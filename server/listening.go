package server

import (
	"slices"
	"strings"
)

// listening has the bounds of the listeners.
type listening struct {
	http, grpc, admin *connections
}

// adminConnections is how many connections the admin listener has: a scrape or a probe needs one.
const adminConnections = 256

func newListening(s *Server) *listening {
	b := bounds{most: s.limits.Connections, share: s.limits.PerSource, trust: s.proxies, log: s.log}
	rest, native := b, b
	rest.name = "http" // net/http has deadlines for writing
	native.name, native.write = "grpc", writeTimeout
	return &listening{http: newConnections(rest), grpc: newConnections(native), admin: newConnections(bounds{name: "admin", most: adminConnections, log: s.log})}
}

func (l *listening) all() []*connections { return []*connections{l.http, l.grpc, l.admin} }

// health is the line of the listeners in the readiness report. It is advisory: whoever takes connections must not be able to take the
// server out of service for others.
func (l *listening) health() Health {
	var warnings []string
	for _, c := range l.all() {
		warnings = append(warnings, c.warning())
	}
	return Health{OK: true, Advisory: true, Warning: strings.Join(slices.DeleteFunc(warnings, func(w string) bool { return w == "" }), "; ")}
}
