package config

import (
	"testing"
	"time"
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
	} {
		if err := c.l.check(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.l, err)
		}
	}
}
