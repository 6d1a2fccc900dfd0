package node

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/rotation"
	"github.com/mayfly-ca/mayfly/server"
)

// follows refuses a state file that is older than the state in force. In such a copy, a chain may be active that was
// compromised later.
func (n *Node) follows(cfg *config.Config, next *rotation.State) error {
	before := n.chains.Load()
	if before == nil || cfg.CA.State == "" {
		return nil
	}
	have := uint64(0)
	if next != nil {
		have = next.Revision
	}
	if have < before.Revision {
		return fault.BadSetting(fmt.Sprintf("revision %d of the state file is older than revision %d, which is in use",
			have, before.Revision), "put the newer file back, or restart to go back on purpose",
			"ca", "state").In(cfg.CA.State)
	}
	return nil
}

// tellOfChains logs the changes of chains that concern verifiers.
func (n *Node) tellOfChains(m, old *loadedFiles) {
	switch {
	case sameChain(m.chain, old.chain):
	case m.rotation == nil:
		n.log.Warn("the issuing chain changes: verifiers that do not have the new chain yet will "+
			"refuse its certificates",
			"old", old.chain[0].Subject.String(), "new", m.chain[0].Subject.String())
	default:
		n.log.Info("the active chain changed", "old", old.chain[0].Subject.String(),
			"new", m.chain[0].Subject.String())
	}
	for _, chain := range append([][]*x509.Certificate{old.chain}, old.trust...) {
		about := []any{
			"issuer", chain[0].Subject.String(), "sha256", fmt.Sprintf("%x", sha256.Sum256(chain[0].Raw)),
		}
		switch {
		case m.serves(chain):
		case m.rotation != nil:
			n.log.Info("a chain is no longer in the trust bundle, because the state file says so", about...)
		default:
			n.log.Warn("a chain is no longer in the trust bundle, because the configuration no longer names it: "+
				"verifiers that fetch the bundle again refuse what was signed under the chain; list the chain in "+
				"ca.trust, unless its key was stolen", about...)
		}
	}
}

// followAlone applies the state file without the rest of the configuration, which cannot be reloaded, so that an error
// in the configuration does not keep a compromised chain active. It reports whether it applied the state.
func (n *Node) followAlone(ctx context.Context, why string, cause error) bool {
	old := n.current.Load()
	if ctx.Err() != nil || n.chains.Load() == nil {
		return false
	}
	cfg := *old.config
	state, err := followState(&cfg)
	if stopped := (*stoppedError)(nil); errors.As(err, &stopped) {
		n.stop(stopped)
		return true
	}
	if err == nil && (state == nil || state.Revision <= n.chains.Load().Revision) {
		return false
	}
	var next *snapshot
	if err == nil {
		next, _, err = n.prepareFrom(ctx, &cfg, old.warnings)
	}
	if err == nil {
		err = n.journal.reloaded(ctx, next.config)
	}
	if err != nil {
		n.log.Error("the state of the chains was not applied either", "cause", err.Error())
		n.distrust(old, err)
		return false
	}
	n.install(ctx, next)
	n.metrics.reloads.WithLabelValues("failure").Inc()
	n.reloadProblem.Store("the last reload failed; only the state of the chains was applied: " + firstLine(cause))
	n.log.Error("configuration not reloaded; only the state of the chains was applied", "why", why,
		"cause", cause.Error(), "generation", n.generation)
	return true
}

// distrust stops issuance if the chain in use is compromised or retired and this instance cannot use the active chain:
// verifiers would refuse the certificates. The conductor repeats the reload.
func (n *Node) distrust(old *snapshot, cause error) {
	state, err := rotation.File{Path: old.config.CA.State}.Read()
	if err != nil || state.Revision <= n.chains.Load().Revision {
		return
	}
	for _, c := range state.Chains {
		if !c.Is(old.files.chain) || c.Status.Bundled() {
			continue
		}
		text := fmt.Sprintf("chain %q is %s, and the active chain cannot be used: %s", c.Name, c.Status,
			firstLine(cause))
		n.server.SetNotReady("no chain can be used")
		n.readiness.Add(server.Check{Name: "chains", Ask: func() server.Health { return server.Health{Cause: text} }})
		n.log.Error("the CA issues nothing", "cause", text)
	}
}

// stop stops issuance until a state file with an active chain is applied.
func (n *Node) stop(e *stoppedError) {
	n.server.SetNotReady("no chain is active")
	n.readiness.Add(server.Check{Name: "chains", Ask: func() server.Health {
		return server.Health{Cause: e.Error()}
	}})
	n.metrics.reloads.WithLabelValues("success").Inc()
	n.log.Error("the CA does not issue certificates", "cause", e.Error())
	n.adopt(&e.state)
	n.wakeCounts() // the TUF repository withdraws the chain
}

// adopt records which state of the chains is in force, and writes the transitions since the previous state to the
// journal.
func (n *Node) adopt(after *rotation.State) {
	before := n.chains.Swap(after)
	if before == nil || after == nil {
		return // the start, or a CA with one chain
	}
	for _, t := range after.History {
		if t.Revision <= before.Revision {
			continue
		}
		n.journal.note("rotation", t.String())
		n.log.Info("rotation", "chain", t.Chain, "from", string(t.From), "to", string(t.To), "reason", t.Reason,
			"by", t.By, "forced", t.Forced)
	}
}
