package server

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server/admission"
)

func TestBlame(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		failure *fault.Error
		took    time.Duration
		want    fault.Party
	}{
		"a certificate":               {nil, time.Minute, "none"},
		"a wrong token":               {fault.New(fault.TokenExpired, nil), time.Minute, fault.PartyCaller},
		"a log":                       {fault.New(fault.LogUnavailable, nil), 0, fault.PartyLog},
		"overload":                    {fault.New(fault.RateLimited, nil).By(fault.PartyUs), 0, fault.PartyUs},
		"a limit":                     {fault.New(fault.RateLimited, nil), 0, fault.PartyCaller},
		"a caller that left at once":  {fault.New(fault.CallerCanceled, nil), patience, fault.PartyCaller},
		"a caller that left later":    {fault.New(fault.CallerCanceled, nil), patience + 1, fault.PartyUs},
		"a deadline that was short":   {fault.New(fault.CallerDeadline, nil), patience, fault.PartyCaller},
		"a deadline that was not":     {fault.New(fault.CallerDeadline, nil), patience + 1, fault.PartyUs},
		"an error without a reason":   {fault.From(errors.New("x")), 0, fault.PartyUs},
		"a limit after a long wait":   {fault.New(fault.RateLimited, nil), time.Minute, fault.PartyCaller},
		"keys that cannot be fetched": {fault.New(fault.ProviderUnavailable, nil), 0, fault.PartyProvider},
	} {
		if got := blame(c.failure, c.took); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// A source that has used up its share is refused by its own fault; if the whole budget is used up, the server has too
// little capacity.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	b := admission.NewBudget[admission.Source](2, 1)
	one := admission.SourceOf(netip.MustParseAddr("192.0.2.1"))
	for _, c := range []struct {
		source string
		want   fault.Party
	}{{"192.0.2.1", fault.PartyCaller}, {"192.0.2.2", fault.PartyUs}} {
		b.Take(admission.SourceOf(netip.MustParseAddr(c.source)))
		if b.Take(one) {
			t.Fatal("there is room")
		}
		if f := noRoom(b, errReceiving); f.Party != c.want || f.Reason != fault.RateLimited || f.RetryAfter == 0 {
			t.Errorf("%+v, want %s", f, c.want)
		}
	}
}
