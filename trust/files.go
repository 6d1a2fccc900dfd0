package trust

import (
	"fmt"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

// The names of the two files that clients get.
const (
	RootName    = "trusted_root.json"   // for verifiers
	SigningName = "signing_config.json" // for signers
)

// WriteFiles writes both files into dir, which must exist. If the content of one is invalid, it writes neither.
func WriteFiles(dir string, m Material, s Services) error {
	root, err := m.TrustedRoot()
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	signing, err := s.SigningConfig()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, RootName), root, 0o644); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, SigningName), signing, 0o644)
}
