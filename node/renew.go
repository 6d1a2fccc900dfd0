package node

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ceremony"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/rotation"
)

// renew makes the next issuing certificate when it is due, with a new key, and adds the chain to the state. After a
// crash before the state is written, the next round uses the files that exist.
func (c *conductor) renew(ctx context.Context, state rotation.State) error {
	r := c.cfg.CA.Rotation.Renew
	active, ok := state.Active()
	if r == nil || !ok || !r.Due(active, time.Now()) {
		return nil
	}
	for _, one := range state.Chains {
		if one.Status.Upcoming() {
			return nil // another chain waits already
		}
	}
	// The files are made under the lock of the state file, so that two instances do not write the same ones.
	next, err := c.file.Update(ctx, func(s rotation.State) (rotation.State, error) {
		if s.Revision != state.Revision {
			return s, nil // another instance was faster; the next round checks again
		}
		name, err := nextName(s, time.Now())
		if err != nil {
			return s, err
		}
		chain, err := makeIntermediate(ctx, r, nextChain{filepath.Join(r.Dir, name), active.Certificates()[0]})
		if err != nil {
			return s, c.cfg.Locate(fault.Under(err, "ca", "rotation", "renew"))
		}
		return s.Prepare(rotation.Chain{Name: name, Managed: true}, chain,
			c.entry("the active issuing certificate is at its share of its life"))
	})
	if err != nil {
		return err
	}
	return c.republish(next)
}

// nextName returns the current day as a name, with a number if a chain has or had this name.
func nextName(state rotation.State, now time.Time) (string, error) {
	base := "auto-" + now.UTC().Format("2006-01-02")
	for i := range 100 {
		name := base
		if i > 0 {
			name = fmt.Sprintf("%s-%d", base, i+1)
		}
		_, taken := state.Find(name)
		if !taken && !slices.ContainsFunc(state.History, func(t rotation.Transition) bool { return t.Chain == name }) {
			return name, nil
		}
	}
	return "", fmt.Errorf("too many chains have the name %s", base)
}

// nextChain has the directory and the subject for a new chain.
type nextChain struct {
	dir     string
	subject *x509.Certificate
}

// makeIntermediate makes a key and an issuing certificate in dir, or uses those of an earlier attempt. Its errors about
// settings have paths below rotation.renew.
func makeIntermediate(ctx context.Context, r *config.Renew, next nextChain) ([]*x509.Certificate, error) {
	dir := next.dir
	chainFile, keyFile := filepath.Join(dir, "chain.pem"), filepath.Join(dir, "ca-key.pem")
	if chain, err := signer.ReadChain(chainFile); err == nil {
		return chain, nil // it is written last
	}
	name, backend := r.Parent.Selected()
	parent, err := signer.Open(ctx, backend, signer.Options{})
	if err != nil {
		return nil, fault.Under(err, "parent", name)
	}
	defer parent.Close() //nolint:errcheck // it has signed
	password, err := r.Password.Read()
	if err != nil {
		return nil, fault.Under(err, "password")
	}
	key, made, err := ceremony.Intermediate(ctx, ceremony.IntermediateOptions{
		Parents: parent.Chain, Signer: parent.Signer, Subject: next.subject.RawSubject, Life: r.LifeOrDefault(),
	}, ceremony.Options{})
	if err != nil {
		return nil, fault.BadSetting(err.Error(),
			"name the chain and the key of a CA that may sign issuing certificates",
			"parent", name)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.BadFile(dir, err, "dir")
	}
	text, err := ceremony.EncodeKey(key, password)
	if err != nil {
		return nil, err
	}
	var chain []byte
	for _, cert := range made {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	if _, err := os.Stat(keyFile); err == nil {
		if err := os.Rename(keyFile, keyFile+".unused"); err != nil { // the key of an attempt without a certificate
			return nil, fault.BadFile(keyFile, err, "dir")
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.BadFile(keyFile, err, "dir")
	}
	if err := durable.WriteFile(keyFile, text, 0o600); err != nil {
		return nil, fault.BadFile(keyFile, err, "dir")
	}
	if err := durable.WriteFile(chainFile, chain, 0o644); err != nil {
		return nil, fault.BadFile(chainFile, err, "dir")
	}
	return made, nil
}
