package node

import (
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer/ephemeral"
	"github.com/mayfly-ca/mayfly/config"
)

// Without a file that has the issuing certificate, the offline audit fails: the key MUST NOT come from the journal.
func TestIssuersOfNoFile(t *testing.T) {
	t.Parallel()
	var cfg config.Config
	cfg.CA.Ephemeral = new(ephemeral.Settings)
	if out, err := auditedIssuers(&cfg); err == nil || len(out) > 0 || !strings.Contains(err.Error(), "ca.file") {
		t.Errorf("%d issuers, %v", len(out), err)
	}
	cfg.CA.Trust = []string{"/nowhere"} // past issuers do not replace the present one
	if out, err := auditedIssuers(&cfg); err == nil || len(out) > 0 {
		t.Errorf("%d issuers, %v", len(out), err)
	}
}
