package node

import (
	"fmt"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/uses"
)

// usesFile is the name of the file in state_dir that has the uses of tokens.
const usesFile = "token-uses"

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
	if l := n.uses.Load(); l != nil {
		return l
	}
	return nil
}

// usesChecks returns the checks of /readyz on the counts of uses.
func (n *Node) usesChecks() []server.Check {
	l := n.uses.Load()
	if l == nil {
		return nil
	}
	return []server.Check{{Name: "uses of tokens", Ask: func() server.Health {
		return server.Health{OK: true, Advisory: true, Warning: l.Warning()}
	}}}
}
