package ca_test

import (
	"errors"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/second"
)

// C1 // C9: an ML-DSA chain passes the trial if it is permitted, and a second implementation verifies what the key
// signed; otherwise the refusal is about the chain.
func TestMLDSA(t *testing.T) {
	t.Parallel()
	for _, kind := range []pki.KeyType{pki.MLDSA44, pki.MLDSA65, pki.MLDSA87} {
		p := pki.New(pki.Options{Key: kind})
		for _, precertIssuer := range []bool{false, true} {
			a, err := ca.New(ca.Options{Chain: p.Chain, Signer: p.Key, MLDSA: true, PrecertIssuer: precertIssuer})
			if err != nil {
				t.Errorf("%s: %v", kind, err)
				continue
			}
			if err := second.CheckSignature(a.Trial().Raw, p.Intermediate.RawSubjectPublicKeyInfo); err != nil {
				t.Errorf("%s: circl: %v", kind, err)
			}
		}
		_, err := ca.New(ca.Options{Chain: p.Chain, Signer: p.Key})
		if s, ok := errors.AsType[*fault.Setting](err); !ok || s.Path[0] != "chain" {
			t.Errorf("%s, not permitted: %v", kind, err)
		}
		if _, err := ca.New(ca.Options{Chain: p.Chain, Signer: pki.NewKey(kind), MLDSA: true}); err == nil {
			t.Errorf("%s: the key of another", kind)
		}
	}
}
