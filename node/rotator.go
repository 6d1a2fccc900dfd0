package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/shell"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/rotation"
)

// Rotator implements the commands of "mayfly ca rotate" on the state file of a configuration. The CA need not run,
// except that one gate requires its trust bundle.
type Rotator struct {
	path  string
	cfg   *config.Config
	file  rotation.File
	seen  *observer
	now   func() time.Time
	state rotation.State // as last read; a zero Version: there is no file
}

// RotatorOptions for [OpenRotator].
type RotatorOptions struct {
	Path string           // of the configuration file
	Now  func() time.Time // nil: time.Now
}

// OpenRotator loads a configuration with chains and its state file.
func OpenRotator(o RotatorOptions) (*Rotator, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	cfg, _, err := config.Load(o.Path)
	if err != nil {
		return nil, err
	}
	if cfg.CA.State == "" {
		at := fault.BadSetting("no state file is configured, so no chain can be rotated",
			"write the chain with a name into ca.chains, and the path of a state file into ca.state (docs/rotation.md)",
			"ca", "state")
		return nil, cfg.Locate(at)
	}
	r := &Rotator{path: o.Path, cfg: cfg, file: rotation.File{Path: cfg.CA.State}, now: o.Now}
	r.state, err = r.file.Read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, cfg.Locate(fault.BadFile(cfg.CA.State, err, "ca", "state"))
	}
	logs := make([]remoteLog, 0, len(cfg.CT.Logs))
	for i, l := range cfg.CT.Logs {
		one, err := openLog(l, cfg.CT.Policy)
		if err != nil {
			return nil, cfg.Locate(fault.Under(err, "ct", "logs", strconv.Itoa(i)))
		}
		logs = append(logs, one)
	}
	r.seen = &observer{cfg: cfg, logs: logs, bundle: servedBundle(cfg), exported: r.exported, now: o.Now}
	return r, nil
}

// exported is the trusted root that "mayfly trust export" would write now.
func (r *Rotator) exported() ([]byte, error) {
	m, err := TrustMaterial(r.cfg, r.cfg.PublicURL())
	if err != nil {
		return nil, err
	}
	return m.TrustedRoot()
}

// PlannedChain is one chain in a plan.
type PlannedChain struct {
	Name   string          `json:"chain"`
	Status rotation.Status `json:"status,omitempty"` // empty: listed in the configuration and not prepared
	Since  time.Time       `json:"since,omitzero"`
	// Managed says that the CA made the chain.
	Managed   bool      `json:"managed,omitempty"`
	Issuer    string    `json:"issuer"` // subject of the issuing certificate
	SHA256    string    `json:"sha256"` // of the issuing certificate
	Root      string    `json:"root_sha256"`
	NotAfter  time.Time `json:"not_after"`
	TrustedTo time.Time `json:"trusted_until,omitzero"`
	// Next is the next status of the chain, Gates its conditions, and Command the command that makes the transition
	// when every gate is open.
	Next    rotation.Status `json:"next,omitempty"`
	Gates   []rotation.Gate `json:"gates,omitempty"`
	Command string          `json:"command,omitempty"`
	Problem string          `json:"problem,omitempty"`
}

// Plan is the state of every chain, with the gates that it waits for.
type Plan struct {
	File        string                `json:"state_file"`
	Revision    uint64                `json:"revision"` // 0: there is no state file yet
	Propagation string                `json:"propagation"`
	Keep        string                `json:"keep"`
	Chains      []PlannedChain        `json:"chains"`
	History     []rotation.Transition `json:"history"`
}

// Plan observes every chain and changes nothing.
func (r *Rotator) Plan(ctx context.Context) (Plan, error) {
	p := r.cfg.CA.Rotation.Policy()
	out := Plan{
		File: r.cfg.CA.State, Revision: r.state.Revision, Propagation: p.Propagation.String(), Keep: p.Keep.String(),
		Chains: []PlannedChain{}, History: r.state.History,
	}
	if out.History == nil {
		out.History = []rotation.Transition{}
	}
	published := r.seen.publications(ctx)
	for _, c := range r.state.Chains {
		one := planned(c.Name, c.Certificates())
		one.Status, one.Since, one.Managed = c.Status, c.Since, c.Managed
		_, one.TrustedTo = c.Trusted()
		switch {
		case c.Status.Upcoming():
			one.Next, one.Command = rotation.Active, r.command("activate", c.Name)
			one.Gates = r.observation(r.facts(ctx, c, published)).Gates(c)
		case c.Status == rotation.Retiring:
			one.Next, one.Command = rotation.Retired, r.command("retire", c.Name)
			last, err := lastCertificate(ctx, r.cfg, c)
			one.Gates = r.observation(rotation.Facts{Last: last}).RetireGates(c)
			if err != nil {
				one.Problem = err.Error()
			}
		}
		out.Chains = append(out.Chains, one)
	}
	for _, l := range r.cfg.CA.Chains {
		if _, ok := r.state.Find(l.Name); ok {
			continue
		}
		one := PlannedChain{Name: l.Name}
		if chain, err := r.publicChain(l); err != nil {
			one.Problem = r.cfg.Locate(err).Error()
		} else {
			one = planned(l.Name, chain)
		}
		switch {
		case r.state.Version == 0 && len(r.cfg.CA.Chains) == 1:
			one.Status = rotation.Active
		default:
			one.Next, one.Command = rotation.Prepared, r.command("prepare", l.Name)
		}
		out.Chains = append(out.Chains, one)
	}
	return out, nil
}

func planned(name string, chain []*x509.Certificate) PlannedChain {
	return PlannedChain{
		Name: name, Issuer: chain[0].Subject.String(), SHA256: rotation.Fingerprint(chain[0]),
		Root: rotation.Fingerprint(chain[len(chain)-1]), NotAfter: chain[0].NotAfter.UTC(),
	}
}

// command returns a command line for the operator.
func (r *Rotator) command(verb, chain string) string {
	return "mayfly ca rotate " + verb + " --config " + shell.Quote(r.path) + " --chain " + shell.Quote(chain)
}

// facts returns the observations for the gates before a chain can become active.
func (r *Rotator) facts(ctx context.Context, c rotation.Chain, published []publication) rotation.Facts {
	var f rotation.Facts
	f.Places = r.seen.places(ctx, c, published)
	f.Logs = r.seen.accepting(ctx, c)
	f.Unusable, f.Trial = r.seen.try(ctx, c, published)
	return f
}

func (r *Rotator) observation(f rotation.Facts) rotation.Observation {
	return rotation.Observation{Facts: f, Policy: r.cfg.CA.Rotation.Policy(), Time: r.now()}
}

// publicChain reads the chain file of a chain of the configuration. Its errors are settings.
func (r *Rotator) publicChain(one config.Chain) ([]*x509.Certificate, error) {
	own := *r.cfg
	own.CA.State = ""
	own.CA.Select(one)
	return PublicChain(&own)
}

// Change is the result of a command: the transitions, and what was published.
type Change struct {
	Chain       string                `json:"chain"`
	Status      rotation.Status       `json:"status"`
	Revision    uint64                `json:"revision"`
	Transitions []rotation.Transition `json:"transitions"`
	Published   []Publishing          `json:"published"`
	Warnings    []string              `json:"warnings,omitempty"`
	// Signed has the certificates that the key of a compromised chain signed since the time of the compromise,
	// according to the journal.
	Signed []Signed `json:"signed,omitempty"`
	// Verifiers says what the operators of verifiers must do.
	Verifiers []string `json:"verifiers,omitempty"`
}

// update changes the state file, and says what changed.
func (r *Rotator) update(ctx context.Context, chain string, change func(rotation.State) (rotation.State, error),
) (Change, error) {
	before := r.state.Revision
	next, err := r.file.Update(ctx, change)
	out := Change{
		Chain: chain, Revision: next.Revision, Transitions: []rotation.Transition{},
		Published: []Publishing{},
	}
	if err != nil {
		return out, err
	}
	r.state = next
	for _, t := range next.History {
		if t.Revision > before {
			out.Transitions = append(out.Transitions, t)
			if t.Chain == chain {
				out.Status = t.To
			}
		}
	}
	if c, ok := next.Find(chain); ok {
		out.Status = c.Status
	}
	return out, nil
}

// entry returns the entry of a command for the history.
func (r *Rotator) entry(reason string) rotation.Entry {
	return rotation.Entry{Time: r.now(), By: operator(), Reason: strings.TrimSpace(reason)}
}

// operator returns the user of this process, as USER@HOST.
func operator() string {
	name, host := strconv.Itoa(os.Getuid()), "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

// pick returns the chain of a command: the named chain, or the only chain for which fits is true.
func (r *Rotator) pick(name, what string, fits func(rotation.Chain) bool) (string, error) {
	if name != "" {
		return name, nil
	}
	var found []string
	for _, c := range r.state.Chains {
		if fits(c) {
			found = append(found, c.Name)
		}
	}
	return only(found, what)
}

func only(found []string, what string) (string, error) {
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("no chain is %s", what)
	}
	return "", fmt.Errorf("several chains are %s (%s); name one with --chain", what, strings.Join(found, ", "))
}

// Prepare adds a chain of the configuration to the state, after a trial signature with its key, and publishes the
// chain. Without a name, it is the only chain that is not in the state yet. active names the chain that signs now. It
// is needed for a new state file if more than one other chain is listed.
func (r *Rotator) Prepare(ctx context.Context, name, active, reason string) (Change, error) {
	if name == "" {
		var found []string
		for _, l := range r.cfg.CA.Chains {
			if _, ok := r.state.Find(l.Name); !ok && l.Name != active {
				found = append(found, l.Name)
			}
		}
		if r.state.Version == 0 && active == "" {
			found = found[min(1, len(found)):] // the first chain of the list signs
		}
		var err error
		if name, err = only(found, "listed in ca.chains and not prepared yet"); err != nil {
			return Change{}, err
		}
	}
	one, ok := r.cfg.CA.Named(name, false)
	if !ok {
		return Change{}, fmt.Errorf("ca.chains has no chain %q", name)
	}
	chain, err := r.publicChain(one)
	if err != nil {
		return Change{}, r.cfg.Locate(err)
	}
	first, err := r.first(name, active)
	if err != nil {
		return Change{}, err
	}
	probe, err := rotation.First(name, chain, r.entry("")) // a state with only this chain, for the trial
	if err != nil {
		return Change{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	if _, err := r.seen.sign(ctx, probe.Chains[0]); err != nil {
		return Change{}, r.cfg.Locate(err)
	}
	e := r.entry(reason)
	if e.Reason == "" {
		e.Reason = "key and chain were tried"
	}
	out, err := r.update(ctx, name, func(s rotation.State) (rotation.State, error) {
		if s.Version == 0 {
			s = first
		}
		return s.Prepare(rotation.Chain{Name: name}, chain, e)
	})
	if err != nil {
		return out, err
	}
	for _, a := range ca.Advise(chain) {
		out.Warnings = append(out.Warnings, a.Problem+"; "+a.Fix)
	}
	out.Published, err = publisher{r.path, r.cfg}.publish(r.state)
	return out, err
}

// first returns the state of a CA that has no state file yet.
func (r *Rotator) first(prepared, active string) (rotation.State, error) {
	if r.state.Version != 0 {
		return r.state, nil
	}
	if active == "" {
		var found []string
		for _, l := range r.cfg.CA.Chains {
			if l.Name != prepared {
				found = append(found, l.Name)
			}
		}
		if len(found) != 1 {
			return rotation.State{},
				fmt.Errorf("the state file does not exist, and ca.chains has %s beside %q: name the "+
					"chain that signs now with --active", strconv.Itoa(len(found))+" chains", prepared)
		}
		active = found[0]
	}
	one, ok := r.cfg.CA.Named(active, false)
	if !ok {
		return rotation.State{}, fmt.Errorf("ca.chains has no chain %q", active)
	}
	if active == prepared {
		return rotation.State{}, fmt.Errorf("chain %q signs now, and cannot be prepared", active)
	}
	chain, err := r.publicChain(one)
	if err != nil {
		return rotation.State{}, r.cfg.Locate(err)
	}
	return rotation.First(active, chain, r.entry("the chain that signed before there was a state file"))
}

// ActivateOptions for [Rotator.Activate].
type ActivateOptions struct {
	Chain, Reason string // an empty Chain is the only chain that has not signed yet
	Force         bool   // override closed gates; Reason is kept in the history
}

// Activate makes a chain active. It records the transitions that follow from its observations, even if gates are
// closed; the error is then a [rotation.ClosedError].
func (r *Rotator) Activate(ctx context.Context, o ActivateOptions) (Change, error) {
	name, err := r.pick(o.Chain, "prepared, published or accepted",
		func(c rotation.Chain) bool { return c.Status.Upcoming() })
	if err != nil {
		return Change{}, err
	}
	c, ok := r.state.Find(name)
	if !ok {
		return Change{}, &rotation.UnknownError{Name: name}
	}
	seen := r.observation(r.facts(ctx, c, r.seen.publications(ctx)))
	e := r.entry(o.Reason)
	var refused error
	out, err := r.update(ctx, name, func(s rotation.State) (rotation.State, error) {
		for changed := true; changed; {
			s, changed = s.Observe(name, seen, e.By)
		}
		c, ok := s.Find(name)
		if !ok {
			return s, &rotation.UnknownError{Name: name}
		}
		gates := seen.Gates(c)
		if e.Reason == "" && len(rotation.Closed(gates)) == 0 {
			e.Reason = "every gate is open"
		}
		next, err := s.Activate(name, rotation.Passage{Gates: gates, Force: o.Force, Keep: seen.Policy.Keep}, e)
		if closed := (*rotation.ClosedError)(nil); errors.As(err, &closed) {
			refused = err
			return s, nil
		}
		return next, err
	})
	if err = errors.Join(err, refused); err != nil {
		return out, err
	}
	out.Published, err = publisher{r.path, r.cfg}.publish(r.state)
	return out, err
}

// Retire removes a retiring chain from the trust bundle. Without a name, it is the only retiring chain.
func (r *Rotator) Retire(ctx context.Context, o ActivateOptions) (Change, error) {
	name, err := r.pick(o.Chain, "retiring", func(c rotation.Chain) bool { return c.Status == rotation.Retiring })
	if err != nil {
		return Change{}, err
	}
	c, ok := r.state.Find(name)
	if !ok {
		return Change{}, &rotation.UnknownError{Name: name}
	}
	last, err := lastCertificate(ctx, r.cfg, c)
	if err != nil {
		return Change{}, err
	}
	e := r.entry(o.Reason)
	if e.Reason == "" && !o.Force {
		e.Reason = "its last certificate is history"
	}
	out, err := r.update(ctx, name, func(s rotation.State) (rotation.State, error) {
		c, _ := s.Find(name)
		gates := r.observation(rotation.Facts{Last: last}).RetireGates(c)
		return s.Retire(name, rotation.Passage{Gates: gates, Force: o.Force, Last: last}, e)
	})
	if err != nil {
		return out, err
	}
	out.Published, err = publisher{r.path, r.cfg}.publish(r.state)
	return out, err
}

// Abort removes a chain that has not signed. Without a name, it is the only such chain.
func (r *Rotator) Abort(ctx context.Context, name, reason string) (Change, error) {
	name, err := r.pick(name, "prepared, published or accepted",
		func(c rotation.Chain) bool { return c.Status.Upcoming() })
	if err != nil {
		return Change{}, err
	}
	e := r.entry(reason)
	if e.Reason == "" {
		e.Reason = "given up by an operator"
	}
	var given rotation.Chain
	out, err := r.update(ctx, name, func(s rotation.State) (rotation.State, error) {
		given, _ = s.Find(name)
		return s.Abort(name, e)
	})
	if err != nil {
		return out, err
	}
	out.Published, err = publisher{r.path, r.cfg}.publish(r.state, given.Certificates()[0])
	return out, err
}

// CompromiseOptions for [Rotator.Compromise].
type CompromiseOptions struct {
	Chain, Reason string
	Since         time.Time // nothing that was signed later is trusted
	// Successor becomes active if the chain is active; with Stop, no chain becomes active.
	Successor string
	Stop      bool
}

// Compromise ends the trust in a chain in the trusted root and the TUF repository, and lists the certificates that its
// key signed since then. A second call writes what the first call could not write.
func (r *Rotator) Compromise(ctx context.Context, o CompromiseOptions) (Change, error) {
	c, ok := r.state.Find(o.Chain)
	if !ok {
		return Change{}, &rotation.UnknownError{Name: o.Chain}
	}
	p := r.cfg.CA.Rotation.Policy()
	var gates []rotation.Gate
	if successor, ok := r.state.Find(o.Successor); ok && c.Status == rotation.Active {
		facts := r.facts(ctx, successor, r.seen.publications(ctx))
		if facts.Unusable != "" {
			return Change{}, fmt.Errorf("chain %q cannot become active: %s", o.Successor, facts.Unusable)
		}
		gates = r.observation(facts).Gates(successor)
	}
	e := r.entry(o.Reason)
	out, err := r.update(ctx, o.Chain, func(s rotation.State) (rotation.State, error) {
		return s.Compromise(o.Chain, rotation.Compromise{
			Since: o.Since, Successor: o.Successor, Stop: o.Stop, Gates: gates, Keep: p.Keep,
		}, e)
	})
	if err != nil {
		return out, err
	}
	var errs []error
	out.Published, err = publisher{r.path, r.cfg}.publish(r.state)
	errs = append(errs, err)
	c, _ = r.state.Find(o.Chain)
	out.Signed, err = r.signedSince(ctx, c, c.Ends)
	errs = append(errs, err)
	out.Verifiers = r.advise(c)
	return out, errors.Join(errs...)
}

// advise says what verifiers must do about a compromised chain.
func (r *Rotator) advise(c rotation.Chain) []string {
	issuing := c.Certificates()[0]
	from, to := c.Trusted()
	out := []string{
		"Take the new trusted root at once: clients of the TUF repository by their next update (cosign: " +
			"\"cosign initialize\"), all others by a new copy of trusted_root.json.",
		"Remove every copy of the issuing certificate that was configured by hand (SHA-256 " +
			rotation.Fingerprint(issuing) + "), and of its root, unless another chain needs the root.",
	}
	if from.Before(to) {
		out = append(out, fmt.Sprintf("Signatures from %s to %s that have a timestamp or a log entry stay valid; all "+
			"later ones are refused, whoever made them.", from.UTC().Format(time.RFC3339),
			to.UTC().Format(time.RFC3339)),
			"sigstore-python (up to 4.5.1) ignores that end and accepts later signatures, too. If "+
				"it is in use, run the "+
				"command again with --since "+issuing.NotBefore.UTC().Format(time.RFC3339)+
				": the chain then leaves the "+
				"trusted root, and signatures from before the compromise are refused by every client.")
	} else {
		out = append(out, "No signature under this chain is valid.")
	}
	out = append(out, "Sign again, under another chain, what was signed since and is still needed.")
	if len(r.cfg.CT.Logs) > 0 || r.cfg.CT.Embedded != nil {
		out = append(out, "Whoever has the key can make certificates that no journal has: look for entries of this "+
			"issuer in the logs with \"mayfly audit reconcile --config "+shell.Quote(r.path)+"\".")
	}
	return out
}

// Signed is one certificate, or precertificate, that the key of a chain signed.
type Signed struct {
	Time        time.Time      `json:"time"`
	Serial      string         `json:"serial"`
	Result      journal.Result `json:"result,omitempty"` // empty: the journal has no outcome
	Issuer      string         `json:"issuer,omitempty"` // of the token
	Subject     string         `json:"subject,omitempty"`
	SAN         string         `json:"san,omitempty"`
	Certificate string         `json:"certificate_sha256,omitempty"`
	RequestID   string         `json:"request_id,omitempty"`
}

// signedSince reads from the journal which certificates the key of a chain signed since a time, in order.
func (r *Rotator) signedSince(ctx context.Context, c rotation.Chain, since time.Time) ([]Signed, error) {
	out := []Signed{}
	if r.cfg.Audit == nil || r.cfg.Audit.File == "" {
		return out, errors.New("audit.file is missing, so what was signed is unknown")
	}
	place := map[string]int{} // by serial number
	err := (&chainRecords{file: r.cfg.Audit.File}).each(ctx, c, func(rec *journal.Record) {
		if rec.Time.Before(since) || rec.Serial == "" || rec.Kind != journal.Intent && rec.Kind != journal.Outcome {
			return
		}
		one := Signed{
			Time: rec.Time, Serial: rec.Serial, Result: rec.Result, Issuer: rec.Issuer, Subject: rec.Subject,
			SAN: rec.SAN, Certificate: rec.Certificate, RequestID: rec.RequestID,
		}
		if i, ok := place[rec.Serial]; ok {
			one.Time = out[i].Time
			out[i] = one
			return
		}
		place[rec.Serial] = len(out)
		out = append(out, one)
	})
	return slices.DeleteFunc(out, func(s Signed) bool { return s.Result == journal.Denied }), err
}
