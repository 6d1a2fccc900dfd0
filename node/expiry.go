package node

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/server"
)

// expiry is the end of something that certificates or verifiers need.
type expiry struct {
	kind string // chain, parent, log, tsa, tuf or tls
	name string
	at   time.Time
	// ahead is how long before the end there is a warning. Zero: only if soon.
	ahead time.Duration
	soon  bool // warn although the end is not near, because the metadata was not renewed in time
}

// String returns a text with the end.
func (e expiry) String() string {
	what := map[string]string{
		"chain": "the chain", "parent": "the parent of issuing certificates", "log": "the log",
		"tuf": "the TUF metadata of", tsaName: "the chain of the timestamp authority",
		"tls": "the TLS certificate of the listener",
	}[e.kind]
	return strings.TrimSpace(what+" "+e.name) + " ends at " + e.at.UTC().Format(time.RFC3339)
}

// expiries returns the ends of all active and upcoming chains, of the parent of new chains, of the logs, and of the TUF
// metadata.
func (s *snapshot) expiries() (out []expiry) {
	add := func(kind, name string, chain []*x509.Certificate) {
		e := expiry{kind: kind, name: name, at: chain[0].NotAfter}
		for _, c := range chain {
			if !c.NotAfter.After(e.at) {
				e.at, e.ahead = c.NotAfter, ca.WarnBefore(c.NotAfter.Sub(c.NotBefore))
			}
		}
		out = append(out, e)
	}
	switch _, backend := s.config.CA.Selected(); {
	case s.files.rotation != nil:
		for _, c := range s.files.rotation.Chains {
			if c.Status.Upcoming() || c.Status == "active" {
				add("chain", c.Name, c.Certificates())
			}
		}
	case !backend.Temporary():
		add("chain", s.config.CA.Signing().Name, s.files.chain)
	}
	if s.files.mldsa != nil {
		add("chain", mldsaName, s.files.mldsa.Chain)
	}
	if r := s.config.CA.Rotation.Renew; r != nil {
		_, parent := r.Parent.Selected()
		if chain, err := signer.ReadChain(parent.ChainFile()); err == nil {
			add("parent", "", chain)
		}
	}
	for _, l := range s.files.logs {
		if w := l.window(); !w.NotAfter.IsZero() {
			out = append(out, expiry{kind: "log", name: l.config.Name, at: w.NotAfter, ahead: warnAhead})
		}
	}
	out = append(out, s.files.stampExpiry()...)
	return append(out, tufExpiries(s.config.Publish.TUF)...)
}

// endsSoon returns a text for each expiry about which to warn now.
func endsSoon(all []expiry, now time.Time) (out []string) {
	for _, e := range all {
		left := e.at.Sub(now).Truncate(time.Second)
		switch {
		case !e.soon && left >= e.ahead:
		case left <= 0:
			out = append(out, e.String()+", in the past")
		default:
			out = append(out, fmt.Sprintf("%s, in %s", e, human.Duration(left)))
		}
	}
	return out
}

// logExpiryEvery is how often the log repeats the warnings.
const logExpiryEvery = 24 * time.Hour

// countDown updates the metric and the readiness check, and logs the warnings once a day.
func (n *Node) countDown(s *snapshot, now time.Time) {
	all := append(s.expiries(), n.tlsExpiries()...)
	n.metrics.expiry.Reset()
	for _, e := range all {
		n.metrics.expiry.WithLabelValues(e.kind, e.name).Set(float64(e.at.Unix()))
	}
	soon := endsSoon(all, now)
	text := strings.Join(soon, "; ")
	n.ending.Store(&text)
	if now.Sub(n.warnedAt) < logExpiryEvery {
		return
	}
	n.warnedAt = now
	for _, one := range soon {
		n.log.Warn("something that certificates depend on expires soon", "what", one)
	}
}

// expiryCheck returns the check "expiry" of /readyz.
func (n *Node) expiryCheck() server.Check {
	return server.Check{Name: "expiry", Ask: func() server.Health {
		h := server.Health{OK: true, Advisory: true}
		if t := n.ending.Load(); t != nil {
			h.Warning = *t
		}
		return h
	}}
}
