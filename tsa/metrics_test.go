package tsa_test

import (
	"testing"

	"github.com/mayfly-ca/mayfly/testkit/collected"
	"github.com/mayfly-ca/mayfly/tsa"
)

// F10: every metric is served.
func TestMetrics(t *testing.T) {
	t.Parallel()
	collected.All(t, "metrics.go", open(t, tsa.Config{}, tsa.Options{}).Collectors())
}
