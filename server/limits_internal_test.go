package server

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/rate"
)

// F8: however many identities are over their limit, an issuer entry has its own.
func TestIssuerLimitWithManyIdentities(t *testing.T) {
	t.Parallel()
	now := time.Unix(1.8e9, 0)
	s, core := &Server{rates: newRates(func() time.Time { return now })}, &Core{}
	slow := rate.Config{Rate: 0.001, Burst: 1}
	for n := range 2 * maxLimitedByIdentity {
		k := verifiedKey{limit: limitIdentity, entry: "e", subject: strconv.Itoa(n), rate: slow}
		s.takeVerified(context.Background(), core, k)
	}
	for n := range 5 {
		k := verifiedKey{limit: limitIssuer, entry: "e", rate: rate.Config{Rate: 1, Burst: 5}}
		if wait := s.takeVerified(context.Background(), core, k); wait != 0 {
			t.Errorf("request %d of the entry waits for %s", n, wait)
		}
	}
}
