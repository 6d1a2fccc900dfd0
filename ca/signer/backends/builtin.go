package backends

import (
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/ca/signer/tink"
	"github.com/mayfly-ca/mayfly/internal/version"
)

// BuiltIn returns the key backends of this build, by their names in the configuration.
func BuiltIn() []version.KeyBackend {
	var out []version.KeyBackend
	for _, r := range (Table{}).rows() {
		b := version.KeyBackend{Name: r.name}
		switch {
		case r.refused, r.name == "tink" && !tink.BuiltIn():
			continue
		case r.name == "kms":
			if b.Services, _ = kms.BuiltIn(); len(b.Services) == 0 {
				continue
			}
		}
		out = append(out, b)
	}
	return out
}
