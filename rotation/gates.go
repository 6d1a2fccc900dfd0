package rotation

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/human"
)

func sumOf(c *x509.Certificate) [32]byte { return sha256.Sum256(c.Raw) }

// Facts are the observations of one chain.
type Facts struct {
	// Unusable says why key and chain cannot issue now, or why they are not the prepared ones. Empty: they can issue.
	Unusable string
	// Places are the sources from which verifiers get chains: the trust bundle, the trusted root, the TUF repository.
	Places []Place
	// Logs are the logs of the policy. Empty: certificates are not logged.
	Logs []Log
	// Trial says why a trial certificate of the chain does not verify with the trust material. Empty: it verifies.
	Trial string
	// Last is when the last certificate of a retiring chain expires, according to the journal. Zero: unknown.
	Last time.Time
}

// Place is one source from which verifiers get chains.
type Place struct {
	Name string
	Has  bool // it has the chain, and the validity does not end before the issuing certificate expires
	// Unknown says that the source could not be read. Cause says why Has is false or Unknown is true.
	Unknown bool
	Cause   string
}

// Log is a transparency log of the policy.
type Log struct {
	Name    string
	Accepts bool // the log lists the root of the chain (RFC 6962 §4.7)
	Cause   string
}

// Gate is a condition of a transition.
type Gate struct {
	Name string `json:"gate"`
	Open bool   `json:"open"`
	// Cause says why the gate is closed, or what was found.
	Cause string `json:"cause,omitempty"`
	// Opens is when the gate opens, if it depends only on time.
	Opens time.Time `json:"opens,omitzero"`
}

// The names of gates that are not named after a source or a log.
const (
	GateChain       = "key and chain"
	GatePropagation = "propagation"
	GateTrial       = "trial"
	GateHistory     = "last certificate"
)

// Closed returns the gates that are closed.
func Closed(gates []Gate) (out []Gate) {
	for _, g := range gates {
		if !g.Open {
			out = append(out, g)
		}
	}
	return out
}

// Observation is what was observed of one chain, with the time and the settings of the rotation.
type Observation struct {
	Facts  Facts
	Policy Policy
	Time   time.Time
}

// Gates returns the gates before c can become active. c is a chain that has not signed yet, or a retiring chain.
func (o Observation) Gates(c Chain) []Gate {
	f := o.Facts
	if !c.Status.Upcoming() && c.Status != Retiring {
		return nil
	}
	gates := []Gate{{Name: GateChain, Open: f.Unusable == "", Cause: f.Unusable}}
	for _, place := range f.Places {
		gates = append(gates, Gate{Name: place.Name, Open: place.Has, Cause: place.Cause})
	}
	gates = append(gates, o.propagation(c))
	for _, l := range f.Logs {
		gates = append(gates, Gate{Name: "log " + l.Name, Open: l.Accepts, Cause: l.Cause})
	}
	return append(gates, Gate{Name: GateTrial, Open: f.Trial == "", Cause: f.Trial})
}

// RetireGates returns the gates before a retiring chain can become retired.
func (o Observation) RetireGates(c Chain) []Gate { return []Gate{o.history(c)} }

func (o Observation) propagation(c Chain) Gate {
	g, f, p, now := Gate{Name: GatePropagation}, o.Facts, o.Policy, o.Time
	switch {
	case c.Published.IsZero():
		g.Cause = "the chain is not published yet"
		if f.published() {
			g.Cause = "the publication is not recorded yet: mayfly serve records it within a minute"
		}
	case now.Before(c.Published):
		g.Cause = "the clock is behind the time of publication, " + stamp(c.Published)
	case now.Sub(c.Published) < p.Propagation:
		g.Opens = c.Published.Add(p.Propagation)
		g.Cause = fmt.Sprintf("published since %s; opens at %s, in %s", stamp(c.Published), stamp(g.Opens),
			human.Duration(g.Opens.Sub(now).Round(time.Second)))
	default:
		g.Open = true
		g.Cause = "published since " + stamp(c.Published)
	}
	return g
}

func (o Observation) history(c Chain) Gate {
	g, f, now := Gate{Name: GateHistory, Opens: c.Ends}, o.Facts, o.Time
	if f.Last.After(g.Opens) {
		g.Opens = moment(f.Last)
	}
	switch {
	case c.Status != Retiring:
		g.Opens = time.Time{}
		g.Cause = "the chain is " + string(c.Status)
	case now.Before(g.Opens):
		g.Cause = fmt.Sprintf("its last certificates may be in use; opens at %s, in %s", stamp(g.Opens),
			human.Duration(g.Opens.Sub(now).Round(time.Second)))
	default:
		g.Open, g.Opens = true, time.Time{}
	}
	return g
}

// published reports whether every source has the chain.
func (f Facts) published() bool {
	for _, place := range f.Places {
		if !place.Has {
			return false
		}
	}
	return len(f.Places) > 0
}

// missing returns the names of the sources that do not have the chain. It omits those that could not be read.
func (f Facts) missing() string {
	var out []string
	for _, place := range f.Places {
		if !place.Has && !place.Unknown {
			out = append(out, place.Name)
		}
	}
	return strings.Join(out, ", ")
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// ClosedError is a transition that was refused because gates are closed.
type ClosedError struct {
	Chain string
	To    Status
	Gates []Gate // that are closed
}

// Error names the gates.
func (e *ClosedError) Error() string {
	var texts []string
	for _, g := range e.Gates {
		text := g.Name
		if g.Cause != "" {
			text += " (" + g.Cause + ")"
		}
		texts = append(texts, text)
	}
	return fmt.Sprintf("chain %q cannot become %s: closed: %s", e.Chain, e.To, strings.Join(texts, "; "))
}

func names(gates []Gate) (out []string) {
	for _, g := range gates {
		out = append(out, g.Name)
	}
	return out
}
