package node

import (
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/trust"
)

// Signers get exactly one service of a kind: of those in use, the one that began last. A service that has not begun is
// not listed, because some clients ignore its beginning.
func TestNewestService(t *testing.T) {
	t.Parallel()
	cfg := &config.Config{Publish: config.Publish{
		URL: "https://ca.example.com", Issuer: "https://idp.example.com",
		Rekor: []config.PublishedLog{
			{URL: "https://new.example.com", NotBefore: "2026-06-01"},
			{URL: "https://old.example.com", NotAfter: "2026-07-01"},
			{URL: "https://next.example.com", NotBefore: "2027-01-01"},
		},
		TSA: []config.PublishedTSA{{URL: "https://tsa.example.com/api/v1/timestamp", NotAfter: "2026-02-01"}},
	}, TSA: &config.TSA{}}
	at := func(month time.Month) time.Time { return time.Date(2026, month, 10, 0, 0, 0, 0, time.UTC) }
	const own, other = "https://ca.example.com/api/v1/timestamp", "https://tsa.example.com/api/v1/timestamp"
	for when, want := range map[time.Time][2]string{
		at(1):  {"https://old.example.com", other},
		at(5):  {"https://old.example.com", own},
		at(6):  {"https://new.example.com", own},
		at(12): {"https://new.example.com", own},
		at(14): {"https://next.example.com", own},
	} {
		s := clients{cfg, cfg.PublicURL(), when}.services(trust.Material{})
		if len(s.Rekor) != 1 || len(s.TSA) != 1 || s.Rekor[0].URL != want[0] || s.TSA[0].URL != want[1] {
			t.Errorf("at %s: %+v, want %q", when, s, want)
		}
	}
}
