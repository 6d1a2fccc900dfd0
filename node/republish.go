package node

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/shell"
	"github.com/mayfly-ca/mayfly/rotation"
	"github.com/mayfly-ca/mayfly/trust"
)

// Publishing is the result for one file or repository from which verifiers get the chains of this CA.
type Publishing struct {
	Place string `json:"place"`
	Name  string `json:"name"` // of the file or the directory
	// Changed says that it was written now. If Cause is empty and Changed is false, it already had every chain.
	Changed bool `json:"changed"`
	// Cause says why it does not have every chain, and Command which command the operator must run.
	Cause   string `json:"cause,omitempty"`
	Command string `json:"command,omitempty"`
}

// publisher writes chains to the trusted root and the TUF repository.
type publisher struct {
	path string // of the configuration file, for commands
	cfg  *config.Config
}

// edition is the wanted content of a trusted root about the chains of this CA.
type edition struct {
	authorities trust.Material
	withdraw    []*x509.Certificate
}

// publish writes every chain of a state, with its validity, to publish.trusted_root and the TUF repository in
// publish.tuf.dir. withdraw are issuing certificates that no verifier may trust. The result has the cause if one of
// them cannot be written.
func (o publisher) publish(state rotation.State, withdraw ...*x509.Certificate) ([]Publishing, error) {
	cfg := o.cfg
	f := &loadedFiles{rotation: &state}
	for _, c := range state.Chains {
		if c.Untrusted() {
			withdraw = append(withdraw, c.Certificates()[0])
		}
	}
	e := edition{trust.Material{Authorities: f.authorities(cfg.PublicURL())}, withdraw}
	var out []Publishing
	var failed error
	if name := cfg.Publish.TrustedRoot; name != "" {
		p := Publishing{Place: placeRoot, Name: name}
		err := e.rewriteRoot(&p)
		if errors.Is(err, fs.ErrNotExist) {
			p.Cause = "it is missing"
			p.Command = "mayfly trust export --config " + shell.Quote(o.path) + " --url " +
				shell.Quote(cfg.PublicURL()) + " --out " + shell.Quote(filepath.Dir(name))
		} else if err != nil {
			p.Cause, failed = err.Error(), errors.Join(failed, fmt.Errorf("%s: %w", name, err))
		}
		out = append(out, p)
	}
	if t := cfg.Publish.TUF; t != nil && t.Dir != "" {
		p := Publishing{Place: placeTUF, Name: t.Dir}
		if err := e.rewriteTUF(&p, t); err != nil {
			p.Cause = err.Error()
			p.Command = "mayfly trust tuf publish --dir " + shell.Quote(t.Dir) + " trusted_root.json"
			failed = errors.Join(failed, err)
		}
		out = append(out, p)
	} else if t != nil {
		out = append(out, Publishing{
			Place: placeTUF, Name: t.URL, Cause: "the repository is on another machine",
			Command: "mayfly trust tuf publish --dir DIR trusted_root.json",
		})
	}
	return out, failed
}

func (e edition) rewriteRoot(p *Publishing) error {
	data, err := input.Read(nil, p.Name)
	if err != nil {
		return err
	}
	next, err := trust.Merge(data, e.authorities, e.withdraw...)
	if err != nil || bytes.Equal(data, next) {
		return err
	}
	p.Changed = true
	return durable.WriteFile(p.Name, next, 0o644)
}

func (e edition) rewriteTUF(p *Publishing, t *config.PublishTUF) error {
	r, err := openTUF(t)
	if err != nil {
		return err
	}
	data, ok := r.Target(trust.TrustedRootTarget)
	if !ok {
		return fmt.Errorf("%s: no trusted root is published yet", t.Dir)
	}
	next, err := trust.Merge(data, e.authorities, e.withdraw...)
	if err != nil || bytes.Equal(data, next) {
		return err
	}
	if t.Updates() && !r.HasKeys("targets") {
		p.Cause = "the running CA asks for a signature of the offline keys"
		p.Command = "mayfly trust tuf sign --dir OFFLINE --out " +
			shell.Quote(filepath.Join(t.Dir, trust.ResponseName)) + " " +
			shell.Quote(filepath.Join(t.Dir, trust.RequestName))
		return nil
	}
	if _, err := r.Publish(next); err != nil {
		return err
	}
	p.Changed = true
	return nil
}

// openTUF opens the TUF repository of publish.tuf.dir. Its errors about a secret are settings.
func openTUF(t *config.PublishTUF) (*trust.Repository, error) {
	password, err := t.Password.Read()
	if err != nil {
		return nil, fault.Under(err, "publish", "tuf", "password")
	}
	timestamp, snapshot := t.Lives()
	lives := trust.Lives{"timestamp": timestamp, "snapshot": snapshot}
	return trust.OpenTUF(trust.TUFOptions{Dir: t.Dir, Password: password, Lives: lives})
}
