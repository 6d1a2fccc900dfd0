// Package ephemeral is the key backend for trials: root, chain and key are made when it is opened, and exist only in
// the memory of this process.
package ephemeral

import (
	"context"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
)

// Settings are empty: "ephemeral: {}".
type Settings struct{}

// Check implements [signer.Backend].
func (*Settings) Check() error { return nil }

// Temporary implements [signer.Backend].
func (*Settings) Temporary() bool { return true }

// ChainFile implements [signer.Backend].
func (*Settings) ChainFile() string { return "" }

// Attest implements [signer.Attester].
func (*Settings) Attest(context.Context) (signer.Attestation, error) {
	return signer.Attestation{
		Exportable: signer.ExportNo,
		Reason:     "it exists only in the memory of the process, and is lost when the process ends",
	}, nil
}

// Open makes a root, an issuing certificate and a key. The key of the root is discarded at once.
func (*Settings) Open(context.Context, signer.Options) (*signer.Key, error) {
	h, err := ca.NewHierarchy(ca.HierarchyOptions{Organization: "mayfly ephemeral", Now: time.Now()})
	if err != nil {
		return nil, err
	}
	return &signer.Key{Signer: h.Key, Chain: h.Chain}, nil
}
