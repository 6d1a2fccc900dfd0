package node

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/loglist"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/fault"
	visibleText "github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/pop"
	"github.com/mayfly-ca/mayfly/trust"
)

// narrowToPublished compares the logs whose SCTs are embedded with ct.policy.trusted_root, the trusted root that
// verifiers use. Verifiers refuse a certificate with an SCT of a log that is not in their trusted root (B4). The
// validity of each log is limited to the published one.
func (f *loadedFiles) narrowToPublished(cfg *config.Config) error {
	name := cfg.CT.Policy.TrustedRoot
	if name == "" {
		return nil
	}
	data, err := input.Read(nil, name)
	if err != nil {
		return cfg.Locate(fault.BadFile(name, err, "ct", "policy", "trusted_root"))
	}
	root, err := trust.ParseTrustedRoot(data)
	if err != nil {
		return cfg.Locate(fault.BadSetting(err.Error(), "write the path of the published trusted_root.json", "ct",
			"policy", "trusted_root").In(name))
	}
	f.published, f.trustedRoot = &root, sha256.Sum256(data)
	now := time.Now()
	f.warnings = append(f.warnings, rekorWarnings(cfg, root, now)...)
	known := map[string]bool{}
	for i := range f.logs {
		l := &f.logs[i]
		known[keyText(l.remote.Key)] = true
		if !l.config.Embeds() {
			continue
		}
		if l.published, err = publishedWindow(root, l.remote.Key, now); err != nil {
			return cfg.Locate(fault.BadSetting(fmt.Sprintf("log %s: %v", l.config.Name, err),
				"publish a trusted root that has it (mayfly trust export), or set embed: false",
				"ct", "logs", strconv.Itoa(i)).In(name))
		}
	}
	if cfg.CT.Embedded == nil {
		return nil
	}
	all, err := f.certificateMaterial(cfg, "")
	if err != nil {
		return cfg.Locate(err)
	}
	for _, l := range all.Logs {
		if known[keyText(l.Key)] || !l.Contains(now) {
			continue
		}
		if _, err := publishedWindow(root, l.Key, now); err != nil {
			return cfg.Locate(fault.BadSetting(fmt.Sprintf("log %s: %v", l.Origin, err),
				"publish a trusted root that has it (mayfly trust export)", "ct", "embedded").In(name))
		}
	}
	return nil
}

// rekorWarnings warns if Ed25519 keys are certified and the trusted root has a Rekor v2 log. Such clients get
// certificates but cannot log their signatures: an entry of Rekor v2 holds a digest of the artifact, and pure Ed25519
// signs the artifact itself.
func rekorWarnings(cfg *config.Config, root trust.Material, now time.Time) []config.Warning {
	const pure = "ed25519"
	keys, err := pop.New(pop.Config{Algorithms: cfg.ClientAlgorithms}, pop.Options{})
	if err != nil || !slices.Contains(keys.Algorithms(), pure) {
		return nil
	}
	for _, l := range root.Rekor {
		if l.Contains(now) && l.RekorV2() {
			return []config.Warning{cfg.Warn(fault.BadSetting(fmt.Sprintf("client_algorithms has "+
				"Ed25519, but the Rekor "+
				"v2 log in ct.policy.trusted_root (%s) refuses Ed25519 signatures of blobs", visibleText.Escape(l.URL)),
				"list the accepted algorithms here, without "+pure,
				"client_algorithms"))}
		}
	}
	return nil
}

// skipped returns a warning for each entry of ct.policy.trusted_root that could not be read.
func (f *loadedFiles) skipped(cfg *config.Config) []string {
	if f.published == nil {
		return nil
	}
	var out []string
	for _, s := range f.published.Skipped {
		out = append(out, fmt.Sprintf("ct.policy.trusted_root: an entry of %s is left out: %s",
			cfg.CT.Policy.TrustedRoot, visibleText.Escape(s)))
	}
	return out
}

// publishedWindow returns the validity, which contains now, of the log with this key in root.
func publishedWindow(root trust.Material, key any, now time.Time) (*loglist.Window, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(spki)
	found := false
	for _, l := range root.Logs {
		other, err := x509.MarshalPKIXPublicKey(l.Key)
		if err != nil || !bytes.Equal(spki, other) || l.RootID != nil && !bytes.Equal(l.RootID, id[:]) {
			continue
		}
		found = true
		if w := l.Window; w.Contains(now) {
			return &w, nil
		}
	}
	if found {
		return nil,
			fmt.Errorf("the published trusted root has its key (log id %x), but its validity does not "+
				"include the current time", id)
	}
	return nil, fmt.Errorf("its key (log id %x) is not in the published trusted root", id)
}

// publishedShard returns the validity of a shard of the embedded log, limited to the published one if a trusted root is
// configured. Shards are added while the process runs, after the configuration was checked. A shard whose key is not in
// the published trusted root is an error and MUST NOT be used (B4).
func (f *loadedFiles) publishedShard(one embedded.OpenShard) (loglist.Window, error) {
	w := one.Window
	at := time.Now()
	if one.NotBefore.After(at) {
		at = one.NotBefore
	}
	if f.published == nil || !w.Contains(at) { // a shard that has ended gets no submissions
		return w, nil
	}
	p, err := publishedWindow(*f.published, one.Log.Key(), at)
	if err != nil {
		return w, err
	}
	return w.Intersect(*p), nil
}

func keyText(key any) string {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return ""
	}
	return string(spki)
}
