package ca_test

import (
	"context"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// maxAllocs is what one certificate may allocate in the issuance core: unsigned, two lints, two signatures,
// correspondence, release. What the standard library needs for parsing and signatures is most of it, and the race
// detector adds a few; lower the number when it falls.
const maxAllocs = 340

// A change that makes each certificate allocate more is seen here, not in a benchmark that nobody reads.
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

// silent is a log that answers and remembers nothing.
type silent struct{ scts [][]byte }

func (s *silent) Submit(context.Context, tbs.Precertificate) ([][]byte, error) { return s.scts, nil }
