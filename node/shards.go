package node

import (
	"context"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/tlog"
	"github.com/mayfly-ca/mayfly/trust"
)

// exportShards returns all shards of the embedded log with their validity, including past and future ones: verifiers
// need the keys of past shards for existing certificates, and those of future shards before they are used. from is the
// beginning of the first shard's validity.
func exportShards(c tlog.Config, url string, from time.Time) ([]trust.Log, error) {
	shards, err := c.Shards()
	if err != nil {
		return nil, err
	}
	out := make([]trust.Log, 0, len(shards))
	for _, s := range shards {
		l, err := c.Describe(s)
		if err != nil {
			return nil, err
		}
		if !s.NotBefore.IsZero() {
			from = s.NotBefore
		}
		l.URL, l.NotBefore = url+s.Path(), from
		out = append(out, trust.Log{Log: l})
	}
	return out, nil
}

// exportRekor is [exportShards] for the log of signatures. The URL of the first shard is that of the write API, and
// stays its URL when another shard is active: who reads a log finds it where it was.
func exportRekor(c tlog.Config, url string, from time.Time) ([]trust.Log, error) {
	out, err := exportShards(c, "", from)
	for i := range out {
		if path := out[i].URL; path == "" {
			out[i].URL = url
		} else {
			out[i].URL = url + rekorPath + path
		}
	}
	return out, err
}

// shardChanges returns a channel that receives when the set of shards changes; nil without an embedded log.
func (s *snapshot) shardChanges() <-chan struct{} {
	if s.embedded == nil {
		return nil
	}
	return s.embedded.Changes()
}

// reshard puts the current set of shards in force. It does not read the configuration file, so an error in that file
// does not stop a rotation.
func (n *Node) reshard(ctx context.Context) {
	old := n.current.Load()
	next, err := n.assemble(ctx, old.config, old.files, old)
	if err != nil {
		n.log.Error("the new shards of the embedded log could not be put in force; restart the process",
			"cause", err.Error())
		n.reloadProblem.Store("a restart is needed to use the new shards of the embedded log: " + firstLine(err))
		return
	}
	next.warnings = old.warnings
	n.install(ctx, next)
	if err := n.publish(next); err != nil {
		n.log.Error("the trusted root does not have the new shards", "cause", err.Error())
	}
	n.log.Info("shards of the embedded log in force", "generation", n.generation, "log_count", next.logCount())
}

// shardChecks returns the readiness checks of the embedded log, one for each open shard.
func (s *snapshot) shardChecks() []server.Check {
	var out []server.Check
	for i, one := range s.embedded.Open() {
		newest := i == 0
		out = append(out, server.Check{Name: "log " + one.Label(), Ask: func() server.Health {
			if why := s.unpublished[one.Label()]; why != "" {
				return server.Health{Advisory: true, Cause: why}
			}
			h := s.logStatus(one.Label()) // its storage, and whether it is quarantined
			if !h.OK {
				return h
			}
			if w := one.Log.Warning(context.Background()); w != "" {
				h.Warning = w
			}
			if w := s.embedded.Warning(); h.Warning == "" && newest {
				h.Warning = w
			}
			return h
		}})
	}
	return out
}

// idle reports whether a log is a shard of the embedded log that gets no submissions now, because its validity has not
// begun or has ended.
func (s *snapshot) idle(name string) bool {
	one, ok := s.shard(name)
	now := time.Now()
	return ok && (!one.NotBefore.IsZero() && now.Before(one.NotBefore) ||
		!one.NotAfter.IsZero() && !now.Before(one.NotAfter))
}

func (s *snapshot) shard(name string) (embedded.OpenShard, bool) {
	if s.embedded == nil {
		return embedded.OpenShard{}, false
	}
	for _, one := range s.embedded.Open() {
		if one.Label() == name {
			return one, true
		}
	}
	return embedded.OpenShard{}, false
}
