package node

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/pop"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/admission"
	"github.com/mayfly-ca/mayfly/tlog"
)

// snapshot is the CA under one configuration. A reload builds the next snapshot, which shares the parts that the new
// configuration does not change.
type snapshot struct {
	config    *config.Config
	warnings  []config.Warning // that have been logged
	files     *loadedFiles
	issuers   *oidc.Verifier
	keys      *pop.Policy
	logs      *ctlog.Set      // nil with ct.none
	embedded  *embedded.Store // nil without ct.embedded
	authority *ca.Authority
	mldsa     *ca.Authority // of experimental.mldsa_chain, or nil
	journal   processJournal
	clock     *ca.Clock // of the process
	noLog     string    // the reason of ct.none

	// unpublished are shards of the embedded log that are not asked because verifiers do not have their keys, with the
	// cause.
	unpublished map[string]string
	// of what logs and authorities were made from
	logsKey, authorityKey, mldsaKey [32]byte
	stopLogs                        context.CancelFunc // ends what watches logs; nil: not started
}

// assemble builds the parts from the loaded files, innermost first. The trial inside [ca.New] proves that they can
// issue. Parts of old are taken over where nothing about them has changed; old stays as it is, and may be nil.
func (n *Node) assemble(ctx context.Context, cfg *config.Config, files *loadedFiles,
	old *snapshot,
) (_ *snapshot, err error) {
	s := &snapshot{config: cfg, files: files, journal: n.journal, clock: ca.NewClock(nil)}
	if old != nil {
		s.clock = old.clock
	}
	defer func() {
		if err != nil && old == nil {
			err = errors.Join(err, s.close())
		}
	}()
	if dir := cfg.StateDir; dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("state_dir: %w", err)
		}
	}
	if err := n.openUses(cfg); err != nil {
		return nil, err
	}
	if old == nil {
		s.issuers, err = newVerifier(cfg, n.log, n.admission)
	} else {
		s.issuers, err = old.issuers.With(cfg.Issuers)
	}
	if err != nil {
		return nil, cfg.Locate(err)
	}
	if err := s.openEmbedded(ctx, n, old); err != nil {
		return nil, err
	}
	if err := s.openLogs(n, old); err != nil {
		return nil, cfg.Locate(fault.Under(err, "ct"))
	}
	if err := s.openAuthority(n, old); err != nil {
		return nil, cfg.Locate(cfg.CA.Place(err))
	}
	if err := s.openMLDSA(n, old); err != nil {
		return nil, cfg.Locate(cfg.PlaceMLDSA(err))
	}
	s.keys, err = pop.New(pop.Config{Algorithms: cfg.ClientAlgorithms},
		pop.Options{Forbidden: append(files.ownKeys(s.embedded), n.rekor.publicKeys()...)})
	if err != nil {
		return nil, cfg.Locate(fault.Under(err, "client_algorithms"))
	}
	return s, nil
}

// newVerifier builds the token verifier. It sends no request.
func newVerifier(cfg *config.Config, log *slog.Logger, limits *admission.Controller) (*oidc.Verifier, error) {
	return oidc.New(cfg.Issuers, oidc.Options{
		Logger: log, StateDir: cfg.StateDir, UserAgent: version.UserAgent(),
		Pause: limits.AwaitProvider,
	})
}

// openEmbedded opens the log in this process, once: two stores cannot have one directory.
func (s *snapshot) openEmbedded(ctx context.Context, n *Node, old *snapshot) (err error) {
	if old != nil {
		s.embedded = old.embedded
		return nil
	}
	if s.config.CT.Embedded == nil {
		return nil
	}
	s.embedded, err = embedded.OpenStore(ctx, *s.config.CT.Embedded, tlog.Options{
		Logger: n.log, UserAgent: version.UserAgent(), Event: n.journal.note, Metrics: n.logs,
	})
	if err != nil {
		return fmt.Errorf("embedded log: %w", err)
	}
	s.embedded.SetRoots(s.files.roots())
	return nil
}

// embeddedOperator stands for the CA itself among the operators of its logs.
const embeddedOperator = "embedded"

// openLogs builds the set of remote and embedded logs under the policy.
func (s *snapshot) openLogs(n *Node, old *snapshot) (err error) {
	ct := s.config.CT
	if ct.None != nil {
		s.noLog = ct.None.Reason
		return nil
	}
	var shards []embedded.OpenShard
	keys := []any{ct.Policy, s.files.trustedRoot}
	if s.embedded != nil {
		shards = s.embedded.Open()
	}
	for _, one := range shards {
		keys = append(keys, one.Shard)
	}
	for _, root := range s.files.issuingRoots() {
		keys = append(keys, root.Raw)
	}
	for _, l := range s.files.logs {
		keys = append(keys, l.config, l.files)
	}
	if s.logsKey, err = digest(keys...); err != nil {
		return err
	}
	if old != nil && old.logs != nil && old.logsKey == s.logsKey {
		s.logs, s.stopLogs, s.unpublished = old.logs, old.stopLogs, old.unpublished
		return nil
	}
	members := append(s.files.members(), s.shardMembers(shards, n.log)...)
	o := ctlog.Options{
		Logs: members, Policy: ct.Policy, Granted: n.auditor.granted,
		Compute: n.admission.Compute, Logger: n.log,
	}
	if old != nil && old.logs != nil {
		o.Stopped, o.Previous = old.logs.Clock(), old.logs
	}
	s.logs, err = ctlog.New(o)
	return err
}

// shardMembers are the shards of the embedded log that may be asked.
func (s *snapshot) shardMembers(shards []embedded.OpenShard, log *slog.Logger) (members []ctlog.Log) {
	s.unpublished = map[string]string{}
	for _, one := range shards {
		w, err := s.files.publishedShard(one)
		if err != nil {
			s.unpublished[one.Label()] = err.Error() + "; publish a trusted root that has it (mayfly trust export)"
			log.Warn("a shard of the embedded log is not used", "log", one.Label(), "cause", s.unpublished[one.Label()])
			continue
		}
		description := one.Describe()
		description.Window = w
		description.Operator = embeddedOperator // two SCTs of two shards do not satisfy a policy of two operators
		members = append(members, ctlog.Log{Log: description, Submitter: one.Log, Health: one.Log.Health})
	}
	return members
}

func (s *snapshot) openAuthority(n *Node, old *snapshot) (err error) {
	m := s.files
	name, backend := s.config.CA.Selected()
	keys := []any{
		s.config.CA.Signing().Name, name, backend, s.config.CA.BackdateOrDefault(), s.config.CA.PrecertIssuer,
		s.logs != nil, s.logsKey, s.config.Experimental.MLDSACA,
	}
	for _, chain := range append([][]*x509.Certificate{m.chain}, m.trust...) {
		for _, c := range chain {
			keys = append(keys, c.Raw)
		}
		keys = append(keys, "|")
	}
	public, err := x509.MarshalPKIXPublicKey(m.key.Signer.Public())
	if err != nil {
		return err
	}
	if s.authorityKey, err = digest(append(keys, public)...); err != nil {
		return err
	}
	if old != nil && old.authorityKey == s.authorityKey {
		s.authority = old.authority
		err = closeKey(m, old)
		m.key = old.files.key
		return err
	}
	o := s.authorityOptions(n)
	o.Chain, o.Signer, o.Trust = m.chain, m.key.Signer, m.trust
	s.authority, err = ca.New(o)
	return err
}

// authorityOptions are the options of every authority, without chain and key.
func (s *snapshot) authorityOptions(n *Node) ca.Options {
	o := ca.Options{
		Clock: s.clock, MLDSA: s.config.Experimental.MLDSACA,
		Backdate: s.config.CA.BackdateOrDefault(), PrecertIssuer: s.config.CA.PrecertIssuer, Logger: n.log,
		Trial: n.journal.trial, Signatures: n.journal.signatures,
		Pause: n.admission.Pause,
	}
	if s.logs != nil { // Log stays nil with ct.none
		o.Log, o.Ready = s.logs, s.logs.Clock
	}
	return o
}

// digest is over the inputs of a part, to find out whether they have changed.
func digest(all ...any) ([32]byte, error) {
	data, err := json.Marshal(all)
	return sha256.Sum256(data), err
}

// start begins the background work, which ends with ctx, or when a later snapshot does not share it.
func (s *snapshot) start(ctx context.Context) {
	s.issuers.Start(ctx)
	if s.embedded != nil {
		s.embedded.SetRoots(s.files.roots())
	}
	if s.logs != nil && s.stopLogs == nil {
		own, cancel := context.WithCancel(ctx)
		s.stopLogs = cancel
		roots := s.files.issuingRoots()
		s.logs.Watch(own, roots[0], roots[1:]...)
	}
}

// retire ends the background work that next does not share. Requests that began under s continue.
func (s *snapshot) retire(next *snapshot) {
	if s.logs != nil && s.logs != next.logs && s.stopLogs != nil {
		s.stopLogs()
	}
	for _, pair := range [][2]*signer.Key{{s.files.key, next.files.key}, {s.files.mldsa, next.files.mldsa}} {
		if key := pair[0]; key != pair[1] {
			// the key is no longer in use, so an error has no consequence
			time.AfterFunc(retireKeyAfter, func() { _ = key.Close() })
		}
	}
}

// retireKeyAfter is longer than any request takes: one that began under a configuration signs with the key of that one.
const retireKeyAfter = time.Minute

// close waits for the background work and flushes the embedded log, so that every entry with an SCT is stored.
func (s *snapshot) close() error {
	if s.issuers != nil {
		s.issuers.Wait()
	}
	if s.logs != nil {
		s.logs.Wait()
	}
	err := s.files.close()
	if s.embedded == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // the caller's context has ended by now
	defer cancel()
	if e := s.embedded.Close(ctx); e != nil {
		err = errors.Join(err, fmt.Errorf("embedded log: %w", e))
	}
	return err
}

func (s *snapshot) core(n *Node) *server.Core {
	limits := s.config.Limits
	return &server.Core{
		Rates:       server.Rates{Source: limits.Source, Issuer: limits.Issuer, Identity: limits.Identity},
		Uses:        n.useCounter(),
		SharedRates: n.rateCounter(),
		Issuers:     s.issuers, Keys: s.keys, Authority: s.authority, MLDSA: s.mldsa, Generation: n.generation,
		Digest:   s.config.Digest,
		NoLegacy: s.config.API.V1 != nil && !*s.config.API.V1, Journal: s.journal.journal,
		IdempotentRetry: s.config.API.IdempotentRetry,
	}
}

func (s *snapshot) collectors() []prometheus.Collector {
	all := append(s.issuers.Collectors(), s.authority.Collectors()...)
	all = append(append(all, s.mldsaCollectors()...), s.noneGauge())
	if s.files.key != nil {
		all = append(all, s.files.key.Collectors...)
	}
	if s.logs != nil {
		all = append(all, s.logs.Collectors()...)
	}
	return all
}

// ownKeys are the keys that no certificate may be issued for.
func (f *loadedFiles) ownKeys(e *embedded.Store) []crypto.PublicKey {
	var keys []crypto.PublicKey
	for _, chain := range slices.Concat([][]*x509.Certificate{f.chain}, f.trust, f.retired(), f.stamps) {
		for _, c := range chain {
			keys = append(keys, c.PublicKey)
		}
	}
	for _, l := range f.logs {
		keys = append(keys, l.remote.Key)
	}
	if e != nil {
		keys = append(keys, e.Keys()...)
	}
	return keys
}
