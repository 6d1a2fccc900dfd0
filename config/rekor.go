package config

import (
	"crypto"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tlog"
)

// Rekor is a log of signatures in this process: Rekor v2 on the local disk.
type Rekor struct {
	// Dir is the log's directory. The first start makes it.
	Dir string `yaml:"dir" path:"dir"`
	// Origin is the log's name in its checkpoints: the host name of the URL that clients use, without a port, because
	// they compute it from that URL. It cannot be changed later. Default: the host name in publish.url.
	Origin string `yaml:"origin"`
	// Key is the key that signs checkpoints, ECDSA or Ed25519, without a chain. When omitted: the log makes an ECDSA
	// P-256 key in dir.
	Key *backends.Table `yaml:"key"`
	// NextKeys are the keys of the shards after the first one, in the order in which they are used, if key is set.
	NextKeys []backends.Table `yaml:"next_keys"`
	// Admit says which entries are logged: own are those with a certificate of this CA, any are those with any key or
	// certificate. Default: own.
	Admit string `yaml:"admit"`
	// V1 serves the write API of Rekor v1 too, for clients that know no other one: gitsign, npm, sigstore-rs,
	// sigstore-ruby. The entries are in the same log. Its key must be ECDSA P-256, and the time in an answer is the
	// time of this machine.
	V1 bool `yaml:"v1"`
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

// The values of [Rekor].Admit.
const (
	admitOwn = "own"
	admitAny = "any"
)

// OnlyOwn reports whether only entries with a certificate of this CA are logged.
func (r *Rekor) OnlyOwn() bool { return r.Admit != admitAny }

// Keys returns the configured keys, in the order of the shards, with their paths in the configuration. A nil r has
// none.
func (r *Rekor) Keys() (tables []backends.Table, at [][]string) {
	if r == nil || r.Key == nil {
		return nil, nil
	}
	tables, at = append(tables, *r.Key), append(at, []string{"rekor", "key"})
	for i, one := range r.NextKeys {
		tables, at = append(tables, one), append(at, []string{"rekor", "next_keys", strconv.Itoa(i)})
	}
	return tables, at
}

// RekorLog returns the configuration of the log on disk with open keys; see [Rekor.Keys].
func (c *Config) RekorLog(keys ...crypto.Signer) tlog.Config {
	r := c.Rekor
	origin := r.Origin
	if u, err := url.Parse(c.PublicURL()); origin == "" && err == nil {
		origin = u.Hostname()
	}
	return tlog.Config{
		Kind: tlog.Rekor, Dir: r.Dir, Origin: origin, Keys: keys, Rotate: r.Rotate, Lead: r.Lead,
		Witnesses:     r.Witnesses,
		WitnessPolicy: r.WitnessPolicy,
	}
}

// checkRekor validates the block rekor.
func (c *Config) checkRekor() error {
	r := c.Rekor
	if r == nil {
		return nil
	}
	errs := []error{c.RekorLog().Check()}
	tables, at := r.Keys()
	for i, one := range tables {
		errs = append(errs, fault.Under(one.CheckKey(), at[i][1:]...))
	}
	switch {
	case r.Key == nil && len(r.NextKeys) > 0:
		errs = append(errs, fault.BadSetting("next_keys is set, but key is not", "write the key of the first shard",
			"next_keys"))
	case r.Key != nil && len(r.NextKeys) == 0 && r.Rotate != "":
		errs = append(errs, fault.BadSetting("each shard needs a key of its own",
			"write next_keys, or omit key: the log then makes the keys", "rotate"))
	}
	if r.Admit != "" && r.Admit != admitOwn && r.Admit != admitAny {
		errs = append(errs, fault.BadSetting("invalid value "+strconv.Quote(r.Admit), "write own or any", "admit"))
	}
	return errors.Join(errs...)
}

// warnRekor warns about a log that clients would not accept.
func (c *Config) warnRekor() *fault.Setting {
	if c.Rekor == nil {
		return nil
	}
	u, err := url.Parse(c.PublicURL())
	if origin := c.RekorLog().Origin; err == nil && !strings.EqualFold(u.Hostname(), origin) {
		return fault.BadSetting("clients compute the name of the log from the URL, and "+strconv.Quote(u.Hostname())+
			" is not "+strconv.Quote(origin)+": clients would refuse every entry",
			"write the host name of the URL that clients use",
			"rekor", "origin")
	}
	return nil
}
