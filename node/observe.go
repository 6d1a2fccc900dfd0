package node

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/rotation"
	"github.com/mayfly-ca/mayfly/trust"
)

// The names of the sources from which verifiers get chains.
const (
	placeBundle = "trust bundle"
	placeRoot   = "trusted root"
	placeTUF    = "TUF repository"
)

// The limits of one observation.
const (
	bundleTimeout = 5 * time.Second
	tufTimeout    = 30 * time.Second
	trialTimeout  = 20 * time.Second
)

// observer observes the trust bundle, the published trusted roots and the logs.
type observer struct {
	cfg  *config.Config
	logs []remoteLog
	// bundle returns the chains of the trust bundle that is served.
	bundle func(context.Context) ([][]*x509.Certificate, error)
	// exported returns the trusted root that "mayfly trust export" would write. Trials are verified with it if no
	// trusted root is published.
	exported func() ([]byte, error)
	// journal records the signature of a trial. Its methods accept a zero value.
	journal processJournal
	// requests limits and measures requests to logs and to a TUF repository. Nil: a command, which makes each request
	// once.
	requests *requests
	now      func() time.Time
}

// publication is a published trusted root.
type publication struct {
	place    string
	data     []byte
	material trust.Material
	err      error
}

// publications reads every published trusted root once.
func (o *observer) publications(ctx context.Context) (out []publication) {
	if name := o.cfg.PublishedRoot(); name != "" {
		data, err := input.Read(nil, name)
		out = append(out, publication{place: placeRoot, data: data, err: err})
	}
	if t := o.cfg.Publish.TUF; t != nil {
		p := publication{place: placeTUF}
		p.data, p.err = o.readTUF(ctx, t)
		out = append(out, p)
	}
	for i, p := range out {
		if p.err == nil {
			out[i].material, out[i].err = trust.ParseTrustedRoot(p.data)
		}
	}
	return out
}

// readTUF reads the trusted root of a TUF repository, as a client does: from its URL if there is one.
func (o *observer) readTUF(ctx context.Context, t *config.PublishTUF) (data []byte, err error) {
	if t.URL != "" {
		root, err := input.Read(nil, t.Root)
		if err != nil {
			return nil, err
		}
		err = o.requests.do(destination{"tuf", t.URL}, func() (err error) {
			ctx, cancel := context.WithTimeout(ctx, tufTimeout)
			defer cancel()
			data, err = trust.Fetch(ctx, t.URL, root, version.UserAgent())
			return err
		})
		return data, err
	}
	r, err := trust.InspectTUF(trust.TUFOptions{Dir: t.Dir})
	if err != nil {
		return nil, err
	}
	data, ok := r.Target(trust.TrustedRootTarget)
	if !ok {
		return nil, fmt.Errorf("%s: no trusted root is published: %w", t.Dir, fs.ErrNotExist)
	}
	return data, nil
}

// places returns for each source whether verifiers get the chain from it.
func (o *observer) places(ctx context.Context, c rotation.Chain, published []publication) []rotation.Place {
	bundle := rotation.Place{Name: placeBundle}
	chains, err := o.bundle(ctx)
	switch {
	case err != nil:
		bundle.Unknown, bundle.Cause = true, err.Error()
	case !slices.ContainsFunc(chains, c.Is):
		bundle.Cause = "the CA does not serve it"
	default:
		bundle.Has = true
	}
	out := []rotation.Place{bundle}
	if len(published) == 0 {
		return append(out, rotation.Place{
			Name: placeRoot, Unknown: true,
			Cause: "neither publish.trusted_root nor publish.tuf is set, so where verifiers get chains is unknown",
		})
	}
	for _, p := range published {
		out = append(out, p.has(c))
	}
	return out
}

// has returns whether a published trusted root has the chain, with a validity that does not end before the issuing
// certificate expires.
func (p publication) has(c rotation.Chain) rotation.Place {
	out := rotation.Place{Name: p.place}
	issuing := c.Certificates()[0]
	_, to, ok := p.material.Validity(issuing)
	switch {
	case errors.Is(p.err, fs.ErrNotExist):
		out.Cause = p.err.Error()
	case p.err != nil:
		out.Unknown, out.Cause = true, p.err.Error()
	case !ok:
		out.Cause = "it does not have the chain"
	case !to.IsZero() && to.Before(issuing.NotAfter) && c.Status != rotation.Retiring:
		out.Cause = "it ends the validity of the chain at " + to.UTC().Format(time.RFC3339)
	default:
		out.Has = true
	}
	return out
}

// accepting requests the accepted roots of all logs concurrently. The embedded log accepts the chains of the trust
// bundle.
func (o *observer) accepting(ctx context.Context, c rotation.Chain) []rotation.Log {
	chain := c.Certificates()
	root := chain[len(chain)-1]
	out := make([]rotation.Log, len(o.logs))
	var all sync.WaitGroup
	for i, l := range o.logs {
		out[i].Name = l.config.Name
		if !l.config.Embeds() {
			out[i].Accepts, out[i].Cause = true, "its SCTs are not embedded"
			continue
		}
		all.Go(func() {
			var roots [][]byte
			err := o.requests.do(destination{"log", l.config.Name}, func() (err error) {
				roots, _, err = l.remote.Roots(ctx)
				return err
			})
			switch {
			case err != nil:
				out[i].Cause = "its roots cannot be read: " + err.Error()
			case !slices.ContainsFunc(roots, func(der []byte) bool { return bytes.Equal(der, root.Raw) }):
				out[i].Cause = fmt.Sprintf("it does not list the root %q (SHA-256 %s); ask its operator to add it",
					root.Subject, rotation.Fingerprint(root))
			default:
				out[i].Accepts = true
			}
		})
	}
	all.Wait()
	if o.cfg.CT.Embedded == nil {
		return out
	}
	own := rotation.Log{Name: "embedded"}
	chains, err := o.bundle(ctx)
	switch {
	case err != nil:
		own.Cause = err.Error()
	case !slices.ContainsFunc(chains, c.Is):
		own.Cause = "it accepts the chains of the trust bundle, which does not have this one"
	default:
		own.Accepts = true
	}
	return append(out, own) //nolint:makezero // the first ones are filled above
}

// try opens the key of a chain and signs a trial precertificate, which is verified with every published trusted root.
// unusable says why key and chain cannot issue, trial why verifiers would refuse the trial certificate.
func (o *observer) try(ctx context.Context, c rotation.Chain, published []publication) (unusable, trial string) {
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	cert, err := o.sign(ctx, c)
	if err != nil {
		return o.cfg.Locate(err).Error(), "no trial was signed"
	}
	if h := ca.ChainHealth(c.Certificates(), o.now()); !h.OK {
		return h.Cause, ""
	}
	signed, tried := trust.Trial{Precertificate: cert, Issuing: c.Certificates()[0], At: o.now()}, false
	for _, p := range published {
		if p.err != nil {
			continue // already reported by the gate of that source
		}
		tried = true
		if err := signed.Verify(p.data); err != nil {
			return "", fmt.Sprintf("verifiers with the %s refuse it: %v", p.place, err)
		}
	}
	if tried {
		return "", ""
	}
	data, err := o.exported()
	if err == nil {
		err = signed.Verify(data)
	}
	if err != nil {
		return "", fmt.Sprintf("verifiers with the exported trusted root refuse it: %v", err)
	}
	return "", ""
}

// sign opens the key of a chain, tests that key and chain can issue, and returns the trial precertificate.
func (o *observer) sign(ctx context.Context, c rotation.Chain) (*x509.Certificate, error) {
	one, ok := o.cfg.CA.Named(c.Name, c.Managed)
	if !ok {
		return nil, fmt.Errorf("the configuration has no chain %q in ca.chains", c.Name)
	}
	key, err := openChain(ctx, o.cfg, one)
	if err != nil {
		return nil, err
	}
	defer key.Close() //nolint:errcheck // it was only tried
	if !c.Is(key.Chain) {
		return nil, fmt.Errorf("the chain file is not the one that was prepared under the name %q (SHA-256 of its "+
			"issuing certificate: %s)", c.Name, rotation.Fingerprint(c.Certificates()[0]))
	}
	a, err := ca.New(ca.Options{
		Chain: key.Chain, Signer: key.Signer, Backdate: o.cfg.CA.BackdateOrDefault(),
		Trial: o.journal.trial, Signatures: o.journal.signatures, Now: o.now, MLDSA: o.cfg.Experimental.MLDSACA,
	})
	if err != nil {
		return nil, placeChain(o.cfg, one, err)
	}
	return a.Trial(), nil
}

// openChain opens the key of a chain. Its errors are settings of cfg.
func openChain(ctx context.Context, cfg *config.Config, one config.Chain) (*signer.Key, error) {
	_, backend := one.Selected()
	key, err := signer.Open(ctx, backend, signer.Options{})
	return key, underChain(cfg, one, err)
}

// underChain prepends the path of a chain in cfg to the settings in an error of its backend.
func underChain(cfg *config.Config, one config.Chain, err error) error {
	return fault.Under(err, cfg.CA.PlaceOf(one)...)
}

// placeChain prepends the path of a chain in cfg to the settings in an error of [ca.New].
func placeChain(cfg *config.Config, one config.Chain, err error) error {
	own := cfg.CA
	own.Select(one)
	return own.Place(err)
}

// servedBundle requests the trust bundle of the running CA, once.
func servedBundle(cfg *config.Config) func(context.Context) ([][]*x509.Certificate, error) {
	var once sync.Once
	var chains [][]*x509.Certificate
	var err error
	return func(ctx context.Context) ([][]*x509.Certificate, error) {
		once.Do(func() { chains, err = askBundle(ctx, cfg) })
		return chains, err
	}
}

func askBundle(ctx context.Context, cfg *config.Config) ([][]*x509.Certificate, error) {
	if cfg.Publish.URL == "" && cfg.Listen.HTTP == config.Off {
		return nil, errors.New("listen.http is off; write publish.url, where clients reach the CA")
	}
	c, err := client.New(client.Options{
		URL: cfg.PublicURL(), SkipVerify: true, UserAgent: version.UserAgent(), Timeout: bundleTimeout,
	})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	chains, err := c.TrustBundle(ctx)
	if err != nil {
		return nil, fmt.Errorf("the CA at %s does not serve its trust bundle: %w", cfg.PublicURL(), err)
	}
	return chains, nil
}
