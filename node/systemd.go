package node

import (
	"context"

	"github.com/mayfly-ca/mayfly/internal/systemd"
)

// tell passes a state to systemd. A failure is logged, because the CA works without systemd.
func (n *Node) tell(err error) {
	if err != nil {
		n.log.Warn("systemd does not know the state of the process", "cause", err.Error())
	}
}

// tellReadiness shows in "systemctl status" whether the CA can issue.
func (n *Node) tellReadiness(cause string) {
	text := "ready"
	if cause != "" {
		text = "not ready: " + cause
	}
	n.tell(systemd.Status(text))
}

// keepWatchdog tells systemd that the process works, until ctx ends.
func (n *Node) keepWatchdog(ctx context.Context) { n.tell(systemd.Watchdog(ctx, n.server.Alive)) }
