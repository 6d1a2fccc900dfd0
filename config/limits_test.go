package config

import (
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/rate"
)

// G1: limits that are out of range or contradict each other are refused.
func TestLimits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		l  Limits
		ok bool
	}{
		{Limits{}, true},
		{Limits{Requests: 1, Wait: time.Millisecond}, true},
		{Limits{Requests: mostRequests, Wait: longestWait}, true},
		{Limits{Requests: -1}, false},
		{Limits{Requests: mostRequests + 1}, false},
		{Limits{Wait: -1}, false},
		{Limits{Wait: longestWait + 1}, false},
		{Limits{Source: &rate.Config{Rate: 0.5, Burst: 5}}, true},
		{Limits{Source: &rate.Config{Rate: 0.5}}, false},
		{Limits{Issuer: &rate.Config{Burst: 5}}, false},
		{Limits{Identity: &rate.Config{Rate: -1, Burst: 5}}, false},
	} {
		if err := c.l.check(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.l, err)
		}
	}
}
