package node

import (
	"context"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/trust"
)

// How often the CA checks whether metadata of the TUF repository must be renewed.
const (
	tufEvery = time.Hour
	tufLeast = time.Minute
)

// keepTUF renews the metadata of the TUF repository in publish.tuf.dir until ctx ends, if it has the keys of timestamp
// and snapshot, and updates the warnings about expiry.
func (n *Node) keepTUF(ctx context.Context) {
	for {
		every := tufEvery
		cfg := n.current.Load().config
		if t := cfg.Publish.TUF; t != nil && t.Dir != "" {
			timestamp, _ := t.Lives()
			every = max(tufLeast, min(tufEvery, timestamp/28))
			n.renewTUF(cfg, time.Now())
		}
		n.countDown(n.current.Load(), time.Now())
		select {
		case <-ctx.Done():
			return
		case <-n.counts:
		case <-time.After(every):
		}
	}
}

// renewTUF renews the metadata if it is due: when a seventh of the validity of timestamp has passed.
func (n *Node) renewTUF(cfg *config.Config, now time.Time) {
	trouble := ""
	before := n.stale.Load()
	if renewed, err := renewedTUF(cfg.Publish.TUF, now); err != nil {
		trouble = "the metadata of the TUF repository is not renewed: " + firstLine(cfg.Locate(err))
		if before == nil || *before != trouble {
			n.log.Warn("the metadata of the TUF repository is not renewed", "dir", cfg.Publish.TUF.Dir,
				"cause", err.Error())
		}
	} else if renewed {
		n.log.Info("the metadata of the TUF repository was renewed", "dir", cfg.Publish.TUF.Dir)
	}
	n.stale.Store(&trouble)
}

func renewedTUF(t *config.PublishTUF, now time.Time) (bool, error) {
	r, err := openTUF(t)
	if err != nil {
		return false, err
	}
	timestamp, _ := t.Lives()
	due, keys := false, 0
	for _, i := range r.Info() {
		if i.Role != "timestamp" && i.Role != "snapshot" {
			continue
		}
		if i.HasKey {
			keys++
		}
		due = due || i.Soon || i.Role == "timestamp" && i.Expires.Sub(now) < timestamp*6/7
	}
	if !due || keys < 2 {
		return false, nil
	}
	_, err = r.Publish()
	return err == nil, err
}

// tufExpiries returns the ends of the metadata of each role; none if the repository cannot be read.
func tufExpiries(t *config.PublishTUF) (out []expiry) {
	if t == nil || t.Dir == "" {
		return nil
	}
	timestamp, snapshot := t.Lives()
	r, _ := trust.InspectTUF(trust.TUFOptions{
		Dir: t.Dir, Lives: trust.Lives{"timestamp": timestamp, "snapshot": snapshot},
	})
	if r == nil {
		return nil
	}
	for _, i := range r.Info() {
		out = append(out, expiry{kind: "tuf", name: i.Role, at: i.Expires, soon: i.Soon})
	}
	return out
}
