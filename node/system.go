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
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/pop"
	"github.com/mayfly-ca/mayfly/server"
)

// system is the CA at work under one configuration. A reload makes another one, which takes over the parts that the new
// configuration leaves as they are.
type system struct {
	config    *config.Config
	warnings  []config.Warning // that have been logged
	material  *Material
	issuers   *oidc.Verifier
	keys      *pop.Policy
	logs      *ctlog.Set      // nil with ct.none
	embedded  *embedded.Store // nil without ct.embedded
	authority *ca.Authority
	ledger    ledger
	clock     *ca.Clock // of the process
	noLog     string    // the reason of ct.none

	// unpublished are shards of the embedded log that are not asked because verifiers do not have their keys, with the cause.
	unpublished           map[string]string
	logsKey, authorityKey [32]byte           // of what logs and authority were made from
	stopLogs              context.CancelFunc // ends what watches logs; nil: not started
}

// assemble builds the parts from the loaded material, innermost first. The trial inside [ca.New] proves that they can issue.
// Parts of old are taken over where nothing about them has changed; old stays as it is, and may be nil.
func assemble(ctx context.Context, in Instance, m *Material, old *system) (_ *system, err error) {
	s := &system{config: in.Config, material: m, ledger: in.ledger, clock: ca.NewClock(nil)}
	if old != nil {
		s.clock = old.clock
	}
	defer func() {
		if err != nil && old == nil {
			err = errors.Join(err, s.close())
		}
	}()
	if dir := in.Config.StateDir; dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("state_dir: %w", err)
		}
	}
	if old == nil {
		s.issuers, err = NewVerifier(in.Config, in)
	} else {
		s.issuers, err = old.issuers.With(in.Config.Issuers)
	}
	if err != nil {
		return nil, in.Config.Locate(err)
	}
	if err := s.openEmbedded(ctx, in, old); err != nil {
		return nil, err
	}
	if err := s.openLogs(in, old); err != nil {
		return nil, in.Config.Locate(fault.Under(err, "ct"))
	}
	if err := s.openAuthority(in, old); err != nil {
		return nil, in.Config.Locate(in.Config.CA.Place(err))
	}
	s.keys, err = pop.New(pop.Config{Algorithms: in.Config.ClientAlgorithms}, pop.Options{Forbidden: m.ownKeys(s.embedded)})
	if err != nil {
		return nil, in.Config.Locate(fault.Under(err, "client_algorithms"))
	}
	return s, nil
}

// NewVerifier builds what identifies callers. It asks nobody.
func NewVerifier(cfg *config.Config, in Instance) (*oidc.Verifier, error) {
	return oidc.New(cfg.Issuers, oidc.Options{
		Logger: in.Log, StateDir: cfg.StateDir, UserAgent: version.UserAgent(),
		Pause: in.admission.AwaitProvider,
	})
}

// openEmbedded opens the log in this process. It lives as long as the process: two cannot have its directory.
func (s *system) openEmbedded(ctx context.Context, in Instance, old *system) (err error) {
	if old != nil {
		s.embedded = old.embedded
		return nil
	}
	if in.Config.CT.Embedded == nil {
		return nil
	}
	s.embedded, err = embedded.OpenStore(ctx, *in.Config.CT.Embedded, embedded.Options{
		Roots: s.material.roots(), Logger: in.Log, UserAgent: version.UserAgent(), Event: in.ledger.note,
	})
	if err != nil {
		return fmt.Errorf("embedded log: %w", err)
	}
	return nil
}

// embeddedOperator stands for the CA itself among the operators of its logs.
const embeddedOperator = "embedded"

// openLogs gathers remote and embedded logs under the one policy.
func (s *system) openLogs(in Instance, old *system) (err error) {
	ct := in.Config.CT
	if ct.None != nil {
		s.noLog = ct.None.Reason
		return nil
	}
	var shards []embedded.OpenShard
	keys := []any{ct.Policy, s.material.trustedRoot}
	if s.embedded != nil {
		shards = s.embedded.Open()
	}
	for _, one := range shards {
		keys = append(keys, one.Shard)
	}
	for _, root := range s.material.issuingRoots() {
		keys = append(keys, root.Raw)
	}
	for _, l := range s.material.logs {
		keys = append(keys, l.config, l.files)
	}
	if s.logsKey, err = digest(keys...); err != nil {
		return err
	}
	if old != nil && old.logs != nil && old.logsKey == s.logsKey {
		s.logs, s.stopLogs, s.unpublished = old.logs, old.stopLogs, old.unpublished
		return nil
	}
	members := append(s.material.members(), s.shardMembers(shards, in.Log)...)
	o := ctlog.Options{
		Logs: members, Policy: ct.Policy, Granted: in.auditing.granted,
		Compute: in.admission.Compute, Logger: in.Log,
	}
	if old != nil && old.logs != nil {
		o.Stopped, o.Previous = old.logs.Clock(), old.logs
	}
	s.logs, err = ctlog.New(o)
	return err
}

// shardMembers are the shards of the embedded log that may be asked.
func (s *system) shardMembers(shards []embedded.OpenShard, log *slog.Logger) (members []ctlog.Log) {
	s.unpublished = map[string]string{}
	for _, one := range shards {
		w, err := s.material.publishedShard(one)
		if err != nil {
			s.unpublished[one.Label()] = err.Error() + "; publish a trusted root that has it (mayfly trust export)"
			log.Warn("a shard of the embedded log is not asked", "log", one.Label(), "cause", s.unpublished[one.Label()])
			continue
		}
		description := one.Describe()
		description.Window = w
		description.Operator = embeddedOperator // two SCTs of two shards do not satisfy a policy of two operators
		members = append(members, ctlog.Log{Log: description, Submitter: one.Log, Health: one.Log.Health})
	}
	return members
}

func (s *system) openAuthority(in Instance, old *system) (err error) {
	m := s.material
	name, backend := in.Config.CA.Selected()
	keys := []any{name, backend, in.Config.CA.BackdateOrDefault(), s.logs != nil, s.logsKey}
	for _, chain := range append([][]*x509.Certificate{m.Chain}, m.trust...) {
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
		m.key = old.material.key
		return err
	}
	var log ca.Log // stays nil with ct.none
	var ready func() error
	if s.logs != nil {
		log, ready = s.logs, s.logs.Clock
	}
	s.authority, err = ca.New(ca.Options{
		Chain: m.Chain, Signer: m.key.Signer, Log: log, Ready: ready, Clock: s.clock, Trust: m.trust, Backdate: in.Config.CA.BackdateOrDefault(), Logger: in.Log,
		Trial: in.ledger.trial, Signatures: in.ledger.signatures,
		Pause: in.admission.Pause,
	})
	return err
}

// digest tells whether what a part is made from has changed.
func digest(all ...any) ([32]byte, error) {
	data, err := json.Marshal(all)
	return sha256.Sum256(data), err
}

// start begins the background work, which ends with ctx, or when a later system has no use for it.
func (s *system) start(ctx context.Context) {
	s.issuers.Start(ctx)
	if s.embedded != nil {
		s.embedded.SetRoots(s.material.roots())
	}
	if s.logs != nil && s.stopLogs == nil {
		own, cancel := context.WithCancel(ctx)
		s.stopLogs = cancel
		roots := s.material.issuingRoots()
		s.logs.Watch(own, roots[0], roots[1:]...)
	}
}

// retire ends the background work that next does not go on with. Requests that have begun under s are not disturbed.
func (s *system) retire(next *system) {
	if s.logs != nil && s.logs != next.logs && s.stopLogs != nil {
		s.stopLogs()
	}
	if key := s.material.key; key != next.material.key {
		time.AfterFunc(retireKeyAfter, func() { _ = key.Close() }) // the key is replaced: there is nobody to tell
	}
}

// retireKeyAfter is longer than any request takes: one that began under a configuration signs with the key of that one.
const retireKeyAfter = time.Minute

// close waits for the background work and flushes the embedded log. Nothing that was promised is lost.
func (s *system) close() error {
	if s.issuers != nil {
		s.issuers.Wait()
	}
	if s.logs != nil {
		s.logs.Wait()
	}
	err := s.material.key.Close()
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

func (s *system) core(generation uint64) *server.Core {
	return &server.Core{
		Issuers: s.issuers, Keys: s.keys, Authority: s.authority, Generation: generation, Digest: s.config.Digest,
		NoLegacy: s.config.API.V1 != nil && !*s.config.API.V1, Journal: s.ledger.journal,
	}
}

func (s *system) collectors() []prometheus.Collector {
	all := append(s.issuers.Collectors(), s.authority.Collectors()...)
	all = append(all, s.noneGauge())
	if s.logs != nil {
		all = append(all, s.logs.Collectors()...)
	}
	if s.embedded != nil {
		all = append(all, s.embedded.Collectors()...)
	}
	return all
}

// ownKeys are the keys that no certificate may be issued for.
func (m *Material) ownKeys(e *embedded.Store) []crypto.PublicKey {
	var keys []crypto.PublicKey
	for _, chain := range append([][]*x509.Certificate{m.Chain}, m.trust...) {
		for _, c := range chain {
			keys = append(keys, c.PublicKey)
		}
	}
	for _, l := range m.logs {
		keys = append(keys, l.remote.Key)
	}
	if e != nil {
		keys = append(keys, e.Keys()...)
	}
	return keys
}
