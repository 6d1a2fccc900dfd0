package main

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/trust"
)

// material is what the files that a configuration names hold: keys and certificates.
type material struct {
	chain  []*x509.Certificate // issuing certificate first, root last
	signer crypto.Signer
	trust  [][]*x509.Certificate
	logs   []remoteLog
	// former is the root that this process issued under before the active chain, or nil. The embedded log still accepts
	// it, for requests that were on their way; verifiers are not given it.
	former *x509.Certificate
	// published is ct.policy.trusted_root, nil if none is configured; trustedRoot is its SHA-256.
	published   *trust.Material
	trustedRoot [32]byte
	// warnings are about what the files hold: it works, and the operator should know.
	warnings []config.Warning
}

type remoteLog struct {
	config   ctlog.LogConfig
	remote   *ctlog.Remote
	from, to time.Time
	files    [4][]byte // key, CA, client certificate and its key as they were read
	// published is when the published trusted root believes the log, if one is configured.
	published *window
}

// load reads the files. It opens no socket. Its errors say where in the configuration the setting stands that names the file.
func load(cfg *config.Config) (*material, error) {
	var chain []*x509.Certificate
	var signer crypto.Signer
	var warnings []config.Warning
	var err error
	if cfg.CA.Ephemeral != nil {
		chain, signer, err = ca.NewEphemeral(time.Now(), rand.Reader)
	} else {
		chain, signer, err = loadFileCA(cfg.CA.File, func(problem, fix string) {
			warnings = append(warnings, cfg.Warn(fault.BadSetting(problem, fix, "ca", "file",
				"key").In(cfg.CA.File.Key)))
		})
	}
	if err != nil {
		return nil, cfg.Locate(fault.Under(err, "ca", "file"))
	}
	if cfg.CA.File != nil {
		var errs []error
		for _, a := range ca.Advise(chain) {
			s := fault.BadSetting(a.Problem, a.Fix, "ca", "file", "chain").In(cfg.CA.File.Chain)
			if a.Serious && cfg.Production {
				s.Problem += "; this is refused with production: true"
				errs = append(errs, s)
				continue
			}
			warnings = append(warnings, cfg.Warn(s))
		}
		if len(errs) > 0 {
			return nil, cfg.Locate(errors.Join(errs...))
		}
	}
	m, err := loadAround(cfg, chain, signer)
	if err != nil {
		return nil, err
	}
	m.warnings = warnings
	return m, nil
}

// loadPublic reads what is public: the chains and the keys of the logs. It needs no private key and no password, and is
// enough to write trust material.
func loadPublic(cfg *config.Config) (*material, error) {
	chain, err := loadChain(cfg.CA.File.Chain)
	if err != nil {
		return nil, cfg.Locate(fault.Under(err, "ca", "file", "chain"))
	}
	public := *cfg
	public.CT.Logs = slices.Clone(cfg.CT.Logs)
	for i := range public.CT.Logs {
		public.CT.Logs[i].ClientCertificate, public.CT.Logs[i].CACert = nil, "" // nothing is asked of a log
	}
	return loadAround(&public, chain, nil)
}

// loadAround reads everything but the chain and the key.
func loadAround(cfg *config.Config, chain []*x509.Certificate, signer crypto.Signer) (*material, error) {
	m := &material{chain: chain, signer: signer}
	var errs []error
	for i, name := range cfg.CA.Trust {
		chain, err := loadChain(name)
		if err != nil {
			errs = append(errs, fault.Under(err, "ca", "trust", strconv.Itoa(i)))
		}
		m.trust = append(m.trust, chain)
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

// loadFileCA errs with settings of c. It calls warn with what is unwise about the key.
func loadFileCA(c *ca.FileConfig, warn func(problem, fix string)) ([]*x509.Certificate, crypto.Signer, error) {
	chain, err := loadChain(c.Chain)
	if err = fault.Under(err, "chain"); err != nil {
		return nil, nil, err
	}
	key, err := readInput(nil, c.Key)
	if err != nil {
		return nil, nil, fault.BadFile(c.Key, err, "key")
	}
	password, err := c.Password.Read()
	if err = fault.Under(err, "password"); err != nil {
		return nil, nil, err
	}
	signer, err := file.Open(file.Options{Key: key, Password: password, Warn: warn})
	if err != nil {
		return nil, nil, fault.BadContent(err, "write the path of the CA's private key in PEM", "key").In(c.Key)
	}
	return chain, signer, nil
}

// loadChain errs with a setting, whose path is the caller's to say.
func loadChain(name string) ([]*x509.Certificate, error) {
	data, err := readInput(nil, name)
	if err != nil {
		return nil, fault.BadFile(name, err)
	}
	chain, err := ca.ParseChain(data)
	if err != nil {
		return nil, fault.BadContent(err,
			"write the certificates in PEM, issuing certificate first, root last").In(name)
	}
	return chain, nil
}

// openLog errs with settings of l.
func openLog(l ctlog.LogConfig, policy ctlog.PolicyConfig) (remoteLog, error) {
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
		if r.files[i], err = readInput(nil, names[key]); err != nil {
			errs = append(errs, fault.BadFile(names[key], err, strings.Split(key, ".")...))
		}
	}
	if len(errs) > 0 {
		return remoteLog{}, errors.Join(errs...)
	}
	var err error
	if r.from, r.to, err = l.Window(); err != nil {
		return remoteLog{}, err
	}
	r.remote, err = ctlog.OpenRemote(l, ctlog.RemoteOptions{
		PublicKeyPEM: r.files[0], CACertPEM: r.files[1], ClientCertificatePEM: r.files[2], ClientKeyPEM: r.files[3],
		Timeout: policy.AttemptOrDefault(), UserAgent: userAgent(),
	})
	return r, err
}

// roots are the roots that the embedded log accepts: those of the active chain and of the trusted ones.
func (m *material) roots() []*x509.Certificate {
	roots := []*x509.Certificate{m.chain[len(m.chain)-1]}
	for _, chain := range m.trust {
		roots = append(roots, chain[len(chain)-1])
	}
	if m.former != nil && !slices.ContainsFunc(roots, m.former.Equal) {
		roots = append(roots, m.former)
	}
	return roots
}

// issuingRoots are the roots of the chains that certificates may be issued under, the active one first. Those that have
// expired are only for verifiers.
func (m *material) issuingRoots() []*x509.Certificate {
	roots := []*x509.Certificate{m.chain[len(m.chain)-1]}
	for _, chain := range m.trust {
		root := chain[len(chain)-1]
		if time.Now().Before(chain[0].NotAfter) && !slices.ContainsFunc(roots, root.Equal) {
			roots = append(roots, root)
		}
	}
	return roots
}

// export is the trust material of a CA: every chain and every log that a verifier may need.
func (m *material) export(cfg *config.Config, url string) (trust.Material, error) {
	var out trust.Material
	for _, chain := range append([][]*x509.Certificate{m.chain}, m.trust...) {
		out.Authorities = append(out.Authorities, trust.Authority{URL: url, Chain: chain, From: chain[0].NotBefore, To: chain[0].NotAfter})
	}
	for _, l := range m.logs {
		from := l.from
		if from.IsZero() {
			from = m.chain[0].NotBefore
		}
		out.Logs = append(out.Logs, trust.Log{URL: l.config.URL, Origin: l.config.Origin, Operator: l.config.Operator, Key: l.remote.Key(), From: from, To: l.to})
	}
	if e := cfg.CT.Embedded; e != nil {
		shards, err := exportShards(*e, url+"/ct", m.chain[0].NotBefore)
		if err != nil {
			return out, fault.Under(err, "ct", "embedded", "dir")
		}
		out.Logs = append(out.Logs, shards...)
	}
	return out, nil
}

// prove loads what the configuration names and proves that it can issue, without a log and without a socket: everything that can
// stop a start before the first socket opens. It changes nothing on disk. Its errors say where in the configuration the setting stands.
func prove(cfg *config.Config) (*material, error) {
	m, err := load(cfg)
	if err != nil {
		return nil, err
	}
	// The signature of this trial stands in no journal: what checks a configuration has none open, and may run beside a CA that
	// holds it. It is over a poisoned precertificate for a name that nobody can have, which is thrown away. A server that starts
	// makes its own trial later, and journals that.
	_, err = ca.New(ca.Options{Chain: m.chain, Signer: m.signer, Trust: m.trust, Backdate: cfg.CA.BackdateOrDefault()})
	errs := []error{inFile(cfg.CA, err), tryIssuers(cfg), cfg.Places(), inspectAudit(cfg)}
	if cfg.CT.Embedded != nil {
		errs = append(errs, fault.Under(embedded.Inspect(*cfg.CT.Embedded), "ct", "embedded"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, cfg.Locate(err)
	}
	if err := m.publish(cfg); err != nil {
		return nil, err
	}
	if err := cfg.Locate(fault.Under(m.tryPolicy(cfg), "ct")); err != nil {
		return nil, err
	}
	ending, err := m.timely(cfg, time.Now())
	m.warnings = append(m.warnings, ending...)
	return m, cfg.Locate(err)
}

// inFile names the file in an error of [ca.New].
func inFile(c ca.Config, err error) error {
	var s *fault.Setting
	if !errors.As(err, &s) || c.File == nil || len(s.Path) != 2 {
		return fault.Under(err, "ca")
	}
	named := *s
	switch n, e := strconv.Atoi(s.Path[1]); {
	case s.Path[1] == "chain":
		named.File = c.File.Chain
	case s.Path[1] == "key":
		named.File = c.File.Key
	case e == nil && n < len(c.Trust):
		named.File = c.Trust[n]
	}
	return fault.Under(&named, "ca")
}

// tryIssuers builds what identifies callers: it reads the keys and certificates that the issuer file names. It asks nobody.
func tryIssuers(cfg *config.Config) error {
	v, err := newVerifier(cfg, instance{})
	if err == nil {
		v.Wait()
	}
	return err
}

// tryPolicy makes a set of the logs that are open already; config has compared the policy with all of them.
func (m *material) tryPolicy(cfg *config.Config) error {
	members := m.members()
	if len(members) == 0 {
		return nil
	}
	policy := cfg.CT.Policy
	if cfg.CT.Embedded != nil { // the one in this process is not open yet
		policy = ctlog.PolicyConfig{}
		for i := range members {
			members[i].Detached = false
		}
		if err := m.noTwin(*cfg.CT.Embedded); err != nil {
			return err
		}
	}
	_, err := ctlog.New(ctlog.Options{Members: members, Policy: policy})
	return err
}

// noTwin errs where a log of the list has the key of a shard of the embedded log, which is that log.
func (m *material) noTwin(c embedded.Config) error {
	shards, err := exportShards(c, "", time.Time{})
	if err != nil {
		return nil //nolint:nilerr // there is no key before the first start
	}
	for i, l := range m.logs {
		for _, s := range shards {
			if keyText(l.remote.Key()) == keyText(s.Key) {
				return fault.BadSetting(fmt.Sprintf("log %q has the key of the embedded log %s", l.config.Name, s.Origin), "remove one of them",
					"logs", strconv.Itoa(i), "public_key").In(l.config.PublicKey)
			}
		}
	}
	return nil
}

// members are the remote logs.
func (m *material) members() []ctlog.Member {
	members := make([]ctlog.Member, 0, len(m.logs)+1)
	for _, l := range m.logs {
		w := l.window()
		members = append(members, ctlog.Member{
			Name: l.config.Name, Key: l.remote.Key(), Submitter: l.remote, NotBefore: w.from, NotAfter: w.to, Operator: l.config.Operator,
			Rate: l.config.Rate, Detached: !l.config.Embeds(),
		})
	}
	return members
}
