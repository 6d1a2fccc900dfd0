package trust

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

// The names of the files that clients get.
const (
	RootName    = "trusted_root.json"   // for verifiers
	SigningName = "signing_config.json" // for signers
	ConfigName  = "trust_config.json"   // both in one, as sigstore-python and sigstore-rs read them
)

const configMediaType = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"

// ClientConfig returns trust_config.json with the content of the two other files.
func ClientConfig(root, signing []byte) ([]byte, error) {
	data, err := json.MarshalIndent(struct {
		MediaType     string          `json:"mediaType"`
		SigningConfig json.RawMessage `json:"signingConfig"`
		TrustedRoot   json.RawMessage `json:"trustedRoot"`
	}{configMediaType, signing, root}, "", "  ")
	return append(data, '\n'), err
}

// WriteFiles writes the three files into dir, which must exist. If the content of one is invalid, it writes none.
func WriteFiles(dir string, m Material, s Services) error {
	root, err := m.TrustedRoot()
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	signing, err := s.SigningConfig()
	if err != nil {
		return err
	}
	config, err := ClientConfig(root, signing)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{RootName: root, SigningName: signing} {
		if err := durable.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return durable.WriteFile(filepath.Join(dir, ConfigName), config, 0o644)
}
