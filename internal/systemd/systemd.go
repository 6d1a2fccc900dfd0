// Package systemd tells systemd about the state of the process (sd_notify(3)), and takes over the sockets that systemd
// has opened (sd_listen_fds(3)). Without systemd it does nothing.
package systemd

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready says that the process serves, after the start or after a reload.
func Ready() error { return notify(daemon.SdNotifyReady) }

// Status replaces the line of text that "systemctl status" shows.
func Status(status string) error { return notify("STATUS=" + status) }

// Reloading says that a reload has begun. [Ready] ends it.
func Reloading() error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	return notify(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now))
}

// Stopping says that the process stops.
func Stopping() error { return notify(daemon.SdNotifyStopping) }

// notify sends a state. Without systemd it does nothing.
func notify(state string) error {
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("systemd cannot be notified: %w", err)
	}
	return nil
}

// Watchdog tells systemd at half the interval of WatchdogSec that the process works, as long as alive returns true,
// until ctx ends. It returns at once if the unit has no WatchdogSec.
func Watchdog(ctx context.Context, alive func() bool) error {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return err
	}
	tick := time.NewTicker(every / 2)
	defer tick.Stop()
	for {
		if alive() {
			if err := notify(daemon.SdNotifyWatchdog); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// passed are the listeners that systemd passed, by the name of their socket (FileDescriptorName=).
var passed = sync.OnceValues(activation.ListenersWithNames)

// Listener returns the listener that systemd passed under a name. Each call returns the same one.
func Listener(name string) (net.Listener, error) {
	all, err := passed()
	if err != nil {
		return nil, err
	}
	switch found := all[name]; {
	case len(found) == 0 || found[0] == nil:
		return nil, fmt.Errorf("systemd passed no stream socket with the name %q", name)
	case len(found) > 1:
		return nil, fmt.Errorf("systemd passed %d sockets with the name %q", len(found), name)
	default:
		return found[0], nil
	}
}
