package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/find"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/tlog"
)

// FindSources returns the logs of a configuration that are in the CA's own process, for an index of them.
func FindSources(cfg *config.Config) (out []find.Source, err error) {
	for _, own := range processLogs(cfg) {
		kind := find.Certificates
		if own.Config.Kind == tlog.Rekor {
			kind = find.Signatures
		}
		shards, err := own.monitors()
		if err != nil {
			return nil, err
		}
		for _, log := range shards {
			out = append(out, find.Source{Log: log, Kind: kind})
		}
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

// findSources returns a function that returns the logs. It opens them again only if their shards have changed.
func (n *Node) findSources() func() ([]find.Source, error) {
	var known []tlog.Shard
	var out []find.Source
	return func() ([]find.Source, error) {
		if n.current.Load() == nil {
			return nil, nil // the logs are not open yet
		}
		var shards []tlog.Shard
		for _, own := range processLogs(n.started) {
			some, err := own.Config.Shards()
			if err != nil {
				return nil, err
			}
			shards = append(shards, some...)
		}
		if known != nil && slices.EqualFunc(known, shards, func(a, b tlog.Shard) bool { return a.LogID == b.LogID }) {
			return out, nil
		}
		next, err := FindSources(n.started)
		if err != nil {
			return nil, err
		}
		known, out = shards, next
		return out, nil
	}
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
