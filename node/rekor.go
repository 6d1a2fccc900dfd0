package node

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/rekor"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/tlog"
	"github.com/mayfly-ca/mayfly/trust"
)

// rekorLog is the log of signatures of this process. It stays until the process ends. A nil one stands for none.
type rekorLog struct {
	node  *Node
	write *rekor.Service
	store atomic.Pointer[tlog.Store] // nil: it is not open yet
	keys  []*signer.Key
}

// rekorPath is where the shards after the first one are read: rekorPath/NAME/api/v2/….
const rekorPath = "/rekor"

// readPath is where a shard is read, below its URL.
const readPath = "/api/v2"

// slowKey is the shortest time between two checkpoints that are signed outside this process.
const slowKey = time.Second

// newRekor returns the log of the configuration, not open yet, or nil.
func newRekor(n *Node) *rekorLog {
	if n.started.Rekor == nil {
		return nil
	}
	r := &rekorLog{node: n}
	o := rekor.Options{
		Log: r, Pause: n.pause, Config: func() string { return n.current.Load().config.Digest },
		Journal: func() *journal.Journal { return n.journal.journal },
		Call: func(ctx context.Context, method string, run func(context.Context, rekor.Request) error) error {
			return n.server.Call(ctx, server.Call{Service: "rekor", Method: method},
				func(ctx context.Context, r *server.Request) error {
					return run(ctx, rekor.Request{ID: r.ID, Transport: r.Transport, Source: r.Source, Add: r.Add})
				})
		},
	}
	if n.started.Rekor.OnlyOwn() {
		o.Admit = n.ownCertificate
	}
	r.write = rekor.New(o)
	return r
}

// pause is [admission.Controller.Pause] of the controller, which is made later.
func (n *Node) pause() (resume func()) { return n.admission.Pause() }

// ownCertificate returns an error if a certificate is not one of a chain in the trust bundle. A certificate that has
// expired is verified at its end: a signature may be logged later than it was made.
func (n *Node) ownCertificate(c *x509.Certificate) error {
	at := time.Now()
	if at.After(c.NotAfter) {
		at = c.NotAfter
	}
	t := client.Trust{Chains: n.current.Load().authority.Bundle(), MinSCTs: client.NoSCTs}
	_, err := client.Verify([]*x509.Certificate{c}, t, at)
	return err
}

// service returns the API on the listeners.
func (r *rekorLog) service() server.Service {
	mux := http.NewServeMux()
	// the server is made later
	refuse := func(w http.ResponseWriter, in *http.Request, err error) { r.node.server.WriteError(w, in, err) }
	mux.Handle(rekor.EntriesPath, r.write.Handler(refuse))
	paths := []string{rekor.EntriesPath, readPath + "/checkpoint", readPath + "/tile/", rekorPath + "/"}
	if r.node.started.Rekor.V1 {
		mux.Handle(rekor.EntriesPathV1, r.write.HandlerV1(rekor.V1{Key: r.keyV1}, refuse))
		paths = append(paths, rekor.EntriesPathV1)
	}
	mux.Handle(readPath+"/checkpoint", http.StripPrefix(readPath, r.reading("")))
	mux.Handle(readPath+"/tile/", http.StripPrefix(readPath, r.reading("")))
	mux.HandleFunc(rekorPath+"/{name}"+readPath+"/", func(w http.ResponseWriter, in *http.Request) {
		name := in.PathValue("name")
		http.StripPrefix(rekorPath+"/"+name+readPath, r.reading(name)).ServeHTTP(w, in)
	})
	return server.Service{
		Name:  "rekor",
		Paths: paths,
		Body:  rekor.MaxBody, Handler: mux, Register: r.write.Register,
	}
}

// keyV1 returns the key of a shard for answers of Rekor v1.
func (r *rekorLog) keyV1(logID []byte) (rekor.KeyV1, error) {
	for _, one := range r.store.Load().Open() {
		if id := one.Log.ID(); bytes.Equal(id[:], logID) {
			key, err := signature.LoadSigner(one.Log.Signer(), crypto.SHA256)
			return rekor.KeyV1{Origin: r.node.started.RekorLog().Origin, Signer: key}, err
		}
	}
	return rekor.KeyV1{}, errors.New("the shard is closed")
}

// reading serves the files of a shard.
func (r *rekorLog) reading(shard string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		store := r.store.Load()
		if store == nil {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the log is starting", http.StatusServiceUnavailable)
			return
		}
		if h := store.ShardHandler(shard); h != nil {
			h.ServeHTTP(w, in)
			return
		}
		http.NotFound(w, in)
	})
}

// open opens the keys and the log.
func (r *rekorLog) open(ctx context.Context) (err error) {
	if r == nil {
		return nil
	}
	n := r.node
	if r.keys, err = openRekorKeys(ctx, n.log, n.started); err != nil {
		return n.started.Locate(err)
	}
	store, err := tlog.OpenStore(ctx, rekorConfig(n.started, r.keys), tlog.Options{
		Logger: n.log, UserAgent: version.UserAgent(), Event: n.journal.note, Metrics: n.logs,
	})
	if err != nil {
		return n.started.Locate(fault.Under(fmt.Errorf("log of signatures: %w", err), "rekor"))
	}
	r.store.Store(store)
	return nil
}

// openRekorKeys opens the keys of the log of signatures that are configured. log is optional. Its errors are settings.
func openRekorKeys(ctx context.Context, log *slog.Logger, cfg *config.Config) (keys []*signer.Key, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closeKeys(keys))
		}
	}()
	tables, at := cfg.Rekor.Keys()
	for i, one := range tables {
		name, backend := one.Selected()
		key, err := backend.Open(ctx, signer.Options{Log: log})
		if err != nil {
			return keys, fault.Under(err, append(at[i], name)...)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func closeKeys(keys []*signer.Key) error {
	var errs []error
	for _, key := range keys {
		errs = append(errs, key.Close())
	}
	return errors.Join(errs...)
}

// rekorConfig is the configuration of the log with its open keys.
func rekorConfig(cfg *config.Config, keys []*signer.Key) tlog.Config {
	var signers []crypto.Signer
	remote := false
	for _, key := range keys {
		signers = append(signers, key.Signer)
		remote = remote || key.Remote()
	}
	out := cfg.RekorLog(signers...)
	if remote {
		out.Interval = slowKey
	}
	return out
}

// RekorLog opens the configured keys of the log of signatures, and returns the configuration of the log with them, for
// a command that makes shards. Its errors are settings.
func RekorLog(ctx context.Context, cfg *config.Config) (c tlog.Config, closeAll func() error, err error) {
	keys, err := openRekorKeys(ctx, nil, cfg)
	if err != nil {
		return c, nil, err
	}
	return rekorConfig(cfg, keys), func() error { return closeKeys(keys) }, nil
}

// inspectRekor finds what would keep the log from being opened. It changes nothing. Its errors are settings.
func inspectRekor(ctx context.Context, log *slog.Logger, cfg *config.Config) error {
	keys, err := openRekorKeys(ctx, log, cfg)
	if err != nil {
		return err
	}
	err = fault.Under(tlog.Inspect(rekorConfig(cfg, keys)), "rekor")
	return errors.Join(err, closeKeys(keys))
}

// Add implements [rekor.Log].
func (r *rekorLog) Add(ctx context.Context, leaf []byte) (rekor.Inclusion, error) {
	store := r.store.Load()
	if store == nil {
		return rekor.Inclusion{}, errors.New("the log is starting")
	}
	at, err := store.Add(ctx, leaf)
	return rekor.Inclusion{
		LogID: at.LogID[:], Index: at.Index, Size: at.Size, Root: at.Root, Hashes: at.Hashes, Checkpoint: at.Checkpoint,
	}, err
}

// changes returns a channel that receives when the set of shards changes; nil without a log.
func (r *rekorLog) changes() <-chan struct{} {
	if r == nil {
		return nil
	}
	return r.store.Load().Changes()
}

// publicKeys are the keys of all shards, for which no certificate may be issued.
func (r *rekorLog) publicKeys() []crypto.PublicKey {
	if r == nil || r.store.Load() == nil {
		return nil
	}
	return r.store.Load().Keys()
}

// checks returns the readiness checks, one for each open shard. They do not make the CA unready: its certificates do
// not depend on this log.
func (r *rekorLog) checks(s *snapshot) []server.Check {
	if r == nil {
		return nil
	}
	var out []server.Check
	for i, one := range r.store.Load().Open() {
		newest := i == 0
		out = append(out, server.Check{Name: "log " + one.Label(), Ask: func() server.Health {
			h := server.Health{OK: true, Advisory: true}
			if err := one.Log.Health(); err != nil {
				return server.Health{Advisory: true, Cause: err.Error()}
			}
			switch h.Warning = one.Log.Warning(context.Background()); {
			case h.Warning != "":
			case newest && r.store.Load().Warning() != "":
				h.Warning = r.store.Load().Warning()
			case s.files.published != nil && !publishes(s.files.published, one):
				h.Warning = "verifiers do not have the key of this log: publish a trusted root that has it " +
					"(mayfly trust export)"
			}
			return h
		}})
	}
	return out
}

// publishes reports whether a trusted root has the key of a shard.
func publishes(root *trust.Material, one tlog.OpenShard) bool {
	return slices.ContainsFunc(root.Rekor, func(l trust.Log) bool { return keyText(l.Key) == keyText(one.Log.Key()) })
}

// logCollectors are the metrics of the logs in this process.
func (n *Node) logCollectors(s *snapshot) (out []prometheus.Collector) {
	if s.embedded != nil || n.rekor != nil {
		out = append(out, n.logs)
	}
	if n.rekor == nil {
		return out
	}
	out = append(out, n.rekor.write.Collectors()...)
	for i, key := range n.rekor.keys {
		name := "rekor"
		if i > 0 {
			name += "-" + strconv.Itoa(i)
		}
		out = append(out, labelled(name, key.Metrics())...)
	}
	return out
}

// close closes the log and the keys. No request is running.
func (r *rekorLog) close() error {
	if r == nil {
		return nil
	}
	var err error
	if store := r.store.Load(); store != nil {
		// the caller's context has ended by now
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if e := store.Close(ctx); e != nil {
			err = fmt.Errorf("log of signatures: %w", e)
		}
	}
	return errors.Join(err, closeKeys(r.keys))
}
