package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// onlineLog is what a log answered to "config check --online".
type onlineLog struct {
	Name     string   `json:"name"`
	OK       bool     `json:"ok"`
	Problems []string `json:"problems,omitempty"` // for which no certificate could be had of the log
	Warnings []string `json:"warnings,omitempty"`
}

// askLogs asks every log of the configuration for its roots and its head, all at the same time.
func (m *material) askLogs(ctx context.Context, cfg *config.Config) []onlineLog {
	out := make([]onlineLog, len(m.logs))
	var all sync.WaitGroup
	for i, l := range m.logs {
		all.Go(func() {
			roots := m.issuingRoots()
			e := l.remote.Examine(ctx, ctlog.ExamineOptions{Active: roots[0], Others: roots[1:]})
			if now := time.Now(); l.outside(now, now) != nil {
				e.Warnings = append(e.Warnings, l.outside(now, now).Error())
			}
			out[i] = onlineLog{
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
func embeddedHeads(ctx context.Context, c embedded.Config) []onlineLog {
	var out []onlineLog
	heads, err := embedded.Heads(ctx, c)
	if err != nil {
		return []onlineLog{{Name: embedded.Shard{}.Label(), Problems: []string{err.Error()}}}
	}
	for _, h := range heads {
		one := onlineLog{Name: h.Label(), OK: h.Err == nil}
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
