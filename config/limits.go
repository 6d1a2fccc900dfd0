package config

import (
	"errors"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/rate"
)

// Limits bounds the work that is accepted before requests are refused. The defaults fit every machine. A change of
// source, issuer and identity applies at a reload; a change of the others needs a restart.
type Limits struct {
	// Requests is the highest number of requests for certificates at once: computing, waiting for a processor, or
	// waiting for a log. Raise it if logs are slow: it must exceed certificates per second times the seconds that
	// a log takes. Each request costs less than 1 MiB. Default: 1024.
	Requests int `yaml:"requests" restart:"yes"`
	// Wait is the longest expected time in the queue for a processor. Requests that would wait longer are refused
	// at once, with Retry-After. Default: 1s.
	Wait time.Duration `yaml:"wait" restart:"yes"`
	// Connections is the highest number of open connections on each of the listeners http and grpc. At this
	// number, an idle connection of the source with the most connections is closed for a new one. Default: 4096,
	// or as many as an eighth of the memory limit has room for at 64 KiB each.
	Connections int `yaml:"connections" restart:"yes"`
	// ConnectionsPerSource is the highest number of these connections from one source: an IPv4 address, or an IPv6
	// /64. It does not apply to listen.trusted_proxies. Default: three eighths of connections.
	ConnectionsPerSource int `yaml:"connections_per_source" restart:"yes"`
	// Source is how many certificates may be requested from one source: an IPv4 address, or an IPv6 /64. It is checked
	// before a request is read, and does not apply to listen.trusted_proxies themselves. When omitted: no limit.
	Source *rate.Config `yaml:"source"`
	// Issuer is how many certificates may be requested with tokens of one entry of the issuer file; the entry can have
	// a rate-limit of its own. When omitted: no limit.
	Issuer *rate.Config `yaml:"issuer"`
	// Identity is how many certificates one identity (issuer and subject) may request; an entry of the issuer file can
	// have an identity-rate-limit of its own. When omitted: no limit.
	Identity *rate.Config `yaml:"identity"`
}

const (
	mostRequests    = 1 << 17
	mostConnections = 1 << 20
	longestWait     = 10 * time.Second // half of the time limit of a request
)

func (l Limits) check() error {
	var errs []error
	if l.Requests < 0 || l.Requests > mostRequests {
		errs = append(errs, fault.BadSetting("is out of range", "write a number from 1 to 131072, or remove it",
			"limits", "requests"))
	}
	if l.Wait < 0 || l.Wait > longestWait {
		errs = append(errs, fault.BadSetting("is out of range", "write a duration up to 10s, or remove it",
			"limits", "wait"))
	}
	if l.Connections < 0 || l.Connections > mostConnections {
		errs = append(errs, fault.BadSetting("is out of range", "write a number from 1 to 1048576, or remove it",
			"limits", "connections"))
	}
	if l.ConnectionsPerSource < 0 || l.ConnectionsPerSource > mostConnections {
		errs = append(errs, fault.BadSetting("is out of range", "write a number from 1 to 1048576, or remove it",
			"limits", "connections_per_source"))
	}
	if l.Connections > 0 && l.ConnectionsPerSource > l.Connections {
		errs = append(errs, fault.BadSetting("is more than limits.connections", "write a smaller number, or remove it",
			"limits", "connections_per_source"))
	}
	for key, r := range map[string]*rate.Config{"source": l.Source, "issuer": l.Issuer, "identity": l.Identity} {
		errs = append(errs, fault.Under(r.Check(), "limits", key))
	}
	return errors.Join(errs...)
}
