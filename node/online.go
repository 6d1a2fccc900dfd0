package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// OnlineLog is what a log answered to "config check --online".
type OnlineLog struct {
	Name     string   `json:"name"`
	OK       bool     `json:"ok"`
	Problems []string `json:"problems,omitempty"` // for which no certificate could be had of the log
	Warnings []string `json:"warnings,omitempty"`
}

// AskLogs asks every log of the configuration for its roots and its head, all at the same time.
func (m *Material) AskLogs(ctx context.Context, cfg *config.Config) []OnlineLog {
	out := make([]OnlineLog, len(m.logs))
	var all sync.WaitGroup
	for i, l := range m.logs {
		all.Go(func() {
			roots := m.issuingRoots()
			e := ctlog.Examine(ctx, l.remote, ctlog.ExamineOptions{Active: roots[0], Others: roots[1:]})
			if now := time.Now(); l.outside(now, now) != nil {
				e.Warnings = append(e.Warnings, l.outside(now, now).Error())
			}
			out[i] = OnlineLog{
				Name: l.config.Name, OK: len(e.Problems) == 0, Problems: e.Problems,
				Warnings: e.Warnings,
			}
		})
	}
	all.Wait()
	if cfg.CT.Embedded != nil {
		out = append(out, embeddedHeads(ctx, *cfg.CT.Embedded)...) //nolint:makezero // the first ones are filled above
	}
	return out
}

// embeddedHeads reads the head of each shard of the embedded log that is there, and verifies it with the shard's key.
func embeddedHeads(ctx context.Context, c embedded.Config) []OnlineLog {
	var out []OnlineLog
	heads, err := embedded.Heads(ctx, c)
	if err != nil {
		return []OnlineLog{{Name: embedded.Shard{}.Label(), Problems: []string{err.Error()}}}
	}
	for _, h := range heads {
		one := OnlineLog{Name: h.Label(), OK: h.Err == nil}
		switch {
		case h.Err != nil:
			one.Problems = []string{h.Err.Error()}
		case h.Absent:
			one.Warnings = []string{fmt.Sprintf("%s holds no log yet; it is made at the first start",
				c.ShardDir(h.Shard))}
		}
		out = append(out, one)
	}
	return out
}
