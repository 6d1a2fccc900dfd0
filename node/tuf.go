package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/trust"
)

// How often the CA checks the TUF repository: at least every tufEvery, more often if the metadata of timestamp is short
// lived or the repository is published by the CA, and soon after a file changed.
const (
	tufEvery = time.Hour
	tufLeast = time.Minute
	tufPoll  = 2 * time.Second
)

// tufPath is the path at which the repository is served.
const tufPath = "/tuf/"

// tufKeeper publishes, renews and serves the TUF repository in publish.tuf.dir.
type tufKeeper struct {
	site    trust.Site
	trouble atomic.Pointer[string] // why the repository is not up to date; "": it is
	waiting atomic.Pointer[string] // for whose signature it waits; "": for none
	since   prometheus.Gauge       // when the waiting began
}

func newTUFKeeper() *tufKeeper {
	k := &tufKeeper{since: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_tuf_request_timestamp_seconds",
		Help: "Since when the TUF repository waits for a signature of its offline keys, in seconds since 1970; 0 if it " +
			"does not wait.",
	})}
	k.trouble.Store(new(string))
	k.waiting.Store(new(string))
	return k
}

// tufHandler serves the repository if the configuration in force says so.
func (n *Node) tufHandler() http.Handler {
	site := http.StripPrefix(strings.TrimSuffix(tufPath, "/"), &n.tuf.site)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := n.current.Load()
		if s != nil && !s.config.Publish.TUF.Serves() {
			w.Header().Set("Cache-Control", "no-store")
			http.Error(w, "this CA serves no TUF repository", http.StatusNotFound)
			return
		}
		site.ServeHTTP(w, r)
	})
}

// keepTUF keeps the TUF repository in publish.tuf.dir until ctx ends, and updates the warnings about expiry.
func (n *Node) keepTUF(ctx context.Context) {
	for {
		every := tufEvery
		s := n.current.Load()
		changed := func() bool { return false }
		if t := s.config.Publish.TUF; t != nil && t.Dir != "" {
			timestamp, _ := t.Lives()
			every = max(tufLeast, min(tufEvery, timestamp/28))
			if t.Serves() || t.Updates() {
				every = tufLeast
			}
			before := tufStamp(s.config)
			changed = func() bool { return tufStamp(s.config) != before }
			n.roundTUF(s, time.Now())
		}
		n.countDown(n.current.Load(), time.Now())
		if !n.awaitTUF(ctx, time.Now().Add(every), changed) {
			return
		}
	}
}

// awaitTUF waits for the next round: until it is due, the configuration in force changes, or changed returns true. It
// returns false if ctx ends.
func (n *Node) awaitTUF(ctx context.Context, due time.Time, changed func() bool) bool {
	tick := time.NewTicker(tufPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-n.counts:
			return true
		case now := <-tick.C:
			if !now.Before(due) || changed() {
				return true
			}
		}
	}
}

// tufStamp changes if the signed response arrives, if somebody publishes, and if a log gets another shard.
func tufStamp(cfg *config.Config) string {
	dir := cfg.Publish.TUF.Dir
	names := []string{
		filepath.Join(dir, trust.ResponseName), filepath.Join(dir, "repository", "timestamp.json"),
		filepath.Join(dir, "keys", "published", "timestamp.json"),
	}
	for _, own := range processLogs(cfg) {
		names = append(names, own.Config.ShardsFile())
	}
	var b strings.Builder
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			fmt.Fprintln(&b, info.Size(), info.ModTime().UnixNano())
		} else {
			fmt.Fprintln(&b)
		}
	}
	return b.String()
}

// roundTUF publishes what changed, renews the metadata that is due, and serves the result.
func (n *Node) roundTUF(s *snapshot, now time.Time) {
	cfg, t := s.config, s.config.Publish.TUF
	waiting := ""
	r, err := openTUF(t)
	if err == nil {
		if waiting, err = n.updateTUF(s, r, now); err == nil {
			err = n.renewTUF(t, r, now)
		}
		n.tuf.site.Set(r.Files())
	} else if r, _ := trust.InspectTUF(trust.TUFOptions{Dir: t.Dir}); r != nil {
		n.tuf.site.Set(r.Files()) // of the anchor
	}
	trouble := ""
	if err != nil && !errors.Is(err, trust.ErrBusy) {
		trouble = firstLine(cfg.Locate(err))
	}
	if trouble != "" && trouble != *n.tuf.trouble.Load() {
		n.log.Warn("the TUF repository is not up to date", "dir", t.Dir, "cause", err.Error())
	}
	n.tuf.trouble.Store(&trouble)
	if waiting != *n.tuf.waiting.Load() {
		n.tuf.since.Set(0)
		if waiting != "" {
			n.tuf.since.Set(float64(now.Unix()))
			n.log.Warn("the TUF repository waits for a signature", "dir", t.Dir, "what", waiting)
		}
	}
	n.tuf.waiting.Store(&waiting)
}

// updateTUF publishes the signed response of the holder of the offline keys, and then the trusted root and the signing
// configuration if they changed. If the key of targets is not in the directory, it writes a request, and returns for
// what it waits.
func (n *Node) updateTUF(s *snapshot, r *trust.Repository, now time.Time) (waiting string, err error) {
	t := s.config.Publish.TUF
	if !t.Updates() {
		return "", nil
	}
	request := filepath.Join(t.Dir, trust.RequestName)
	if err := n.takeSigned(t.Dir, r); err != nil {
		return "", err
	}
	contents, err := n.wantedTUF(s, r, now)
	if err != nil {
		return "", err
	}
	if r.HasKeys("targets") {
		changed, err := r.Changed(contents...)
		if err == nil && len(changed) > 0 {
			var names []string
			if names, err = r.Publish(changed...); err == nil {
				n.log.Info("published to the TUF repository", "dir", t.Dir, "files", strings.Join(names, ", "))
			}
		}
		if err != nil {
			return "", err
		}
	}
	data, err := r.Request(contents...)
	if err != nil {
		return "", err
	}
	if data == nil {
		if err := os.Remove(request); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		return "", nil
	}
	if have, err := bounded.ReadFile(request, trust.MaxRequest); err != nil || string(have) != string(data) {
		if err := durable.WriteFile(request, data, 0o644); err != nil {
			return "", err
		}
	}
	return "sign " + request + " with the offline keys (mayfly trust tuf sign), and write the result to " +
		filepath.Join(t.Dir, trust.ResponseName), nil
}

// takeSigned publishes the response of the holder of the offline keys, if there is one.
func (n *Node) takeSigned(dir string, r *trust.Repository) error {
	name := filepath.Join(dir, trust.ResponseName)
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file; remove it", name)
	}
	data, err := bounded.ReadFile(name, trust.MaxRequest)
	var names []string
	if err == nil {
		names, err = r.PublishSigned(data)
	}
	if err != nil {
		return fmt.Errorf("%s is not published; sign the newest %s, or remove the file: %w", name,
			trust.RequestName, err)
	}
	n.log.Info("published to the TUF repository with the signature of the offline keys", "dir", dir,
		"files", strings.Join(names, ", "))
	return os.Remove(name)
}

// wantedTUF returns the trusted root and the signing configuration that the repository must have: what it has, and the
// material of the chains and services in force.
func (n *Node) wantedTUF(s *snapshot, r *trust.Repository, now time.Time) ([][]byte, error) {
	f := *s.files
	if state := n.chains.Load(); state != nil {
		f.rotation = state // newer than that of the snapshot if no chain is active
	}
	url := s.config.PublicURL()
	m, err := f.trustMaterial(s.config, url)
	if err != nil {
		return nil, err
	}
	have, _ := r.Target(trust.TrustedRootTarget)
	root, err := trust.Merge(have, m, f.untrusted()...)
	if err != nil {
		return nil, err
	}
	signing, err := clients{s.config, url, now}.services(m).SigningConfig()
	return [][]byte{root, signing}, err
}

// Documents returns the trusted root and the signing configuration for the clients of a configuration, as its CA
// publishes them to an empty TUF repository. It needs no private key and no password.
func Documents(cfg *config.Config) (root, signing []byte, err error) {
	m, services, err := TrustFiles(cfg, cfg.PublicURL(), time.Now())
	if err != nil {
		return nil, nil, err
	}
	if root, err = m.TrustedRoot(); err != nil {
		return nil, nil, err
	}
	signing, err = services.SigningConfig()
	return root, signing, err
}

// untrusted returns the issuing certificates that no verifier may trust.
func (f *loadedFiles) untrusted() (out []*x509.Certificate) {
	if f.rotation == nil {
		return nil
	}
	for _, c := range f.rotation.Chains {
		if c.Untrusted() {
			out = append(out, c.Certificates()[0])
		}
	}
	return out
}

// firstTrusted returns the first time at which one of the authorities was trusted, in whole seconds.
func firstTrusted(all []trust.Authority) (first time.Time) {
	for _, a := range all {
		if first.IsZero() || a.From.Before(first) {
			first = a.From
		}
	}
	return first.UTC().Truncate(time.Second)
}

// renewTUF renews the metadata if it is due: when a seventh of the validity of timestamp has passed.
func (n *Node) renewTUF(t *config.PublishTUF, r *trust.Repository, now time.Time) error {
	timestamp, _ := t.Lives()
	due := false
	for _, i := range r.Info() {
		if i.Role == "timestamp" || i.Role == "snapshot" {
			due = due || i.Soon || i.Role == "timestamp" && i.Expires.Sub(now) < timestamp*6/7
		}
	}
	if !due || !r.HasKeys("timestamp", "snapshot") {
		return nil
	}
	if _, err := r.Publish(); err != nil {
		return err
	}
	n.log.Info("the metadata of the TUF repository was renewed", "dir", t.Dir)
	return nil
}

// tufChecks returns the check of the TUF repository in /readyz.
func (n *Node) tufChecks(s *snapshot) []server.Check {
	t := s.config.Publish.TUF
	if t == nil || t.Dir == "" {
		return nil
	}
	return []server.Check{{Name: "TUF repository", Ask: func() server.Health {
		if cause := *n.tuf.trouble.Load(); cause != "" {
			return server.Health{Advisory: true, Cause: cause}
		}
		return server.Health{OK: true, Advisory: true, Warning: *n.tuf.waiting.Load()}
	}}}
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
