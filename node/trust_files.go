package node

import (
	"fmt"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/trust"
)

// The names of the two files.
const (
	RootName    = "trusted_root.json"
	SigningName = "signing_config.json"
)

// Exported is what the two files are made from.
type Exported struct {
	Config     *config.Config
	Material   *Material
	Timestamps []trust.Authority
	Signatures []trust.Log
	Services   trust.Services
}

// Write puts both files into dir, which exists.
func (e Exported) Write(dir string) error {
	m, err := e.Material.export(e.Config, e.Services.CA)
	if err != nil {
		return e.Config.Locate(err)
	}
	m.Timestamps, m.Rekor = e.Timestamps, e.Signatures
	root, err := m.TrustedRoot()
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	signing, err := e.Services.SigningConfig()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, RootName), root, 0o644); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, SigningName), signing, 0o644)
}
