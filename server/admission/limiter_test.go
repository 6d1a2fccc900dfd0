package server

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc"
)

// F2: only refusals of what a verified identity sent count, they are forgiven at their rate, and the memory for them is
// bounded.
func TestRepeats(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	p := newRepeats(func() time.Time { return now })
	of := func(subject string) *oidc.Decision {
		return &oidc.Decision{Identity: identity.Identity{Issuer: "i", Subject: subject}, Entry: "e", ProviderKey: "k"}
	}
	alice, bob := of("alice"), of("bob")
	for range 2 * refusalsAtOnce {
		// the server's own, or no fault
		for _, reason := range []fault.Reason{fault.LogUnavailable, fault.InternalError, fault.RateLimited} {
			p.refused(alice, fault.New(reason, errors.New("x")))
		}
		// nobody vouches for the identity
		p.refused(&oidc.Decision{Identity: alice.Identity}, fault.New(fault.TokenExpired, nil))
	}
	p.refused(nil, fault.New(fault.KeyMissing, nil))
	if len(p.by) != 0 || p.admit(alice) != nil {
		t.Fatal("what is no fault of the identity counts")
	}
	for range refusalsAtOnce {
		if err := p.admit(alice); err != nil {
			t.Fatal(err)
		}
		p.refused(alice, fault.New(fault.KeyMissing, nil))
	}
	err := p.admit(alice)
	if f := fault.From(err); f.Reason != fault.RateLimited || f.RetryAfter < time.Second ||
		!errors.Is(err, errRepeats) {
		t.Errorf("%v", err)
	}
	if p.admit(bob) != nil || p.admit(&oidc.Decision{Entry: "e", ProviderKey: "k"}) != nil {
		t.Error("others are refused")
	}
	now = now.Add(time.Second)
	for n := range refusalsRate {
		if p.admit(alice) != nil {
			t.Fatalf("after a second %d are admitted", n)
		}
		p.refused(alice, fault.New(fault.KeyMissing, nil))
	}
	if p.admit(alice) == nil {
		t.Error("more than the rate")
	}
	for n := range 2 * mostRepeaters {
		p.refused(of(fmt.Sprint(n)), fault.New(fault.KeyMissing, nil))
	}
	if len(p.by) > mostRepeaters || p.admit(alice) == nil {
		t.Errorf("%d identities are kept", len(p.by))
	}
	now = now.Add(time.Hour)
	if p.refused(of("another"), fault.New(fault.KeyMissing, nil)); len(p.by) != 1 || p.admit(alice) != nil {
		t.Errorf("%d identities are kept after an hour", len(p.by))
	}
}

// Whoever is not refused pays next to nothing.
func TestRepeatsAllocate(t *testing.T) { //nolint:paralleltest // it counts allocations
	p := newRepeats(time.Now)
	d := &oidc.Decision{Identity: identity.Identity{Issuer: "i", Subject: "alice"}, Entry: "e", ProviderKey: "k"}
	p.refused(d, fault.New(fault.KeyMissing, nil))
	if n := testing.AllocsPerRun(100, func() { _ = p.admit(d) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
