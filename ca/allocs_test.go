package ca_test

import (
	"context"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// maxAllocs is the limit of allocations for one certificate in the issuance core: unsigned, two lints, two signatures,
// correspondence, release. Most of them are in the parsers and signatures of the standard library. The race detector
// adds a few. Lower the limit when the number falls.
const maxAllocs = 340

// A change that makes a certificate need more allocations fails this test.
func TestAllocations(t *testing.T) {
	p := pki.New(pki.Options{})
	a, err := ca.New(ca.Options{Chain: p.Chain, Signer: p.Key, Log: &silent{scts: oneSCT(t)}})
	if err != nil {
		t.Fatal(err)
	}
	r := request(t, alice())
	n := testing.AllocsPerRun(100, func() {
		if _, err := a.Issue(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%.0f allocations", n)
	if n > maxAllocs {
		t.Errorf("a certificate allocates %.0f times; at most %d", n, maxAllocs)
	}
}

// silent is a log that returns the same answer to every submission and stores nothing.
type silent struct{ scts [][]byte }

func (s *silent) Submit(context.Context, tbs.Precertificate) ([][]byte, error) { return s.scts, nil }
