package ship_test

import (
	"testing"

	"github.com/mayfly-ca/mayfly/testkit/records"
)

// The journals and records of these tests.
var (
	open, shut      = records.Open, records.Close
	intent, outcome = records.Intent, records.Outcome
	eventually      = records.Eventually
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
