package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/rotation"
	"github.com/mayfly-ca/mayfly/tlog"
	"github.com/mayfly-ca/mayfly/trust"
)

// loadedFiles has the content of the files that a configuration names: keys and certificates.
type loadedFiles struct {
	chain []*x509.Certificate // the active one: issuing certificate first, root last
	key   *signer.Key         // nil: only what is public was loaded
	// rotation is the state of the chains; nil: there is one chain, without a state file.
	rotation *rotation.State
	// mldsa is the key of experimental.mldsa_chain, with its chain; nil: there is none.
	mldsa  *signer.Key
	listed [][]*x509.Certificate // of ca.trust
	trust  [][]*x509.Certificate // of the trust bundle after the active chain: listed, of the state, of mldsa
	logs   []remoteLog
	// stamps are the chains of the timestamp authority and of the former ones; nil: there is none.
	stamps [][]*x509.Certificate
	// former is the root of the chain that was replaced by the active one in this process, or nil. The embedded log
	// still accepts it for requests under way; the trust bundle does not have it.
	former *x509.Certificate
	// published is ct.policy.trusted_root, nil if none is configured; trustedRoot is its SHA-256.
	published   *trust.Material
	trustedRoot [32]byte
	// Warnings are about what the files hold: it works, and the operator should know.
	warnings []config.Warning
}

type remoteLog struct {
	config remote.Config
	remote *remote.Log
	files  [4][]byte // key, CA, client certificate and its key as they were read
	// published is when the published trusted root believes the log, if one is configured.
	published *loglist.Window
}

// load opens the CA's key and reads the files. log is for what happens to the key later, and optional. Its errors say
// where in the configuration the setting stands.
func load(ctx context.Context, log *slog.Logger, cfg *config.Config) (*loadedFiles, error) {
	state, err := followState(cfg)
	if err != nil {
		return nil, cfg.Locate(err)
	}
	_, backend := cfg.CA.Selected()
	var warnings []config.Warning
	key, err := signer.Open(ctx, backend, signer.Options{Log: log, Warn: func(s *fault.Setting) {
		located := fault.Under(s, cfg.CA.At()...).(*fault.Setting) //nolint:errorlint // Under returns a Setting for a Setting
		warnings = append(warnings, cfg.Warn(located))
	}})
	if err != nil {
		return nil, cfg.Locate(fault.Under(err, cfg.CA.At()...))
	}
	if err := cfg.Locate(sameAsState(cfg, state, key.Chain)); err != nil {
		return nil, errors.Join(err, key.Close())
	}
	advice, err := adviseOnChain(cfg, key.Chain)
	if err != nil {
		return nil, errors.Join(err, key.Close())
	}
	second, more, err := openMLDSA(ctx, log, cfg, key.Chain)
	if err != nil {
		return nil, errors.Join(err, key.Close())
	}
	m, err := loadAround(cfg, openKeys{key, second}, state)
	if err != nil {
		return nil, errors.Join(err, key.Close(), second.Close())
	}
	warnings = append(append(warnings, advice...), more...)
	m.warnings = warnings
	return m, nil
}

// adviseOnChain warns about weaknesses of a chain in a file, and refuses those that a CA in production must not have.
func adviseOnChain(cfg *config.Config, chain []*x509.Certificate) (warnings []config.Warning, err error) {
	_, backend := cfg.CA.Selected()
	if backend.Temporary() {
		return nil, nil
	}
	var errs []error
	for _, a := range ca.Advise(chain) {
		s := fault.BadSetting(a.Problem, a.Fix, cfg.CA.At("chain")...).In(backend.ChainFile())
		if a.Serious && cfg.Production {
			s.Problem += "; this is refused with production: true"
			errs = append(errs, s)
			continue
		}
		warnings = append(warnings, cfg.Warn(s))
	}
	return warnings, cfg.Locate(errors.Join(errs...))
}

// close closes the keys.
func (f *loadedFiles) close() error { return errors.Join(f.key.Close(), f.mldsa.Close()) }

// loadPublic reads what is public: the chains and the keys of the logs. It needs no private key and no password, and is
// enough to write trust material.
func loadPublic(cfg *config.Config) (*loadedFiles, error) {
	public := *cfg
	state, err := followState(&public)
	var chain []*x509.Certificate
	if stopped := (*stoppedError)(nil); errors.As(err, &stopped) {
		state, err = &stopped.state, nil // verifiers must hear of it
	} else if err == nil {
		chain, err = PublicChain(&public)
	}
	if err != nil {
		return nil, cfg.Locate(err)
	}
	public.CT.Logs = slices.Clone(cfg.CT.Logs)
	for i := range public.CT.Logs {
		public.CT.Logs[i].ClientCertificate, public.CT.Logs[i].CACert = nil, "" // no request is made to a log
	}
	var second *signer.Key
	if t := cfg.Experimental.MLDSAChain; t != nil {
		second = &signer.Key{}
		if second.Chain, err = signer.ReadChain(t.ChainFile()); err != nil {
			return nil, cfg.Locate(fault.Under(err, cfg.MLDSAAt("chain")...))
		}
	}
	return loadAround(&public, openKeys{&signer.Key{Chain: chain}, second}, state)
}

// PublicChain reads the issuing chain, whichever backend has the key: the active one where there are several. It needs
// no secret. It errs with a setting.
func PublicChain(cfg *config.Config) ([]*x509.Certificate, error) {
	own := *cfg // what signs is chosen in it
	cfg = &own
	state, err := followState(cfg)
	if err != nil {
		return nil, err
	}
	_, backend := cfg.CA.Selected()
	if backend.Temporary() {
		return nil,
			fault.BadSetting("chain and key exist only while the CA runs, and no file has the issuing certificate",
				"use a persistent key, such as ca.file", cfg.CA.At()...)
	}
	chain, err := signer.ReadChain(backend.ChainFile())
	if err != nil {
		return nil, fault.Under(err, cfg.CA.At("chain")...)
	}
	return chain, sameAsState(cfg, state, chain)
}

// TrustMaterial returns the trust material of the CA of a configuration. url is the URL of the CA for clients. It needs
// no private key and no password.
func TrustMaterial(cfg *config.Config, url string) (trust.Material, error) {
	f, err := loadPublic(cfg)
	if err != nil {
		return trust.Material{}, err
	}
	m, err := f.trustMaterial(cfg, url)
	return m, cfg.Locate(err)
}

// openKeys are the keys that sign: that of ca, and that of experimental.mldsa_chain, or nil.
type openKeys struct{ ca, mldsa *signer.Key }

// loadAround reads everything but the keys and their chains. state is nil where there is no state file.
func loadAround(cfg *config.Config, keys openKeys, state *rotation.State) (*loadedFiles, error) {
	m := &loadedFiles{chain: keys.ca.Chain, key: keys.ca, mldsa: keys.mldsa, rotation: state}
	var errs []error
	for i, name := range cfg.CA.Trust {
		chain, err := signer.ReadChain(name)
		if err != nil {
			errs = append(errs, fault.Under(err, "ca", "trust", strconv.Itoa(i)))
		}
		m.listed = append(m.listed, chain)
	}
	m.trust = append(slices.Clone(m.listed), others(state)...)
	if keys.mldsa != nil {
		m.trust = append(m.trust, keys.mldsa.Chain)
	}
	var err error
	if m.stamps, err = readStampChains(cfg); err != nil {
		errs = append(errs, err)
	}
	for i, l := range cfg.CT.Logs {
		r, err := openLog(l, cfg.CT.Policy)
		if err != nil {
			errs = append(errs, fault.Under(err, "ct", "logs", strconv.Itoa(i)))
		}
		m.logs = append(m.logs, r)
	}
	if len(errs) > 0 {
		return nil, cfg.Locate(errors.Join(errs...))
	}
	return m, nil
}

// openLog opens a remote log. Its errors are settings of l.
func openLog(l remote.Config, policy ctlog.PolicyConfig) (remoteLog, error) {
	r := remoteLog{config: l}
	names := map[string]string{"public_key": l.PublicKey, "ca_cert": l.CACert} // by the path of the setting
	if pair := l.ClientCertificate; pair != nil {
		names["client_certificate.certificate"], names["client_certificate.key"] = pair.Certificate, pair.Key
	}
	var errs []error
	for i, key := range []string{"public_key", "ca_cert", "client_certificate.certificate", "client_certificate.key"} {
		if names[key] == "" {
			continue
		}
		var err error
		if r.files[i], err = input.Read(nil, names[key]); err != nil {
			errs = append(errs, fault.BadFile(names[key], err, strings.Split(key, ".")...))
		}
	}
	if len(errs) > 0 {
		return remoteLog{}, errors.Join(errs...)
	}
	var err error
	r.remote, err = remote.Open(l, remote.Options{
		PublicKeyPEM: r.files[0], CACertPEM: r.files[1], ClientCertificatePEM: r.files[2], ClientKeyPEM: r.files[3],
		Timeout: policy.AttemptOrDefault(), UserAgent: version.UserAgent(),
	})
	return r, err
}

// roots are the roots that the embedded log accepts: those of the active chain and of the trusted ones.
func (f *loadedFiles) roots() []*x509.Certificate {
	roots := []*x509.Certificate{f.chain[len(f.chain)-1]}
	for _, chain := range f.trust {
		roots = append(roots, chain[len(chain)-1])
	}
	if f.former != nil && !slices.ContainsFunc(roots, f.former.Equal) {
		roots = append(roots, f.former)
	}
	return roots
}

// issuingRoots are the roots of the chains that certificates may be issued under, the active one first. Those that have
// expired are only for verifiers.
func (f *loadedFiles) issuingRoots() []*x509.Certificate {
	roots := []*x509.Certificate{f.chain[len(f.chain)-1]}
	for _, chain := range f.trust {
		root := chain[len(chain)-1]
		if time.Now().Before(chain[0].NotAfter) && !slices.ContainsFunc(roots, root.Equal) {
			roots = append(roots, root)
		}
	}
	return roots
}

// trustMaterial is the trust material of a CA: every chain and every log that a verifier may need.
func (f *loadedFiles) trustMaterial(cfg *config.Config, url string) (trust.Material, error) {
	out, err := f.certificateMaterial(cfg, url)
	if err != nil || cfg.Rekor == nil {
		return out, err
	}
	shards, err := exportRekor(cfg.RekorLog(), url, firstTrusted(out.Authorities))
	out.Rekor = append(out.Rekor, shards...)
	return out, fault.Under(err, "rekor")
}

// certificateMaterial is the part of the trust material by which certificates are verified.
func (f *loadedFiles) certificateMaterial(cfg *config.Config, url string) (trust.Material, error) {
	var out trust.Material
	out.Authorities = f.authorities(url)
	first := firstTrusted(out.Authorities)
	for _, l := range f.logs {
		published := l.remote.Log
		if published.NotBefore.IsZero() {
			published.NotBefore = first
		}
		out.Logs = append(out.Logs, trust.Log{Log: published})
	}
	if e := cfg.CT.Embedded; e != nil {
		shards, err := exportShards(e.Log(), url+"/ct", first)
		if err != nil {
			return out, fault.Under(err, "ct", "embedded")
		}
		out.Logs = append(out.Logs, shards...)
	}
	out.Timestamps = f.stampAuthorities(url)
	logs, stamps, err := elsewhere(cfg, first)
	out.Rekor, out.Timestamps = append(out.Rekor, logs...), append(out.Timestamps, stamps...)
	return out, err
}

// loadAndTest loads what the configuration names and proves that it can issue, without a log and without a socket:
// everything that can stop a start before the first socket opens. It changes nothing on disk. Its errors say where in
// the configuration the setting stands.
func loadAndTest(ctx context.Context, log *slog.Logger, cfg *config.Config) (_ *loadedFiles, err error) {
	m, err := load(ctx, log, cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	// This trial is not journalled: a check opens no journal, and may run while a CA writes it. The trial signs a
	// precertificate for a reserved name and discards it. A starting server makes a trial of its own later, and
	// journals it.
	_, err = ca.New(ca.Options{
		Chain: m.chain, Signer: m.key.Signer, Trust: m.trust,
		Backdate: cfg.CA.BackdateOrDefault(), PrecertIssuer: cfg.CA.PrecertIssuer, MLDSA: cfg.Experimental.MLDSACA,
	})
	errs := []error{
		cfg.CA.Place(err), m.tryMLDSA(cfg), m.tryTSA(ctx, cfg), tryIssuers(cfg), cfg.Places(), inspectAudit(cfg),
		fault.Under(cfg.Tracing.Inspect(), "tracing"), m.tryElsewhere(cfg),
	}
	if cfg.CT.Embedded != nil {
		errs = append(errs, fault.Under(tlog.Inspect(cfg.CT.Embedded.Log()), "ct", "embedded"))
	}
	if cfg.Rekor != nil {
		errs = append(errs, inspectRekor(ctx, log, cfg))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, cfg.Locate(err)
	}
	if err := m.narrowToPublished(cfg); err != nil {
		return nil, err
	}
	if err := cfg.Locate(fault.Under(m.tryPolicy(cfg), "ct")); err != nil {
		return nil, err
	}
	ending, err := m.timely(cfg, time.Now())
	m.warnings = append(m.warnings, ending...)
	return m, cfg.Locate(err)
}

// tryIssuers builds the token verifier, which reads the keys and certificates that the issuer file names. It sends no
// request.
func tryIssuers(cfg *config.Config) error {
	v, err := newVerifier(cfg, nil, nil)
	if err == nil {
		v.Wait()
	}
	return err
}

// tryPolicy builds the set of the remote logs. Package config has compared the policy with all logs.
func (f *loadedFiles) tryPolicy(cfg *config.Config) error {
	members := f.members()
	if len(members) == 0 {
		return nil
	}
	policy := cfg.CT.Policy
	if cfg.CT.Embedded != nil { // the one in this process is not open yet
		policy = ctlog.PolicyConfig{}
		for i := range members {
			members[i].Detached = false
		}
		if err := f.noTwin(*cfg.CT.Embedded); err != nil {
			return err
		}
	}
	_, err := ctlog.New(ctlog.Options{Logs: members, Policy: policy})
	return err
}

// noTwin refuses a remote log with the key of a shard of the embedded log: the two are the same log.
func (f *loadedFiles) noTwin(c embedded.Config) error {
	shards, err := exportShards(c.Log(), "", time.Time{})
	if err != nil {
		return nil //nolint:nilerr // there is no key before the first start
	}
	for i, l := range f.logs {
		for _, s := range shards {
			if keyText(l.remote.Key) == keyText(s.Key) {
				return fault.BadSetting(fmt.Sprintf("log %q has the key of the embedded log %s", l.config.Name,
					s.Origin), "remove one of them",
					"logs", strconv.Itoa(i), "public_key").In(l.config.PublicKey)
			}
		}
	}
	return nil
}

// members are the remote logs.
func (f *loadedFiles) members() []ctlog.Log {
	members := make([]ctlog.Log, 0, len(f.logs)+1)
	for _, l := range f.logs {
		description := l.remote.Log
		description.Window = l.window()
		members = append(members, ctlog.Log{
			Log: description, Submitter: l.remote, Rate: l.config.Rate, Detached: !l.config.Embeds(),
		})
	}
	return members
}
