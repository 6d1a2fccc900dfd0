package node

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server"
)

// mldsaName is the name of experimental.mldsa_chain in metrics, readiness and messages.
const mldsaName = "mldsa"

// openMLDSA opens the key of experimental.mldsa_chain; it returns nil if there is none. chain is the other chain.
func openMLDSA(ctx context.Context, log *slog.Logger, cfg *config.Config, chain []*x509.Certificate) (
	key *signer.Key, warnings []config.Warning, err error,
) {
	t := cfg.Experimental.MLDSAChain
	if t == nil {
		return nil, nil, nil // a nil key has nothing to close
	}
	_, backend := t.Selected()
	key, err = signer.Open(ctx, backend, signer.Options{Log: log, Warn: func(s *fault.Setting) {
		//nolint:errorlint // Under returns a Setting for a Setting
		located := fault.Under(s, cfg.MLDSAAt()...).(*fault.Setting)
		warnings = append(warnings, cfg.Warn(located))
	}})
	if err != nil {
		return nil, nil, cfg.Locate(fault.Under(err, cfg.MLDSAAt()...))
	}
	if key.Chain[0].PublicKeyAlgorithm != x509.MLDSA {
		err = fault.BadSetting("the key of the issuing certificate is not an ML-DSA key",
			"write a chain of \"mayfly ca init --algorithm ml-dsa-65\"", cfg.MLDSAAt("chain")...)
	} else if ca.HasMLDSA(chain) {
		err = fault.BadSetting("the chain of ca also has ML-DSA keys",
			"write a chain with ECDSA keys in ca, or remove "+
				"mldsa_chain", "experimental", "mldsa_chain")
	}
	var errs []error
	for _, a := range ca.Advise(key.Chain) {
		s := fault.BadSetting(a.Problem, a.Fix, cfg.MLDSAAt("chain")...).In(backend.ChainFile())
		if a.Serious && cfg.Production {
			s.Problem += "; this is refused with production: true"
			errs = append(errs, s)
			continue
		}
		warnings = append(warnings, cfg.Warn(s))
	}
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, nil, errors.Join(cfg.Locate(err), key.Close())
	}
	return key, warnings, nil
}

// tryMLDSA tests that the second chain can issue, as [loadAndTest] does for the first.
func (f *loadedFiles) tryMLDSA(cfg *config.Config) error {
	if f.mldsa == nil {
		return nil
	}
	_, err := ca.New(ca.Options{
		Chain: f.mldsa.Chain, Signer: f.mldsa.Signer, MLDSA: true,
		Backdate: cfg.CA.BackdateOrDefault(), PrecertIssuer: cfg.CA.PrecertIssuer,
	})
	return cfg.PlaceMLDSA(err)
}

// openMLDSA makes the authority of the second chain: it shares logs, clock and journal with the first.
func (s *snapshot) openMLDSA(n *Node, old *snapshot) (err error) {
	key := s.files.mldsa
	if key == nil {
		return nil
	}
	keys := []any{s.config.Experimental.MLDSAChain, s.authorityKey}
	for _, c := range key.Chain {
		keys = append(keys, c.Raw)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Signer.Public())
	if err != nil {
		return err
	}
	if s.mldsaKey, err = digest(append(keys, public)...); err != nil {
		return err
	}
	if old != nil && old.mldsa != nil && old.mldsaKey == s.mldsaKey {
		s.mldsa = old.mldsa
		err = closeUnless(key, old.files.mldsa)
		s.files.mldsa = old.files.mldsa
		return err
	}
	o := s.authorityOptions(n)
	o.Chain, o.Signer = key.Chain, key.Signer
	s.mldsa, err = ca.New(o)
	return err
}

// mldsaChecks returns the checks of /readyz about the second chain. Their failures do not make the server unready,
// because the first chain can still sign.
func (s *snapshot) mldsaChecks() []server.Check {
	if s.mldsa == nil {
		return nil
	}
	out := []server.Check{{Name: "ca " + mldsaName, Ask: func() server.Health {
		h := s.mldsa.Health()
		return server.Health{OK: h.OK, Advisory: true, Warning: h.Warning, Cause: h.Cause}
	}}}
	return append(out, signerChecks("signer "+mldsaName, s.files.mldsa, true)...)
}

// mldsaCollectors returns the metrics of the second authority: those of the first, with a label.
func (s *snapshot) mldsaCollectors() []prometheus.Collector {
	if s.mldsa == nil {
		return nil
	}
	return labelled(mldsaName, append(s.mldsa.Collectors(), s.files.mldsa.Collectors...))
}

// labelled returns metrics with a label that says which key they are of. The metrics of the CA's key have none.
func labelled(key string, all []prometheus.Collector) []prometheus.Collector {
	out := make([]prometheus.Collector, len(all))
	for i, c := range all {
		out[i] = prometheus.WrapCollectorWith(prometheus.Labels{"chain": key}, c)
	}
	return out
}
