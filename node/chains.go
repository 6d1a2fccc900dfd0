package node

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/rotation"
	"github.com/mayfly-ca/mayfly/trust"
)

// stoppedError says that no chain may sign, because the active one was compromised and no other took over.
type stoppedError struct {
	state rotation.State
	file  string
}

func (e *stoppedError) Error() string {
	name, since := "", time.Time{}
	for _, c := range e.state.Chains {
		if c.Status == rotation.Compromised && c.Since.After(since) {
			name, since = c.Name, c.Since
		}
	}
	return fmt.Sprintf("%s: no chain is active, because chain %q was compromised; prepare another "+
		"one and make it active (mayfly ca rotate prepare, mayfly ca rotate activate)", e.file, name)
}

// followState reads the state file of the chains of cfg, and selects the active chain in cfg. It returns nil if there
// is no state, because cfg has one key backend without chains, or one chain whose state file does not exist yet. Its
// errors are [fault.Setting] values, or a stoppedError.
func followState(cfg *config.Config) (*rotation.State, error) {
	if cfg.CA.State == "" {
		return nil, nil //nolint:nilnil // no state is the common case
	}
	s, err := rotation.File{Path: cfg.CA.State}.Read()
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(cfg.CA.Chains) == 1:
		return nil, nil //nolint:nilnil // the first start makes it
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault.BadSetting(fmt.Sprintf("%s is missing, and only this file says which of %d chains signs",
			cfg.CA.State, len(cfg.CA.Chains)),
			"put it back; in a new CA, make it with \"mayfly ca rotate prepare --active NAME\"", "ca", "state")
	case err != nil:
		return nil, fault.BadFile(cfg.CA.State, err, "ca", "state")
	}
	active, ok := s.Active()
	if !ok {
		return nil, &stoppedError{s, cfg.CA.State}
	}
	one, ok := cfg.CA.Named(active.Name, active.Managed)
	if !ok {
		return nil, fault.BadSetting(fmt.Sprintf("the active chain %q is not in ca.chains", active.Name),
			"keep the active chain in ca.chains until another chain is active", "ca", "chains")
	}
	cfg.CA.Select(one)
	return &s, nil
}

// sameAsState refuses an active chain that differs from the chain of that name in the state file: the chain file was
// replaced, and verifiers may not have the new chain.
func sameAsState(cfg *config.Config, s *rotation.State, chain []*x509.Certificate) error {
	if s == nil {
		return nil
	}
	if active, _ := s.Active(); !active.Is(chain) {
		return fault.BadSetting(fmt.Sprintf("not the chain that is active under the name %q (SHA-256 of its issuing "+
			"certificate: %s)", active.Name, rotation.Fingerprint(active.Certificates()[0])),
			"put that chain back; another chain needs another name", cfg.CA.At("chain")...)
	}
	return nil
}

// others returns the chains of the trust bundle except the active one: upcoming and retiring chains.
func others(s *rotation.State) (out [][]*x509.Certificate) {
	if s == nil {
		return nil
	}
	for _, c := range s.Chains {
		if c.Status.Bundled() && c.Status != rotation.Active {
			out = append(out, c.Certificates())
		}
	}
	return out
}

// authorities returns the chains of the trusted root with their validity: the chains of the state, or else the only
// chain, and those of ca.trust.
func (f *loadedFiles) authorities(url string) (out []trust.Authority) {
	add := func(chain []*x509.Certificate, from, to time.Time) {
		out = append(out, trust.Authority{URL: url, Chain: chain, From: from, To: to})
	}
	if f.rotation == nil {
		add(f.chain, f.chain[0].NotBefore, f.chain[0].NotAfter)
	} else {
		for _, active := range []bool{true, false} { // the active one first
			for _, c := range f.rotation.Chains {
				if from, to := c.Trusted(); active == (c.Status == rotation.Active) && !c.Untrusted() {
					add(c.Certificates(), from, to)
				}
			}
		}
	}
	if f.mldsa != nil {
		add(f.mldsa.Chain, f.mldsa.Chain[0].NotBefore, f.mldsa.Chain[0].NotAfter)
	}
	for _, chain := range f.listed {
		if f.rotation == nil || !f.rotation.Has(chain) {
			add(chain, chain[0].NotBefore, chain[0].NotAfter)
		}
	}
	return out
}

// retired returns the chains of the state that are not in the trust bundle.
func (f *loadedFiles) retired() (out [][]*x509.Certificate) {
	if f.rotation == nil {
		return nil
	}
	for _, c := range f.rotation.Chains {
		if !c.Status.Bundled() {
			out = append(out, c.Certificates())
		}
	}
	return out
}
