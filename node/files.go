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
	"github.com/mayfly-ca/mayfly/trust"
)

// loadedFiles has the keys and certificates from the files that a configuration names.
type loadedFiles struct {
	chain []*x509.Certificate // issuing certificate first, root last
	key   *signer.Key         // nil: only public files were loaded
	trust [][]*x509.Certificate
	logs  []remoteLog
	// former is the root of the chain that was in force before the last change of the chain in this process, or nil.
	// The embedded log still accepts this root for requests that began before the change; the trust bundle does not
	// have it.
	former *x509.Certificate
	// published is the content of ct.policy.trusted_root, nil if none is configured; trustedRoot is the SHA-256 of that
	// file.
	published   *trust.Material
	trustedRoot [32]byte
	// warnings are about the content of the files that is allowed but that the operator should know about.
	warnings []config.Warning
}

type remoteLog struct {
	config remote.Config
	remote *remote.Log
	files  [4][]byte // content of the key, CA, client certificate and client key files
	// published is the validity of the log in ct.policy.trusted_root; nil if no trusted root is configured.
	published *loglist.Window
}

// load opens the CA's key and reads the files. Its errors have the position of the setting in the configuration.
func load(ctx context.Context, cfg *config.Config) (*loadedFiles, error) {
	name, backend := cfg.CA.Selected()
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
	advice, err := checkChain(cfg, key.Chain)
	if err != nil {
		return nil, errors.Join(err, key.Close())
	}
	m, err := loadTrustAndLogs(cfg, key)
	if err != nil {
		return nil, errors.Join(err, key.Close())
	}
	warnings = append(warnings, advice...)
	m.warnings = warnings
	return m, nil
}

// checkChain returns warnings about a chain that comes from a file, and errors for what production: true forbids.
func checkChain(cfg *config.Config, chain []*x509.Certificate) (warnings []config.Warning, err error) {
	name, backend := cfg.CA.Selected()
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

// loadPublic reads the public files only: the chains and the keys of the logs. They are sufficient to write trust
// material.
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
		public.CT.Logs[i].ClientCertificate, public.CT.Logs[i].CACert = nil, "" // no request is sent to a log
	}
	return loadTrustAndLogs(&public, &signer.Key{Chain: chain})
}

// PublicChain reads the issuing chain of any key backend. It needs no secret. Its errors are [fault.Setting] values.
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
			fault.BadSetting("chain and key exist only while the CA runs, so no file has the issuing certificate",
				"use a persistent key, such as ca.file", "ca", name)
	}
	chain, err := signer.ReadChain(backend.ChainFile())
	if err != nil {
		return nil, fault.Under(err, cfg.CA.At("chain")...)
	}
	return chain, sameAsState(cfg, state, chain)
}

// TrustMaterial returns the chains and logs of a configuration for verifiers and signers. url is the URL of the CA for
// clients. No private key and no password is needed.
func TrustMaterial(cfg *config.Config, url string) (trust.Material, error) {
	f, err := loadPublic(cfg)
	if err != nil {
		return trust.Material{}, err
	}
	m, err := f.trustMaterial(cfg, url)
	return m, cfg.Locate(err)
}

// loadTrustAndLogs reads the files of ca.trust and ct.logs. The chain and the key are those of the argument.
func loadTrustAndLogs(cfg *config.Config, key *signer.Key) (*loadedFiles, error) {
	m := &loadedFiles{chain: key.Chain, key: key}
	var errs []error
	for i, name := range cfg.CA.Trust {
		chain, err := signer.ReadChain(name)
		if err != nil {
			errs = append(errs, fault.Under(err, "ca", "trust", strconv.Itoa(i)))
		}
		m.listed = append(m.listed, chain)
	}
	m.trust = append(slices.Clone(m.listed), others(state)...)
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

// openLog opens a remote log. Its errors are [fault.Setting] values whose paths are relative to l.
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

// roots returns the roots that the embedded log accepts: those of the active chain, of ca.trust, and the former one.
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

// issuingRoots returns the roots of the chains whose issuing certificates have not expired, the active one first.
// Expired chains in ca.trust are for verifiers only.
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

// trustMaterial returns the trust material of a CA: every chain and every log that a verifier may need.
func (f *loadedFiles) trustMaterial(cfg *config.Config, url string) (trust.Material, error) {
	var out trust.Material
	out.Authorities = f.authorities(url)
	first := out.Authorities[0].From
	for _, l := range f.logs {
		published := l.remote.Log
		if published.NotBefore.IsZero() {
			published.NotBefore = first
		}
		out.Logs = append(out.Logs, trust.Log{Log: published})
	}
	if e := cfg.CT.Embedded; e != nil {
		shards, err := exportShards(*e, url+"/ct", first)
		if err != nil {
			return out, fault.Under(err, "ct", "embedded")
		}
		out.Logs = append(out.Logs, shards...)
	}
	return out, nil
}

// loadAndTest loads the files that the configuration names and issues a test certificate, without a log and without a
// socket. It finds every error that can stop a start before the first socket opens. It changes nothing on disk. Its
// errors have the position of the setting in the configuration.
func loadAndTest(ctx context.Context, cfg *config.Config) (_ *loadedFiles, err error) {
	m, err := load(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.key.Close())
		}
	}()
	// This trial has no journal record, because "config check" may run while a CA writes the journal. The trial signs a
	// precertificate for a reserved name and discards it. A starting CA makes another trial later, with a journal
	// record.
	_, err = ca.New(ca.Options{
		Chain: m.chain, Signer: m.key.Signer, Trust: m.trust,
		Backdate: cfg.CA.BackdateOrDefault(),
	})
	errs := []error{cfg.CA.Place(err), tryIssuers(cfg), cfg.Places(), inspectAudit(cfg)}
	if cfg.CT.Embedded != nil {
		errs = append(errs, fault.Under(embedded.Inspect(*cfg.CT.Embedded), "ct", "embedded"))
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
	ending, err := m.checkValidity(cfg, time.Now())
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

// tryPolicy builds the set of the remote logs. Package config has already checked the policy against all logs,
// including the embedded one.
func (f *loadedFiles) tryPolicy(cfg *config.Config) error {
	logs := f.ctLogs()
	if len(logs) == 0 {
		return nil
	}
	policy := cfg.CT.Policy
	if cfg.CT.Embedded != nil { // the embedded log is not open yet
		policy = ctlog.PolicyConfig{}
		for i := range logs {
			logs[i].Detached = false
		}
		if err := f.refuseEmbeddedKey(*cfg.CT.Embedded); err != nil {
			return err
		}
	}
	_, err := ctlog.New(ctlog.Options{Logs: logs, Policy: policy})
	return err
}

// refuseEmbeddedKey refuses a remote log that has the key of a shard of the embedded log: the two are the same log.
func (f *loadedFiles) refuseEmbeddedKey(c embedded.Config) error {
	shards, err := exportShards(c, "", time.Time{})
	if err != nil {
		return nil //nolint:nilerr // the key does not exist before the first start
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

// ctLogs returns the remote logs as package ctlog describes them.
func (f *loadedFiles) ctLogs() []ctlog.Log {
	logs := make([]ctlog.Log, 0, len(f.logs)+1)
	for _, l := range f.logs {
		description := l.remote.Log
		description.Window = l.window()
		logs = append(logs, ctlog.Log{
			Log: description, Submitter: l.remote, Rate: l.config.Rate, Detached: !l.config.Embeds(),
		})
	}
	return logs
}
