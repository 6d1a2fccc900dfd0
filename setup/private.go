package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/ceremony"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/tlog"
	"github.com/mayfly-ca/mayfly/trust"
	"github.com/mayfly-ca/mayfly/tsa"
)

// offline returns the directory for the keys that the server does not need.
func (p *Plan) offline() string {
	if p.Private.Offline != "" {
		return p.Private.Offline
	}
	return filepath.Join(p.Dir, OfflineDir)
}

// ceremonies makes the keys and the chains of the CA and of the timestamp authority.
func (p *Plan) ceremonies(ctx context.Context) error {
	for _, c := range []struct {
		dir, uri, purpose, root, issuing string
	}{
		{CADir, p.CAKey, ceremony.CodeSigning, "root", "issuing"},
		{TSADir, p.Private.TSAKey, ceremony.Timestamping, "timestamp root", "timestamp authority"},
	} {
		in := func(name string) string { return filepath.Join(p.Dir, c.dir, name) }
		subject := func(name string) ceremony.Subject {
			return ceremony.Subject{Organization: p.Organization, CommonName: p.Organization + " " + name}
		}
		plan := &ceremony.Plan{
			Purpose: c.purpose,
			Root: ceremony.Part{
				Subject: subject(c.root), Generate: "ecdsa-p384", Unencrypted: p.Private.RootPassword == nil,
				Key: backends.Table{File: &file.Settings{
					Key:   filepath.Join(p.offline(), c.dir+"-root-key.pem"),
					Chain: in("root.pem"), Password: p.Private.RootPassword,
				}},
			},
			Issuing: ceremony.Part{Subject: subject(c.issuing), Key: p.key(c.uri, c.dir)},
		}
		if t := plan.Issuing.Key; t.File != nil {
			plan.Issuing.Generate, plan.Issuing.Unencrypted = "ecdsa-p256", p.Password == nil
			t.File.Key, t.File.Chain = in(filepath.Base(t.File.Key)), in("chain.pem")
		} else {
			t.KMS.Chain = in("chain.pem")
		}
		if err := plan.Check(); err != nil {
			return fault.Under(err, "organization") // no other part of the plan can be wrong
		}
		r, err := plan.Run(ctx, ceremony.Options{Tool: p.Private.Tool, Iterations: p.Private.Iterations})
		if err != nil {
			return fmt.Errorf("the chain in %s: %w", c.dir, err)
		}
		if err := r.Write(); err != nil {
			return err
		}
	}
	return nil
}

// publish makes the log, whose key verifiers need, and writes the trusted root and the signing configuration for
// clients: as files, and as the first content of a TUF repository.
func (p *Plan) publish(ctx context.Context, configFile string) error {
	cfg, _, err := config.Load(configFile)
	if err != nil {
		return err
	}
	if err := openOnce(ctx, *cfg.CT.Embedded); err != nil {
		return err
	}
	material, err := node.TrustMaterial(cfg, cfg.PublicURL())
	if err != nil {
		return err
	}
	services := p.services(cfg.PublicURL(), material.Authorities[0].Chain[0].NotBefore)
	root, err := material.TrustedRoot()
	if err != nil {
		return err
	}
	signing, err := services.SigningConfig()
	if err != nil {
		return err
	}
	dir := filepath.Join(p.Dir, TrustDir)
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // trust material is public
		return err
	}
	if err := trust.WriteFiles(dir, material, services); err != nil {
		return err
	}
	return p.firstTUF(root, signing)
}

// services are the services of the instance for signers.
func (p *Plan) services(url string, from time.Time) trust.Services {
	s := trust.Services{CA: url, TSA: url + tsa.Path, Operator: p.Organization, From: from.UTC().Truncate(time.Second)}
	for _, i := range p.Issuers {
		if i.Profile == "" && s.OIDC == "" { // people sign in there
			s.OIDC = i.URL
		}
	}
	return s
}

// openOnce makes a log with its key and its first checkpoint.
func openOnce(ctx context.Context, c embedded.Config) error {
	log, err := embedded.OpenStore(ctx, c, tlog.Options{})
	if err != nil {
		return err
	}
	return log.Close(ctx)
}

// offlineRoles are the roles of a TUF repository whose keys the server does not need.
var offlineRoles = []string{"root", "targets"}

// firstTUF makes the TUF repository with its first content, and moves the keys of root and targets.
func (p *Plan) firstTUF(contents ...[]byte) error {
	dir := filepath.Join(p.Dir, TUFDir)
	password, err := p.Password.Read()
	if err != nil {
		return fault.Under(err, "password")
	}
	r, err := trust.InitTUF(trust.TUFOptions{Dir: dir, Password: password})
	if err != nil {
		return err
	}
	if _, err := r.Publish(contents...); err != nil {
		return err
	}
	root, err := os.ReadFile(filepath.Join(dir, "repository", "1.root.json"))
	if err != nil {
		return err
	}
	if err := durable.CreateFile(filepath.Join(p.Dir, TrustDir, "1.root.json"), root, 0o644); err != nil {
		return err
	}
	for _, role := range offlineRoles {
		if err := move(filepath.Join(dir, "keys", role+".pem"), filepath.Join(p.offline(), "tuf-"+role+"-key.pem")); err != nil {
			return err
		}
	}
	return nil
}

// move moves a file, which has a private key, to another directory, which may be on another medium.
func move(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := durable.CreateFile(to, data, 0o600); err != nil {
		return err
	}
	return errors.Join(os.Remove(from), durable.SyncDir(filepath.Dir(from)))
}

// readable returns an error if the password of the keys cannot be read.
func readable(s *secret.Source, setting string) error {
	_, err := s.Read()
	return fault.Under(err, setting)
}
