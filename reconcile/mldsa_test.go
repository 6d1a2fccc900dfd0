package reconcile

import (
	"testing"

	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// The audit notices every certificate of an ML-DSA key, and takes no other key for it.
func TestSignedByMLDSA(t *testing.T) {
	t.Parallel()
	for _, kind := range []pki.KeyType{pki.MLDSA44, pki.MLDSA65, pki.MLDSA87} {
		p := pki.New(pki.Options{Key: kind})
		leaf := p.Leaf(1, true)
		if !signedBy(p.Key.Public(), leaf) {
			t.Errorf("%s: not noticed", kind)
		}
		if signedBy(p.RootKey.Public(), leaf) || signedBy(pki.NewKey(kind).Public(), leaf) ||
			signedBy(pki.NewKey(pki.P256).Public(), leaf) {
			t.Errorf("%s: another key", kind)
		}
	}
}
