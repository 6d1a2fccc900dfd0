package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/canary"
	"github.com/mayfly-ca/mayfly/server"
)

// canaryTarget returns what a run of the canary uses: the snapshot in force. Before the first one there are no runs.
func (n *Node) canaryTarget() *canary.Target {
	s := n.current.Load()
	if s == nil || s.logs == nil {
		return &canary.Target{}
	}
	return n.targetOf(s)
}

// targetOf returns those parts of a snapshot with logs that a run of the canary uses.
func (n *Node) targetOf(s *snapshot) *canary.Target {
	return &canary.Target{
		Interval: s.config.Canary.Period(), Keys: s.keys, Authority: s.authority, MLDSA: s.mldsa,
		Journal: s.journal.journal, Digest: s.config.Digest,
	}
}

// canaryCheck returns the readiness check of the canary, which only warns: what a run needs has checks of its own.
func (n *Node) canaryCheck(s *snapshot) []server.Check {
	if s.config.Canary.Period() == 0 {
		return nil
	}
	return []server.Check{{Name: "canary", Ask: func() server.Health {
		return server.Health{OK: true, Advisory: true, Warning: n.canary.Warning()}
	}}}
}

// canaryCollectors returns the metrics of the canary, if there is one.
func (n *Node) canaryCollectors(s *snapshot) []prometheus.Collector {
	if s.config.Canary.Period() == 0 {
		return nil
	}
	return n.canary.Collectors()
}
