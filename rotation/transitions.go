package rotation

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Prepare adds a chain after a trial with its key; c has the name, and whether the chain is managed. It refuses a chain
// with the issuing certificate of another chain, or with the issuing key of a compromised chain.
func (s State) Prepare(c Chain, chain []*x509.Certificate, e Entry) (State, error) {
	if err := CheckName(c.Name); err != nil {
		return s, err
	}
	if have, ok := s.Find(c.Name); ok {
		return s, fmt.Errorf("chain %q is %s already", c.Name, have.Status)
	}
	if len(s.Chains) == maxChains {
		return s, fmt.Errorf("the state has %d chains, the maximum", maxChains)
	}
	for _, have := range s.Chains {
		switch {
		case have.Certificates()[0].Equal(chain[0]):
			return s, fmt.Errorf("chain %q has the same issuing certificate and is %s", have.Name, have.Status)
		case have.Status == Compromised &&
			bytes.Equal(have.Certificates()[0].RawSubjectPublicKeyInfo, chain[0].RawSubjectPublicKeyInfo):
			return s, fmt.Errorf("the issuing key is that of chain %q, which was compromised: create a new key",
				have.Name)
		}
	}
	c.Status, c.parsed = Prepared, chain
	return s.with(e, c, Transition{}), nil
}

// Observe makes the transition that follows from an observation of a chain that has not signed yet. The chain becomes
// published when every source has it, accepted when it was published for the propagation delay and every other gate is
// open, and prepared again when a source no longer has it. A source that could not be read changes nothing. A log or a
// key that fails later changes nothing either, because [State.Activate] checks the gates again. changed is false if
// there is no transition.
func (s State) Observe(name string, o Observation, by string) (next State, changed bool) {
	c, ok := s.Find(name)
	if !ok || !c.Status.Upcoming() {
		return s, false
	}
	e, f, from := Entry{Time: o.Time, By: by}, o.Facts, c.Status
	if lost := f.missing(); from != Prepared && lost != "" {
		c.Status, c.Published = Prepared, time.Time{}
		e.Reason = "no longer in: " + lost
	} else if from == Prepared && f.published() {
		c.Status, c.Published = Published, moment(e.Time)
		e.Reason = "every place has it"
	} else if from == Published && len(Closed(o.Gates(c))) == 0 {
		c.Status = Accepted
		e.Reason = "every gate is open"
	} else {
		return s, false
	}
	return s.with(e, c, Transition{From: from}), true
}

// Passage has the gates of a transition, and says whether to override them.
type Passage struct {
	Gates []Gate // of [Observation.Gates] or [Observation.RetireGates]
	Force bool   // override closed gates; needs a reason
	// Keep is how long a replaced chain stays retiring, at least.
	Keep time.Duration
	// Last is when the last certificate of a retiring chain expires. Zero: unknown. An instance that changed late to
	// the new chain may have issued that certificate, so that the old chain is trusted until then.
	Last time.Time
}

// check refuses closed gates with a [ClosedError], and an override without a reason.
func (p Passage) check(c Chain, to Status, e Entry) error {
	closed := Closed(p.Gates)
	switch {
	case len(closed) > 0 && !p.Force:
		return &ClosedError{Chain: c.Name, To: to, Gates: closed}
	case len(closed) > 0 && e.Reason == "":
		return errReason
	}
	return nil
}

// errReason is the error of a transition without the required reason.
var errReason = errors.New("the reason is missing: the history keeps the reason")

// Activate makes a chain active, and the former active chain retiring. The error of closed gates is a [ClosedError].
func (s State) Activate(name string, p Passage, e Entry) (State, error) {
	c, ok := s.Find(name)
	switch {
	case !ok:
		return s, unknown(name)
	case !c.Status.Upcoming() && c.Status != Retiring:
		return s, fmt.Errorf("chain %q is %s: only a prepared, published, accepted or retiring chain can "+
			"become active", name, c.Status)
	}
	if err := p.check(c, Active, e); err != nil {
		return s, err
	}
	return s.takeOver(c, p, e), nil
}

// takeOver makes c active and the former active chain retiring, in one change of the state.
func (s State) takeOver(c Chain, p Passage, e Entry) State {
	next, at := s, moment(e.Time)
	if old, ok := s.Active(); ok {
		was := e
		was.Reason = fmt.Sprintf("chain %q takes over", c.Name)
		old.Status, old.Deactivated, old.Ends = Retiring, at, moment(e.Time.Add(p.Keep))
		next = next.with(was, old, Transition{From: Active})
	}
	from := c.Status
	c.Status, c.Activated, c.Deactivated, c.Ends = Active, at, time.Time{}, time.Time{}
	return next.with(e, c, Transition{From: from, Forced: names(Closed(p.Gates))})
}

// Retire makes a retiring chain retired: the trust bundle no longer has it. The error of closed gates is a
// [ClosedError].
func (s State) Retire(name string, p Passage, e Entry) (State, error) {
	c, ok := s.Find(name)
	switch {
	case !ok:
		return s, unknown(name)
	case c.Status != Retiring:
		return s, fmt.Errorf("chain %q is %s: only a retiring chain can be retired", name, c.Status)
	}
	if err := p.check(c, Retired, e); err != nil {
		return s, err
	}
	c.Status = Retired
	if last := moment(p.Last.Add(time.Second - 1)); !p.Last.IsZero() && last.After(c.Ends) {
		c.Ends = last
	}
	return s.with(e, c, Transition{From: Retiring, Forced: names(Closed(p.Gates))}), nil
}

// Abort removes a chain that has not signed from the state, and records this in the history.
func (s State) Abort(name string, e Entry) (State, error) {
	c, ok := s.Find(name)
	switch {
	case !ok:
		return s, unknown(name)
	case !c.Status.Upcoming():
		return s, fmt.Errorf("chain %q is %s: only a prepared, published or accepted chain can be abandoned",
			name, c.Status)
	}
	next := s.clone()
	for i := range next.Chains {
		if next.Chains[i].Name == name {
			next.Chains = append(next.Chains[:i], next.Chains[i+1:]...)
			break
		}
	}
	next.record(e, Transition{Chain: name, From: c.Status, To: Aborted})
	return next, nil
}

// Compromise describes a compromise of a key.
type Compromise struct {
	// Since is the earliest time at which others may have known the key. Nothing that was signed later is trusted.
	Since time.Time
	// Successor becomes active if the compromised chain is active; its gates are overridden. Empty with Stop: no chain
	// becomes active, and the CA does not issue certificates.
	Successor string
	Gates     []Gate // of the successor
	Stop      bool
	Keep      time.Duration
}

// ErrSuccessor is the error of a compromise of the active chain without a successor or Stop.
var ErrSuccessor = errors.New("the chain is active: name the chain to sign from now on, or stop the CA")

// Compromise makes a chain of any status compromised. For a chain that is already compromised, it only changes the time
// to an earlier one.
func (s State) Compromise(name string, o Compromise, e Entry) (State, error) {
	c, ok := s.Find(name)
	since := moment(o.Since)
	switch {
	case !ok:
		return s, unknown(name)
	case e.Reason == "":
		return s, errReason
	case since.After(e.Time):
		return s, fmt.Errorf("the time of the compromise, %s, is in the future", stamp(since))
	case c.Status == Compromised && !since.Before(c.Ends):
		return s, nil
	}
	next := s
	if c.Status == Active {
		successor, found := s.Find(o.Successor)
		switch {
		case o.Successor == "" && !o.Stop, o.Successor != "" && o.Stop:
			return s, ErrSuccessor
		case o.Successor == "":
		case !found:
			return s, unknown(o.Successor)
		case !successor.Status.Upcoming() && successor.Status != Retiring:
			return s, fmt.Errorf("chain %q is %s and cannot become active", o.Successor, successor.Status)
		default:
			next = s.takeOver(successor, Passage{Gates: o.Gates, Force: true, Keep: o.Keep}, e)
			c, _ = next.Find(name) // retiring now
		}
	}
	from := c.Status
	c.Status, c.Ends = Compromised, since
	if c.Deactivated.IsZero() && !c.Activated.IsZero() {
		c.Deactivated = moment(e.Time)
	}
	return next.with(e, c, Transition{From: from}), nil
}

// UnknownError says that the state has no chain with a name.
type UnknownError struct{ Name string }

func (e *UnknownError) Error() string { return fmt.Sprintf("the state has no chain %q", e.Name) }

func unknown(name string) error { return &UnknownError{name} }
