package rekor_test

import (
	"testing"

	"github.com/mayfly-ca/mayfly/rekor"
	"github.com/mayfly-ca/mayfly/testkit/collected"
)

// F10: every metric is served.
func TestMetrics(t *testing.T) {
	t.Parallel()
	collected.All(t, "metrics.go", rekor.New(rekor.Options{}).Collectors())
}
