package node

import (
	"context"
	"crypto"
	"crypto/x509"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/pop"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/admission"
)

// Preview answers requests as the CA of a configuration would, without a key: the same verification of token and proof,
// the same mapping, policy and lint, and the same encoding. Its certificates have a placeholder signature and no SCT.
// It counts no use of a token, writes no journal and no file, and asks no log. It sends requests to the identity
// providers of the configuration only, for their keys.
type Preview struct {
	config   *config.Config
	warnings []config.Warning
	server   *server.Server
	issuers  *oidc.Verifier
	chain    []*x509.Certificate
}

// PreviewOptions are the options of [OpenPreview].
type PreviewOptions struct {
	Path       string       // of the configuration; private keys and passwords need not exist
	Processors int          // requests that compute at once; 0: GOMAXPROCS
	Logger     *slog.Logger // for the fetches of the keys of identity providers; nil: none
}

// OpenPreview reads a configuration and the chain that it names. It sends no request; see [Preview.Start].
func OpenPreview(o PreviewOptions) (*Preview, error) {
	cfg, warnings, err := config.LoadPublic(o.Path)
	if err != nil {
		return nil, err
	}
	p := &Preview{config: cfg, warnings: warnings}
	if p.chain, err = PublicChain(cfg); err != nil {
		return nil, cfg.Locate(err)
	}
	core := &server.Core{
		Generation: 1, Digest: cfg.Digest, NoLegacy: cfg.API.V1 != nil && !*cfg.API.V1,
	}
	options := ca.Options{Chain: p.chain, Backdate: cfg.CA.BackdateOrDefault()}
	if core.Preview, err = ca.NewPreviewer(options); err != nil {
		return nil, cfg.Locate(cfg.CA.Place(err))
	}
	forbidden := []crypto.PublicKey{}
	for _, c := range p.chain {
		forbidden = append(forbidden, c.PublicKey)
	}
	if t := cfg.Experimental.MLDSAChain; t != nil {
		if options.Chain, err = signer.ReadChain(t.ChainFile()); err != nil {
			return nil, cfg.Locate(fault.Under(err, cfg.MLDSAAt("chain")...))
		}
		if core.PreviewMLDSA, err = ca.NewPreviewer(options); err != nil {
			return nil, cfg.Locate(cfg.PlaceMLDSA(err))
		}
	}
	core.Keys, err = pop.New(pop.Config{Algorithms: cfg.ClientAlgorithms}, pop.Options{Forbidden: forbidden})
	if err != nil {
		return nil, cfg.Locate(fault.Under(err, "client_algorithms"))
	}
	limits := admission.New(admission.Options{Processors: o.Processors})
	p.issuers, err = oidc.New(cfg.Issuers, oidc.Options{
		Logger: o.Logger, UserAgent: version.UserAgent(), Pause: limits.AwaitProvider,
	})
	if err != nil {
		return nil, cfg.Locate(err)
	}
	core.Issuers = p.issuers
	p.server, err = server.New(server.Options{Admission: limits})
	if err != nil {
		return nil, err
	}
	p.server.SetCore(core)
	return p, nil
}

// Warnings are those of the configuration.
func (p *Preview) Warnings() []config.Warning { return p.warnings }

// Start fetches the keys of the identity providers and keeps them fresh until ctx ends.
func (p *Preview) Start(ctx context.Context) { p.issuers.Start(ctx) }

// Wait ends the background work and waits for it.
func (p *Preview) Wait() { p.issuers.Wait() }

// Handler serves the API, REST and gRPC.
func (p *Preview) Handler() http.Handler { return p.server.APIHandler() }

// Chain returns the issuing chain, which MUST NOT be changed.
func (p *Preview) Chain() []*x509.Certificate { return p.chain }

// Logged reports whether the certificates of the CA have SCTs.
func (p *Preview) Logged() bool { return p.config.CT.None == nil }

// Digest is the digest of the configuration.
func (p *Preview) Digest() string { return p.config.Digest }

// Collectors returns the metrics of the requests to identity providers.
func (p *Preview) Collectors() []prometheus.Collector { return p.issuers.Collectors() }
