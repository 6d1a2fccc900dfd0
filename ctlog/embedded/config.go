package embedded

import (
	"time"

	"github.com/mayfly-ca/mayfly/tlog"
)

// Config is the configuration of the embedded log.
type Config struct {
	// Dir is the log's directory. The first start makes it, with a new key.
	Dir string `yaml:"dir" path:"dir"`
	// Origin is the log's name in its checkpoints: a host name with a path, without scheme. It cannot be changed later.
	Origin string `yaml:"origin"`
	// Rotate is how often a new shard with a new key becomes active: yearly, quarterly or monthly, at 00:00 UTC of the
	// first day. When omitted: only by "mayfly log rotate".
	Rotate string `yaml:"rotate"`
	// Lead is how long before it becomes active a shard is made, so that verifiers can have its key by then: at most
	// 2160h. Default: 720h.
	Lead *time.Duration `yaml:"lead"`
	// Witnesses cosign the log's checkpoints (c2sp.org/tlog-witness).
	Witnesses []tlog.WitnessConfig `yaml:"witnesses"`
	// WitnessPolicy is how many cosignatures a checkpoint should have. A checkpoint with fewer is published
	// nevertheless, and readiness warns. Default: one of each witness.
	WitnessPolicy *int `yaml:"witness_policy"`
}

// Log returns the configuration of the log on disk.
func (c Config) Log() tlog.Config {
	return tlog.Config{
		Kind: tlog.StaticCT, Dir: c.Dir, Origin: c.Origin, Rotate: c.Rotate, Lead: c.Lead, Witnesses: c.Witnesses,
		WitnessPolicy: c.WitnessPolicy,
	}
}

// Check validates c without reading the directory. Its errors are *fault.Setting values.
func (c Config) Check() error { return c.Log().Check() }
