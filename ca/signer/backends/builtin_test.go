package backends_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/internal/version"
)

// Without build tags, everything is built in but the backend that is refused.
func TestBuiltIn(t *testing.T) {
	t.Parallel()
	want := []version.KeyBackend{
		{Name: "file"},
		{Name: "kms", Services: []string{
			"AWS KMS", "Google Cloud KMS", "Azure Key Vault",
			"HashiCorp Vault or OpenBao",
		}},
		{Name: "pkcs11"},
		{Name: "tink"},
		{Name: "ephemeral"},
	}
	if diff := cmp.Diff(want, backends.BuiltIn()); diff != "" {
		t.Error(diff)
	}
}
