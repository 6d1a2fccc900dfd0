package node

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/trust"
	"github.com/mayfly-ca/mayfly/tsa"
)

// tsaName is the name of the timestamp authority in metrics, limits and readiness.
const tsaName = "tsa"

// stamper is the timestamp authority of this process, with its key. It stays the same until a restart.
type stamper struct {
	authority *tsa.Authority
	key       *signer.Key
}

// openStamper opens the key of the timestamp authority and proves that it can sign. It returns nil if none is
// configured. o.Chain and o.Signer are set here. Its errors say where in the configuration the setting stands.
func openStamper(ctx context.Context, cfg *config.Config, keys signer.Options, o tsa.Options) (*stamper, error) {
	if cfg.TSA == nil {
		return nil, nil //nolint:nilnil // without an authority there is nothing to close
	}
	_, backend := cfg.TSA.Selected()
	key, err := signer.Open(ctx, backend, keys)
	if err != nil {
		return nil, cfg.Locate(fault.Under(err, cfg.TSAAt()...))
	}
	o.Chain, o.Signer = key.Chain, key.Signer
	a, err := tsa.New(ctx, cfg.TSA.Config, o)
	if err != nil {
		return nil, errors.Join(cfg.Locate(cfg.PlaceTSA(err)), key.Close())
	}
	return &stamper{a, key}, nil
}

func (s *stamper) close() error {
	if s == nil {
		return nil
	}
	return s.key.Close()
}

// tryTSA tests that the timestamp authority can sign, as [loadAndTest] does for the CA.
func (f *loadedFiles) tryTSA(ctx context.Context, cfg *config.Config) error {
	for _, c := range f.chain {
		if len(f.stamps) > 0 && bytes.Equal(c.RawSubjectPublicKeyInfo, f.stamps[0][0].RawSubjectPublicKeyInfo) {
			return fault.BadSetting("the key of the timestamp authority is also that of "+c.Subject.String(),
				"make a key of its own: mayfly ca init --timestamping", cfg.TSAAt("chain")...).In(cfg.TSA.ChainFile())
		}
	}
	s, err := openStamper(ctx, cfg, signer.Options{Warn: func(w *fault.Setting) {
		//nolint:errorlint // Under returns a Setting for a Setting
		f.warnings = append(f.warnings, cfg.Warn(fault.Under(w, cfg.TSAAt()...).(*fault.Setting)))
	}}, tsa.Options{})
	return errors.Join(err, s.close())
}

// openTSA opens the timestamp authority and begins to serve it.
func (n *Node) openTSA(ctx context.Context) (err error) {
	n.stamper, err = openStamper(ctx, n.started, signer.Options{Log: n.log}, tsa.Options{
		Ready: n.clockProblem, Event: n.journal.note, Pause: n.admission.Pause, Logger: n.log,
	})
	if n.stamper == nil {
		return err
	}
	n.tsaHandler.set(n.stamper.authority.Handler(tsa.Calls{
		Call: func(ctx context.Context, run func(context.Context, func(key, value string)) error) error {
			return n.server.Call(ctx, server.Call{Service: tsaName, Method: "CreateTimestamp"},
				func(ctx context.Context, r *server.Request) error { return run(ctx, r.Add) })
		},
		WriteError: n.server.WriteError,
	}))
	return nil
}

// clockProblem returns why this machine's clock is wrong as far as the CA and its logs know.
func (n *Node) clockProblem() error {
	if s := n.current.Load(); s != nil {
		return s.clockProblem()
	}
	return nil
}

// tsaChecks are the checks of /readyz about the timestamp authority. Their failures do not make the server unready,
// because it can still issue certificates.
func (n *Node) tsaChecks() []server.Check {
	if n.stamper == nil {
		return nil
	}
	out := []server.Check{{Name: "timestamp authority", Ask: func() server.Health {
		if err := n.stamper.authority.Health(); err != nil {
			return server.Health{Advisory: true, Cause: err.Error()}
		}
		return server.Health{OK: true, Advisory: true, Warning: n.stamper.authority.Warning()}
	}}}
	return append(out, signerChecks("signer "+tsaName, n.stamper.key, true)...)
}

// tsaCollectors returns the metrics of the timestamp authority, and those of its key with a label.
func (n *Node) tsaCollectors() []prometheus.Collector {
	if n.stamper == nil {
		return nil
	}
	return append(n.stamper.authority.Collectors(), labelled(tsaName, n.stamper.key.Metrics())...)
}

// readStampChains reads the chains of the timestamp authority and of the former ones. Its errors are settings.
func readStampChains(cfg *config.Config) (out [][]*x509.Certificate, err error) {
	if cfg.TSA == nil {
		return nil, nil
	}
	var errs []error
	read := func(file string, at ...string) {
		chain, err := signer.ReadChain(file)
		if err == nil {
			if e := tsa.CheckChain(chain, chain[0].NotAfter); e != nil {
				err = fault.BadContent(e, "write a chain of \"mayfly ca init --timestamping\"").In(file)
			}
		}
		errs, out = append(errs, fault.Under(err, at...)), append(out, chain)
	}
	read(cfg.TSA.ChainFile(), cfg.TSAAt("chain")...)
	for i, file := range cfg.TSA.Trust {
		read(file, "tsa", "trust", strconv.Itoa(i))
	}
	return out, errors.Join(errs...)
}

// stampAuthorities are the timestamp authorities of the trusted root.
func (f *loadedFiles) stampAuthorities(url string) (out []trust.Authority) {
	for _, chain := range f.stamps {
		out = append(out, trust.Authority{
			URL: url + tsa.Path, Chain: chain, From: chain[0].NotBefore, To: chain[0].NotAfter,
		})
	}
	return out
}

// keepStamps gives f the chain of the running timestamp authority, and returns a warning if the file has another one.
func (f *loadedFiles) keepStamps(cfg *config.Config, running *loadedFiles) []config.Warning {
	if len(f.stamps) == 0 || len(running.stamps) == 0 || sameChain(f.stamps[0], running.stamps[0]) {
		return nil
	}
	f.stamps[0] = running.stamps[0]
	return []config.Warning{cfg.Waits("the file has another chain", cfg.TSAAt("chain")...)}
}

// stampExpiry returns the end of the timestamp authority's chain.
func (f *loadedFiles) stampExpiry() (out []expiry) {
	if len(f.stamps) == 0 {
		return nil
	}
	e := expiry{kind: tsaName, at: f.stamps[0][0].NotAfter}
	for _, c := range f.stamps[0] {
		if !c.NotAfter.After(e.at) {
			e.at, e.ahead = c.NotAfter, warnAhead
		}
	}
	return []expiry{e}
}
