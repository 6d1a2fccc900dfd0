package ca_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// G7: the wall clock may step back by two seconds. After a larger step nothing is issued until the clock has caught up.
func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, row := range []struct {
		name    string
		passed  time.Duration // on the monotonic clock, since the last certificate
		wall    time.Duration // of the wall clock, relative to that certificate
		refused string        // part of the error; "" means that the certificate is issued
	}{
		{"goes on", time.Minute, time.Minute, ""},
		{"stands still", time.Minute, 0, ""},
		{"goes back by two seconds", time.Second, -2 * time.Second, ""},
		{"goes back by more", 0, -2*time.Second - time.Millisecond, "went back by 2 s"},
		{
			"goes back by a minute, half a minute ago", 30 * time.Second, -30 * time.Second,
			"went back by 60 s; certificates are issued again when the clock has passed " +
				"2026-05-01T12:00:00Z, in 30 s (or",
		},
		{"has caught up", time.Minute, -time.Second, ""},
		{"jumps ahead", time.Second, 24 * time.Hour, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			mono := 5 * time.Second
			c := ca.NewClock(func() time.Duration { return mono })
			if err := c.Check(start.Add(-time.Hour)); err != nil {
				t.Errorf("before the first certificate: %v", err)
			}
			c.Issued(start)
			c.Issued(start.Add(-time.Minute)) // of a request that began earlier
			mono += row.passed
			err := c.Check(start.Add(row.wall))
			if (err != nil) != (row.refused != "") || err != nil && !strings.Contains(err.Error(), row.refused) {
				t.Errorf("error is %v, want %q", err, row.refused)
			}
		})
	}
}

// G7: an authority checks the clock before it builds a certificate, and the error gives the reason.
func TestNotReady(t *testing.T) {
	t.Parallel()
	start := time.Now()
	p := pki.New(pki.Options{Now: start.Add(-time.Hour)})
	now, asked := start, error(nil)
	signer := &spy{Signer: p.Key}
	a, err := ca.New(ca.Options{
		Chain: p.Chain, Signer: signer, Log: &stub{scts: oneSCT(t)}, Now: func() time.Time { return now },
		Ready: func() error { return asked },
	})
	if err != nil {
		t.Fatal(err)
	}
	trial := len(signer.digests)
	for _, row := range []struct {
		name  string
		now   time.Time
		asked error
		cause string
	}{
		{"good", start, nil, ""},
		{"not ready", start, errors.New("the lab says no"), "the lab says no"},
		{"ready", start, nil, ""},
		{"clock went back", start.Add(-10 * time.Second), nil, "clock went back by 10 s"},
		{"clock has caught up", start, nil, ""},
	} {
		now, asked = row.now, row.asked
		before := len(signer.digests)
		_, err := a.Issue(t.Context(), request(t, alice()))
		if row.cause == "" {
			if err != nil {
				t.Errorf("%s: %v", row.name, err)
			}
			continue
		}
		if e := fault.From(err); e.Reason != fault.NotReady || !strings.Contains(e.Meta["cause"], row.cause) ||
			len(signer.digests) != before {
			t.Errorf("%s: %+v after %d signatures", row.name, e, len(signer.digests)-trial)
		}
	}
}
