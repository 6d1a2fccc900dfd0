package rotation

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Version is the version of the state file that this package reads and writes.
const Version = 1

// Status is the state of one chain. It is a closed set.
type Status string

// The statuses of a chain, in their order.
const (
	Prepared  Status = "prepared"  // a trial with the key succeeded; instances serve the chain in the trust bundle
	Published Status = "published" // verifiers can fetch the chain from every source, since Chain.Published
	// published for the propagation delay; every log lists its root, and a trial verified
	Accepted    Status = "accepted"
	Active      Status = "active"      // it signs
	Retiring    Status = "retiring"    // it no longer signs; its last certificates are in use until Chain.Ends
	Retired     Status = "retired"     // signatures up to Chain.Ends verify with the trusted root; not in the bundle
	Compromised Status = "compromised" // nothing that was signed after Chain.Ends may be trusted
	// Aborted occurs only in the history: the chain was removed before it signed.
	Aborted Status = "aborted"
)

// Statuses returns the statuses that a chain can have, in their order.
func Statuses() []Status {
	return []Status{Prepared, Published, Accepted, Active, Retiring, Retired, Compromised}
}

// Upcoming reports whether a chain with the status has not signed yet.
func (s Status) Upcoming() bool { return s == Prepared || s == Published || s == Accepted }

// Bundled reports whether a chain with the status is in the trust bundle.
func (s Status) Bundled() bool { return s.Upcoming() || s == Active || s == Retiring }

// Chain is one chain with its status. Times are in UTC and whole seconds.
type Chain struct {
	Name   string    `json:"name"`
	Status Status    `json:"status"`
	Since  time.Time `json:"since"` // of Status
	// Managed says that the CA made the chain and keeps it in the directory of rotation.renew.
	Managed bool `json:"managed,omitempty"`
	// Published is the time since which verifiers can fetch the chain from every source.
	Published time.Time `json:"published,omitzero"`
	// Activated and Deactivated are when the chain began and stopped signing.
	Activated   time.Time `json:"activated,omitzero"`
	Deactivated time.Time `json:"deactivated,omitzero"`
	// Ends is the end of the validity in the trusted root. Zero: that of the issuing certificate.
	Ends time.Time `json:"ends,omitzero"`
	// DER has the certificates, issuing certificate first, root last.
	DER [][]byte `json:"certificates"`

	parsed []*x509.Certificate
}

// Certificates returns the chain, issuing certificate first, root last. It MUST NOT be changed.
func (c Chain) Certificates() []*x509.Certificate { return c.parsed }

// Trusted returns the validity of the chain in the trusted root. For a chain that was compromised before it signed, the
// validity is empty (to is from): nothing under the chain may be trusted.
func (c Chain) Trusted() (from, to time.Time) {
	from, to = c.parsed[0].NotBefore, c.parsed[0].NotAfter
	if !c.Ends.IsZero() && c.Ends.Before(to) {
		to = c.Ends
	}
	if to.Before(from) || c.Status == Compromised && (c.Activated.IsZero() || !c.Activated.Before(to)) {
		to = from
	}
	return from, to
}

// Untrusted reports whether nothing under the chain may be trusted, because it was compromised before it signed. Such a
// chain is in no trusted root, because sigstore-python ignores the end of a chain's validity in the trusted root.
func (c Chain) Untrusted() bool {
	from, to := c.Trusted()
	return c.Status == Compromised && !from.Before(to)
}

// Is reports whether the chain has these certificates.
func (c Chain) Is(chain []*x509.Certificate) bool {
	return slices.EqualFunc(c.parsed, chain, (*x509.Certificate).Equal)
}

func (c *Chain) parse() error {
	c.parsed = nil
	for i, der := range c.DER {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("chain %q: certificate %d: %w", c.Name, i+1, err)
		}
		c.parsed = append(c.parsed, cert)
	}
	if len(c.parsed) == 0 {
		return fmt.Errorf("chain %q has no certificate", c.Name)
	}
	return nil
}

// Transition is one entry of the history.
type Transition struct {
	Revision uint64    `json:"revision"` // of the state after it
	Time     time.Time `json:"time"`
	Chain    string    `json:"chain"`
	From     Status    `json:"from,omitempty"` // empty: the chain is new
	To       Status    `json:"to"`
	Reason   string    `json:"reason"`
	By       string    `json:"by"` // USER@HOST of the command, or "mayfly serve"
	// Forced has the names of the closed gates that an operator overrode.
	Forced []string `json:"forced,omitempty"`
}

// String returns the transition on one line.
func (t Transition) String() string {
	from := "new"
	if t.From != "" {
		from = string(t.From)
	}
	text := fmt.Sprintf("chain %s: %s to %s by %s: %s", t.Chain, from, t.To, t.By, t.Reason)
	if len(t.Forced) > 0 {
		text += "; closed gates: " + strings.Join(t.Forced, ", ")
	}
	return text
}

// State is all chains with the history of their transitions. Its methods return another State and do not change their
// receiver.
type State struct {
	Version  int          `json:"version"`
	Revision uint64       `json:"revision"` // incremented with each change
	Chains   []Chain      `json:"chains"`
	History  []Transition `json:"history"`
}

// Entry says who makes a transition, when and why.
type Entry struct {
	Time       time.Time
	By, Reason string
}

// Bounds of a state.
const (
	maxChains  = 100
	maxHistory = 1000 // the oldest entries are removed first
	maxText    = 2000 // bytes of a reason
)

var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckName says what is wrong with the name of a chain.
func CheckName(name string) error {
	if !goodName.MatchString(name) {
		return fmt.Errorf("invalid chain name %q: write up to 64 letters and digits; - _ . are also allowed "+
			"after the first character",
			name)
	}
	return nil
}

// First returns the state of a CA with one chain, which is active.
func First(name string, chain []*x509.Certificate, e Entry) (State, error) {
	if err := CheckName(name); err != nil {
		return State{}, err
	}
	s, from := State{Version: Version}, chain[0].NotBefore // the chain may have signed for a long time
	first := Chain{Name: name, Status: Active, Published: from, Activated: from, parsed: chain}
	return s.with(e, first, Transition{}), nil
}

// Find returns the chain of a name.
func (s State) Find(name string) (Chain, bool) {
	i := slices.IndexFunc(s.Chains, func(c Chain) bool { return c.Name == name })
	if i < 0 {
		return Chain{}, false
	}
	return s.Chains[i], true
}

// Has reports whether the state has a chain with these certificates, whatever its status.
func (s State) Has(chain []*x509.Certificate) bool {
	return slices.ContainsFunc(s.Chains, func(c Chain) bool { return c.Is(chain) })
}

// Active returns the active chain; ok is false if there is none, because the active chain was compromised.
func (s State) Active() (c Chain, ok bool) {
	i := slices.IndexFunc(s.Chains, func(c Chain) bool { return c.Status == Active })
	if i < 0 {
		return Chain{}, false
	}
	return s.Chains[i], true
}

// Equal reports whether both states are the same revision with the same chains.
func (s State) Equal(o State) bool {
	return s.Revision == o.Revision && slices.EqualFunc(s.Chains, o.Chains, func(a, b Chain) bool {
		return a.Name == b.Name && a.Status == b.Status && a.Ends.Equal(b.Ends) && a.Is(b.parsed)
	})
}

// clone copies what the transitions change.
func (s State) clone() State {
	s.Chains, s.History = slices.Clone(s.Chains), slices.Clone(s.History)
	return s
}

// with returns the state with c as a new chain, or with c instead of the chain of the same name, and a transition in
// the history. t has the former status and the overridden gates.
func (s State) with(e Entry, c Chain, t Transition) State {
	next := s.clone()
	if c.Status != t.From {
		c.Since = moment(e.Time)
	}
	c.DER = nil
	for _, cert := range c.parsed {
		c.DER = append(c.DER, cert.Raw)
	}
	if i := slices.IndexFunc(next.Chains, func(have Chain) bool { return have.Name == c.Name }); i >= 0 {
		next.Chains[i] = c
	} else {
		next.Chains = append(next.Chains, c)
	}
	t.Chain, t.To = c.Name, c.Status
	next.record(e, t)
	return next
}

func (s *State) record(e Entry, t Transition) {
	s.Revision++
	t.Revision, t.Time, t.By, t.Reason = s.Revision, moment(e.Time), cut(e.By), cut(e.Reason)
	s.History = append(s.History, t)
	if n := len(s.History) - maxHistory; n > 0 {
		s.History = slices.Delete(s.History, 0, n)
	}
}

func moment(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

func cut(text string) string { return text[:min(len(text), maxText)] }

// Check refuses an invalid state.
func (s State) Check() error {
	if len(s.Chains) == 0 || len(s.Chains) > maxChains {
		return fmt.Errorf("the state has %d chains; 1 to %d are allowed", len(s.Chains), maxChains)
	}
	active, compromised := 0, 0
	for i, c := range s.Chains {
		if err := CheckName(c.Name); err != nil {
			return err
		}
		if len(c.parsed) == 0 {
			return fmt.Errorf("chain %q has no certificate", c.Name)
		}
		for _, other := range s.Chains[:i] {
			if other.Name == c.Name {
				return fmt.Errorf("two chains have the name %q", c.Name)
			}
			if other.parsed[0].Equal(c.parsed[0]) {
				return fmt.Errorf("the chains %q and %q have the same issuing certificate", other.Name, c.Name)
			}
		}
		if !slices.Contains(Statuses(), c.Status) {
			return fmt.Errorf("chain %q has the unknown status %.20q", c.Name, c.Status)
		}
		switch c.Status {
		case Active:
			active++
		case Compromised:
			compromised++
		case Retiring, Retired:
			if c.Ends.IsZero() {
				return fmt.Errorf("chain %q is %s, but the end of its validity is missing", c.Name, c.Status)
			}
		}
	}
	switch {
	case active > 1:
		return errors.New("more than one chain is active")
	case active == 0 && compromised == 0:
		return errors.New("no chain is active")
	}
	return nil
}

// Fingerprint returns the SHA-256 of a certificate in hexadecimal, for people.
func Fingerprint(c *x509.Certificate) string {
	sum := sumOf(c)
	return hex.EncodeToString(sum[:])
}
