package tlog

import (
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	f_note "github.com/transparency-dev/formats/note"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
)

// Config is the configuration of a log. A front end has the settings in its own block of the configuration file, under
// the names of the fields in lower case with underscores: the errors of this package are at these names.
type Config struct {
	Kind Kind
	// Dir is the log's directory. The first start makes it.
	Dir string
	// Origin is the log's name in its checkpoints. It cannot be changed later.
	Origin string
	// Keys sign checkpoints: each is the key of one shard. A new shard gets the first key that no shard has. When
	// empty, a shard has a key of its own, which is made in its directory.
	Keys []crypto.Signer
	// Rotate is how often a new shard with a new key becomes active: yearly, quarterly or monthly, at 00:00 UTC of the
	// first day. Empty: only by [Config.MakeShard].
	Rotate string
	// Lead is how long before it becomes active a shard is made: at most 2160h. Default: 720h.
	Lead *time.Duration
	// Witnesses cosign the log's checkpoints (c2sp.org/tlog-witness).
	Witnesses []WitnessConfig
	// WitnessPolicy is how many cosignatures a checkpoint should have. A checkpoint with fewer is published
	// nevertheless. Default: one of each witness.
	WitnessPolicy *int
	// Interval is the shortest time between two checkpoints. Default: a second for a CT log, whose SCTs do not need
	// them; 20 ms for a log whose clients wait for them. Keys outside this process need more.
	Interval time.Duration
}

// WitnessConfig is one witness.
type WitnessConfig struct {
	// Name identifies the witness in messages, metrics and readiness reports. Default: the name in its key.
	Name string `yaml:"name"`
	// URL is the submission prefix, to which /add-checkpoint is appended: https, or http on loopback.
	URL string `yaml:"url"`
	// PublicKey is the witness's verifier key (c2sp.org/signed-note, "Verifier keys"): NAME+HASH+KEY.
	PublicKey string `yaml:"public_key"`
}

const (
	// defaultInterval and promptInterval are the shortest times between two checkpoints.
	defaultInterval = time.Second
	promptInterval  = 20 * time.Millisecond

	defaultLead = 30 * 24 * time.Hour
	maxLead     = 90 * 24 * time.Hour
)

// LeadOrDefault returns Lead or its default.
func (c Config) LeadOrDefault() time.Duration {
	if c.Lead == nil {
		return defaultLead
	}
	return *c.Lead
}

func (c Config) interval() time.Duration {
	switch {
	case c.Interval > 0:
		return c.Interval
	case c.Kind == Rekor:
		return promptInterval
	}
	return defaultInterval
}

func (c Config) cosignatures() int {
	if c.WitnessPolicy == nil {
		return len(c.Witnesses)
	}
	return *c.WitnessPolicy
}

// Check validates c without reading the directory. Its errors are [fault.Setting] values.
func (c Config) Check() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, fault.BadSetting("dir is missing", "write the path of the log's directory", "dir"))
	}
	fix := "write a name such as ca.example.com/ct, without scheme"
	if c.Kind == Rekor {
		fix = "write the host name of the URL that clients use, such as sigstore.example.com"
	}
	switch {
	case c.Kind == Rekor && strings.ContainsAny(c.Origin, ":/"):
		errs = append(errs, fault.BadSetting("invalid origin", fix, "origin"))
	case c.Origin == "":
		errs = append(errs, fault.BadSetting("origin is missing", fix, "origin"))
	case strings.Contains(c.Origin, "://"), strings.ContainsAny(c.Origin, " \t\r\n+"), strings.HasSuffix(c.Origin, "/"),
		len(c.Origin) > 200:
		errs = append(errs, fault.BadSetting("invalid origin", fix, "origin"))
	}
	if _, known := schedules()[c.Rotate]; c.Rotate != "" && !known {
		errs = append(errs, fault.BadSetting("invalid schedule "+strconv.Quote(c.Rotate),
			"write yearly, quarterly or monthly", "rotate"))
	}
	if lead := c.LeadOrDefault(); lead < 0 || lead > maxLead {
		errs = append(errs, fault.BadSetting("invalid lead time "+lead.String(),
			"write a time from 0s to 2160h", "lead"))
	}
	names := map[string]bool{}
	for i, w := range c.Witnesses {
		at := []string{"witnesses", strconv.Itoa(i)}
		name, err := w.check()
		errs = append(errs, fault.Under(err, at...))
		if names[name] && name != "" {
			errs = append(errs, fault.BadSetting("the name "+strconv.Quote(name)+" is used twice",
				"give each witness a different name", append(at, "name")...))
		}
		names[name] = true
	}
	if n := c.cosignatures(); n < 0 || n > len(c.Witnesses) {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%d cosignatures of %d witnesses", n, len(c.Witnesses)),
			"write at most the number of witnesses", "witness_policy"))
	}
	return errors.Join(errs...)
}

// check validates the witness and returns its name.
func (w WitnessConfig) check() (name string, err error) {
	var errs []error
	v, err := f_note.NewVerifierForCosignatureV1(w.PublicKey)
	switch {
	case w.PublicKey == "":
		errs = append(errs, fault.BadSetting("the witness has no public_key; its cosignatures could not be verified",
			"write its key, NAME+HASH+KEY", "public_key"))
	case err != nil, !checksum(w.PublicKey):
		errs = append(errs, fault.BadSetting("invalid verifier key", "write the witness's verifier key, NAME+HASH+KEY",
			"public_key"))
	case w.Name == "":
		w.Name = v.Name()
	}
	u, err := url.Parse(w.URL)
	switch {
	case err != nil, u.Hostname() == "", u.Scheme != "https" && u.Scheme != "http", u.User != nil,
		u.RawQuery != "", u.Fragment != "":
		errs = append(errs, fault.BadSetting("invalid witness URL "+strconv.Quote(w.URL),
			"write the prefix to which /add-checkpoint is appended", "url"))
	case u.Scheme == "http" && !hostname.IsLoopback(u.Hostname()):
		errs = append(errs, fault.BadSetting("plain http to a witness that is not on this host", "use https", "url"))
	}
	return w.Name, errors.Join(errs...)
}

// checksum reports whether the hash in a verifier key matches its name and key: a typing error breaks it.
func checksum(vkey string) bool {
	name, rest, _ := strings.Cut(vkey, "+")
	hash, key, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.DecodeString(key)
	sum := sha256.Sum256(append([]byte(name+"\n"), raw...))
	return err == nil && hash == hex.EncodeToString(sum[:4])
}
