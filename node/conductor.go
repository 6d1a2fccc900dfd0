package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/rotation"
	"github.com/mayfly-ca/mayfly/server"
)

// conductor makes the transitions of chains that need no operator, in a running CA. A chain becomes published when
// verifiers can fetch it from every source, and accepted when the propagation delay has passed and every gate is open.
// With ca.rotation.renew, conductor also makes the next chain and activates it. It writes the state file; this instance
// and all others then reload the file.
type conductor struct {
	n       *Node
	file    rotation.File
	cfg     *config.Config // of the snapshot in force
	state   *rotation.State
	trouble string // why the last round failed
	waiting bool   // a chain is prepared and not published yet
	tried   map[string]trialResult
	issued  map[string]*chainRecords // by chain: the last certificate, and how far the journal was read
	repeat  repeatedReload
}

// repeatedReload repeats a failed reload of a newer state file, so that a temporary failure to open a key does not keep
// a former chain active. Other files are reloaded when they change.
type repeatedReload struct {
	next time.Time
	wait time.Duration // between the last reload and next; 0: the state file is in force
}

// trialResult is the result of a trial with the key of a chain. A trial is not repeated in every round.
type trialResult struct {
	at              time.Time
	status          rotation.Status // status of the chain at that time; a new status needs a new trial
	unusable, trial string
}

const (
	conductEvery = time.Minute
	conductSoon  = 5 * time.Second // while a chain waits to be published
	conductLeast = time.Second
	trialsEvery  = 15 * time.Minute
	reloadMost   = time.Minute // longest time between two attempts to put the state file in force
)

// conduct makes rounds until ctx ends.
func (n *Node) conduct(ctx context.Context) {
	c := &conductor{n: n, tried: map[string]trialResult{}, issued: map[string]*chainRecords{}}
	for {
		every := conductEvery
		if s := n.current.Load(); s.config.CA.State != "" {
			p := s.config.CA.Rotation.Policy()
			every = min(conductEvery, max(conductLeast, p.Propagation/20))
			c.round(ctx, s)
			if t := s.config.Publish.TUF; c.waiting && (t == nil || t.URL == "") {
				every = min(every, conductSoon) // only files are read
			}
			if c.repeat.wait > 0 {
				every = min(every, conductSoon)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-n.conducts:
		case <-time.After(every):
		}
	}
}

// round runs one step, and records a failure.
func (c *conductor) round(ctx context.Context, s *snapshot) {
	bounded, cancel := context.WithTimeout(ctx, conductEvery)
	defer cancel()
	c.waiting = false
	c.cfg, c.file = s.config, rotation.File{Path: s.config.CA.State}
	err := c.step(bounded, s)
	switch {
	case ctx.Err() != nil:
		return
	case bounded.Err() != nil:
		err = errors.Join(fmt.Errorf("not finished within %s; started again", conductEvery), err)
	}
	text := ""
	if err != nil {
		text = firstLine(err)
	}
	if text != c.trouble && text != "" {
		c.n.log.Warn("the state of the chains was not advanced", "cause", text)
	}
	c.trouble = text
	c.n.conducting.Store(&text)
}

func (c *conductor) step(ctx context.Context, s *snapshot) error {
	if s.files.rotation == nil {
		return c.begin(ctx, s)
	}
	state, err := c.file.Read()
	if err != nil {
		return err
	}
	if state.Revision != s.files.rotation.Revision {
		c.reload(state.Revision, time.Now())
		return nil // wait for the reload
	}
	c.repeat = repeatedReload{}
	c.state = &state
	if err := c.renew(ctx, state); err != nil {
		return err
	}
	return c.observe(ctx, s, state)
}

// reload causes a reload of the state file, if its revision was not applied within some seconds. The first reload is
// caused by the change of the file.
func (c *conductor) reload(revision uint64, now time.Time) {
	r := &c.repeat
	switch have := c.n.chains.Load(); {
	case have != nil && have.Revision >= revision: // also while no chain is active
		*r = repeatedReload{}
	case r.wait == 0:
		r.wait = conductSoon
		r.next = now.Add(r.wait)
	case !now.Before(r.next):
		r.wait = min(2*r.wait, reloadMost)
		r.next = now.Add(r.wait)
		wake(c.n.again)
	}
}

// begin makes the state file of a CA with one chain.
func (c *conductor) begin(ctx context.Context, s *snapshot) error {
	if len(c.cfg.CA.Chains) != 1 {
		return nil
	}
	if _, err := c.file.Read(); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err := c.file.Update(ctx, func(have rotation.State) (rotation.State, error) {
		if have.Version != 0 {
			return have, nil
		}
		return rotation.First(c.cfg.CA.Chains[0].Name, s.files.chain, c.entry("the only chain"))
	})
	return err
}

func (c *conductor) entry(reason string) rotation.Entry {
	return rotation.Entry{Time: time.Now(), By: "mayfly serve", Reason: reason}
}

// observe makes the transitions that follow from the current observations.
func (c *conductor) observe(ctx context.Context, s *snapshot, state rotation.State) error {
	if !slices.ContainsFunc(state.Chains, func(one rotation.Chain) bool {
		return one.Status.Upcoming() || one.Status == rotation.Retiring
	}) {
		return nil
	}
	o := &observer{
		cfg: c.cfg, logs: s.files.logs, journal: c.n.journal, now: time.Now, requests: c.n.requests,
		bundle: func(context.Context) ([][]*x509.Certificate, error) { return s.authority.Bundle(), nil },
		exported: func() ([]byte, error) {
			m, err := s.files.trustMaterial(c.cfg, c.cfg.PublicURL())
			if err != nil {
				return nil, err
			}
			return m.TrustedRoot()
		},
	}
	p := c.cfg.CA.Rotation.Policy()
	published := o.publications(ctx)
	var errs []error
	for _, chain := range state.Chains {
		var err error
		switch {
		case chain.Status.Upcoming():
			c.waiting = c.waiting || chain.Status == rotation.Prepared
			f := rotation.Facts{Places: o.places(ctx, chain, published)}
			f.Unusable, f.Trial = c.try(ctx, o, chain, published)
			if chain.Status == rotation.Published && time.Since(chain.Published) >= p.Propagation {
				f.Logs = o.accepting(ctx, chain)
			}
			err = c.advance(ctx, chain, rotation.Observation{Facts: f, Policy: p, Time: time.Now()})
		case chain.Status == rotation.Retiring && c.cfg.CA.Rotation.Renew != nil:
			err = c.retire(ctx, chain, p)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// try returns the result of a trial with the key of a chain. The result of a successful trial is at most a quarter of
// an hour old. A failure is logged once.
func (c *conductor) try(ctx context.Context, o *observer, chain rotation.Chain, published []publication,
) (unusable, trial string) {
	last, ok := c.tried[chain.Name]
	ok = ok && last.status == chain.Status
	if ok && time.Since(last.at) < trialsEvery && last.trial == "" && last.unusable == "" {
		return "", ""
	}
	if ok && time.Since(last.at) < time.Minute {
		return last.unusable, last.trial
	}
	unusable, trial = o.try(ctx, chain, published)
	if unusable+trial != "" && unusable+trial != last.unusable+last.trial && chain.Status != rotation.Prepared {
		c.n.log.Warn("a chain cannot become active yet", "chain", chain.Name, "cause", unusable+trial)
	}
	c.tried[chain.Name] = trialResult{time.Now(), chain.Status, unusable, trial}
	return unusable, trial
}

// advance records a transition of a chain that has not signed. A managed chain becomes active when it is accepted.
func (c *conductor) advance(ctx context.Context, chain rotation.Chain, seen rotation.Observation) error {
	change := func(s rotation.State) (rotation.State, error) {
		e := c.entry("the CA renews its intermediate")
		for changed := true; changed; {
			s, changed = s.Observe(chain.Name, seen, e.By)
		}
		one, ok := s.Find(chain.Name)
		if !ok || !one.Managed || one.Status != rotation.Accepted {
			return s, nil
		}
		next, err := s.Activate(chain.Name, rotation.Passage{Gates: seen.Gates(one), Keep: seen.Policy.Keep}, e)
		if closed := (*rotation.ClosedError)(nil); errors.As(err, &closed) {
			return s, nil
		}
		return next, err
	}
	if next, err := change(*c.state); err != nil || next.Revision == c.state.Revision {
		return err
	}
	next, err := c.file.Update(ctx, change)
	if err != nil {
		return err
	}
	return c.republish(next)
}

// republish writes the chains of a state to the trusted root and the TUF repository, if the CA renews its chains
// automatically. Otherwise the operator's command has written them.
func (c *conductor) republish(state rotation.State) error {
	if c.cfg.CA.Rotation.Renew == nil {
		return nil
	}
	done, err := publisher{c.n.options.Path, c.cfg}.publish(state)
	for _, p := range done {
		switch {
		case p.Cause != "":
			c.n.log.Warn("the published trust material does not have every chain", "place", p.Place, "name",
				p.Name, "cause", p.Cause,
				"command", p.Command)
		case p.Changed:
			c.n.log.Info("chains published", "place", p.Place, "name", p.Name)
		}
	}
	return err
}

// retire makes a chain retired that was replaced automatically, when its last certificate has expired.
func (c *conductor) retire(ctx context.Context, chain rotation.Chain, p rotation.Policy) error {
	if time.Now().Before(chain.Ends) {
		return nil
	}
	last, err := c.lastCertificate(ctx, chain)
	if err != nil {
		return fmt.Errorf("chain %s cannot be retired, because the end of its last certificate is unknown: %w",
			chain.Name, err)
	}
	next, err := c.file.Update(ctx, func(s rotation.State) (rotation.State, error) {
		one, ok := s.Find(chain.Name)
		if !ok || one.Status != rotation.Retiring {
			return s, nil
		}
		e := c.entry("its last certificate has expired")
		seen := rotation.Observation{Facts: rotation.Facts{Last: last}, Policy: p, Time: e.Time}
		next, err := s.Retire(chain.Name, rotation.Passage{Gates: seen.RetireGates(one), Last: last}, e)
		if closed := (*rotation.ClosedError)(nil); errors.As(err, &closed) {
			return s, nil
		}
		return next, err
	})
	if err != nil || next.Revision == c.state.Revision {
		return err
	}
	return c.republish(next)
}

// lastCertificate returns when the last certificate of a chain expires, according to the journal of this instance; zero
// if there is none. Each round reads only the records since the previous round.
func (c *conductor) lastCertificate(ctx context.Context, chain rotation.Chain) (time.Time, error) {
	if c.cfg.Audit == nil || c.cfg.Audit.File == "" {
		return time.Time{}, nil
	}
	r := c.issued[chain.Name]
	if r == nil || r.file != c.cfg.Audit.File {
		r = &chainRecords{file: c.cfg.Audit.File}
		c.issued[chain.Name] = r
	}
	return r.lastEnd(ctx, chain)
}

// chainCheck returns the check "chains" of /readyz, which warns about chains that wait.
func (n *Node) chainCheck(s *snapshot) []server.Check {
	if s.files.rotation == nil {
		return nil
	}
	return []server.Check{{Name: "chains", Ask: func() server.Health {
		h := server.Health{OK: true, Advisory: true}
		if t := n.conducting.Load(); t != nil && *t != "" {
			h.Warning = "the state of the chains was not advanced: " + *t
			return h
		}
		for _, c := range s.files.rotation.Chains {
			switch {
			case c.Status == rotation.Accepted && !c.Managed:
				h.Warning = "chain " + c.Name + " can become active (mayfly ca rotate activate)"
			case c.Status == rotation.Retiring && time.Now().After(c.Ends) && s.config.CA.Rotation.Renew == nil:
				h.Warning = "chain " + c.Name + " can be retired (mayfly ca rotate retire)"
			case c.Status.Upcoming() && time.Since(c.Since) > waitsLong:
				h.Warning = "chain " + c.Name + " is " + string(c.Status) + " since " +
					human.Duration(time.Since(c.Since).Round(time.Second)) + " (mayfly ca rotate plan)"
			}
		}
		return h
	}}}
}

// waitsLong is how long a chain may wait for a gate before readiness warns.
const waitsLong = 14 * 24 * time.Hour
