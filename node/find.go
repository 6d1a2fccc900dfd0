package node

import (
	"context"
	"fmt"
	"net/http"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/find"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/tlog"
)

// FindSources returns the logs of a configuration that are in this process, for an index of them.
func FindSources(cfg *config.Config) (out []find.Source, err error) {
	if cfg.CT.Embedded == nil {
		return nil, nil
	}
	log := cfg.CT.Embedded.Log()
	shards, err := log.Shards()
	if err != nil {
		return nil, err
	}
	return shardSources(log, shards)
}

func shardSources(c tlog.Config, shards []tlog.Shard) (out []find.Source, err error) {
	for _, s := range shards {
		l, err := auditedShard(c, s)
		if err != nil {
			return nil, err
		}
		out = append(out, find.Source{Log: l.Log, Kind: find.Certificates})
	}
	return out, nil
}

// openFind opens the index of the logs in this process, if there is one.
func (n *Node) openFind() (err error) {
	if n.started.Find == nil {
		return nil
	}
	n.find, err = find.Open(*n.started.Find, find.Options{Sources: n.findSources(), Logger: n.log})
	if err != nil {
		return fmt.Errorf("find: %w", err)
	}
	return nil
}

// findSources returns a function that returns the logs in force. It opens them again only if the shards have changed.
func (n *Node) findSources() func() ([]find.Source, error) {
	var known []tlog.Shard
	var out []find.Source
	return func() ([]find.Source, error) {
		s := n.current.Load()
		if s == nil || s.embedded == nil {
			return nil, nil
		}
		shards := s.embedded.Shards()
		if sameShards(known, shards) {
			return out, nil
		}
		next, err := shardSources(n.started.CT.Embedded.Log(), shards)
		if err != nil {
			return nil, err
		}
		known, out = shards, next
		return out, nil
	}
}

func sameShards(a, b []tlog.Shard) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].LogID != b[i].LogID {
			return false
		}
	}
	return true
}

// findService returns the page of the index, if there is one.
func (n *Node) findService() []server.Service {
	if n.find == nil {
		return nil
	}
	const name = "find"
	return []server.Service{{
		Name: name, Paths: []string{find.Path}, Handler: n.find.Handler(find.Server{
			Call: func(ctx context.Context, run func(context.Context) error) error {
				return n.server.Call(ctx, server.Call{Service: name, Method: "Find"},
					func(ctx context.Context, _ *server.Request) error { return run(ctx) })
			},
			WriteError: func(w http.ResponseWriter, r *http.Request, err error) { n.server.WriteError(w, r, err) },
		}),
	}}
}

// findCheck returns the readiness check of the index, which only warns.
func (n *Node) findCheck() []server.Check {
	if n.find == nil {
		return nil
	}
	return []server.Check{{Name: "find", Ask: func() server.Health {
		return server.Health{OK: true, Advisory: true, Warning: n.find.Warning()}
	}}}
}
