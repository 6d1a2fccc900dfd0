package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/ceremony"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/trust"
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

// publish makes the logs, whose keys verifiers need, and writes the trusted root and the signing configuration for
// clients: as files, and as the first content of a TUF repository.
func (p *Plan) publish(ctx context.Context, configFile string) error {
	cfg, _, err := config.Load(configFile)
	if err != nil {
		return err
	}
	if err := node.MakeLogs(ctx, cfg); err != nil {
		return err
	}
	root, signing, err := node.Documents(cfg)
	if err != nil {
		return err
	}
	both, err := trust.ClientConfig(root, signing)
	if err != nil {
		return err
	}
	dir := filepath.Join(p.Dir, TrustDir)
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // trust material is public
		return err
	}
	for name, data := range map[string][]byte{
		trust.RootName: root, trust.SigningName: signing,
		trust.ConfigName: both,
	} {
		if err := durable.CreateFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return p.firstTUF(ctx, root, signing)
}

// firstTUF makes the TUF repository, whose keys of root and targets are offline, and publishes its first content with
// them.
func (p *Plan) firstTUF(ctx context.Context, contents ...[]byte) error {
	password, err := p.Password.Read()
	if err != nil {
		return fault.Under(err, "password")
	}
	o := trust.TUFOptions{
		Dir: p.writable(TUFDir), Offline: filepath.Join(p.offline(), TUFDir),
		Password: password,
	}
	r, err := trust.InitTUF(o)
	if err != nil {
		return err
	}
	request, err := r.Request(contents...)
	if err != nil {
		return err
	}
	review, err := trust.ReviewRequest(trust.TUFOptions{Dir: o.Offline, Password: password}, request, false)
	if err != nil {
		return err
	}
	signed, err := review.Sign()
	if err != nil {
		return err
	}
	if _, err := r.PublishSigned(signed); err != nil {
		return err
	}
	first, err := os.ReadFile(filepath.Join(o.Dir, "repository", TUFRoot))
	if err != nil {
		return err
	}
	if err := durable.CreateFile(filepath.Join(p.Dir, TrustDir, TUFRoot), first, 0o644); err != nil {
		return err
	}
	return errors.Join(p.offlinePassword(ctx, filepath.Join(o.Offline, "keys", "root.pem")),
		p.offlinePassword(ctx, filepath.Join(o.Offline, "keys", "targets.pem")))
}

// offlinePassword encrypts a key with the password of the offline keys, in place of that of the server's keys.
func (p *Plan) offlinePassword(ctx context.Context, name string) error {
	key, err := ceremony.OpenKey(ctx, ceremony.FileKey(name, "", p.Password), ceremony.Options{})
	if err != nil {
		return err
	}
	password, err := p.Private.RootPassword.Read()
	if err != nil {
		return fault.Under(err, "root-password")
	}
	data, err := ceremony.EncodeKey(key.Signer, password)
	if err = errors.Join(err, key.Close()); err != nil {
		return err
	}
	return durable.WriteFile(name, data, 0o600)
}

// readable returns an error if the password of the keys cannot be read.
func readable(s *secret.Source, setting string) error {
	_, err := s.Read()
	return fault.Under(err, setting)
}
