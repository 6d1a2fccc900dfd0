package node

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/shared"
	"github.com/mayfly-ca/mayfly/server/uses"
)

// usesFile is the name of the file in state_dir that has the uses of tokens.
const usesFile = "token-uses"

// openShared opens the store that several servers share, if there is one, and waits a moment for it.
func (n *Node) openShared(ctx context.Context) (err error) {
	if n.started.Shared == nil {
		return nil
	}
	local, err := uses.Open(uses.Options{Logger: n.log})
	if err != nil {
		return err
	}
	o := shared.Options{Local: local, Logger: n.log}
	if dir := n.started.StateDir; dir != "" {
		if o.Since, err = uses.Retire(filepath.Join(dir, usesFile)); err != nil {
			return fmt.Errorf("uses of tokens: %w", err)
		}
	}
	if n.shared, err = shared.Open(*n.started.Shared, o); err != nil {
		return n.started.Locate(fault.Under(err, "shared"))
	}
	n.uses.Store(local)
	n.shared.Start(ctx)
	return nil
}

// openUses opens the counts of uses of tokens, once, when the first configuration limits them. They stay open until the
// process ends, so that a reload forgets none.
func (n *Node) openUses(cfg *config.Config) (err error) {
	if n.uses.Load() != nil || !cfg.Issuers.CountsUses() {
		return nil
	}
	o := uses.Options{Logger: n.log}
	if cfg.StateDir != "" {
		o.File = filepath.Join(cfg.StateDir, usesFile)
	}
	l, err := uses.Open(o)
	if err != nil {
		return fmt.Errorf("uses of tokens: %w", err)
	}
	n.uses.Store(l)
	return nil
}

// useCounter returns what counts the uses of tokens; nil if nothing does.
func (n *Node) useCounter() server.UseCounter {
	switch l := n.uses.Load(); {
	case n.shared != nil:
		return n.shared
	case l != nil:
		return l
	}
	return nil
}

// rateCounter returns what counts requests for several servers; nil: this process counts alone.
func (n *Node) rateCounter() server.RateCounter {
	if n.shared != nil {
		return n.shared
	}
	return nil
}

// usesChecks returns the checks of the counts of uses for /readyz.
func (n *Node) usesChecks() []server.Check {
	var out []server.Check
	if l := n.uses.Load(); l != nil {
		out = append(out, server.Check{Name: "uses of tokens", Ask: func() server.Health {
			return server.Health{OK: true, Advisory: true, Warning: l.Warning()}
		}})
	}
	if n.shared != nil {
		// It does not make the CA unready: the other servers share the same store and would be unready too.
		out = append(out, server.Check{Name: "shared store", Ask: func() server.Health {
			cause, warning := n.shared.Health()
			return server.Health{OK: cause == "", Advisory: true, Cause: cause, Warning: warning}
		}})
	}
	return out
}

// usesCollectors returns the metrics of the counts.
func (n *Node) usesCollectors() (out []prometheus.Collector) {
	if l := n.uses.Load(); l != nil {
		out = append(out, l.Collectors()...)
	}
	if n.shared != nil {
		out = append(out, n.shared.Collectors()...)
	}
	return out
}
