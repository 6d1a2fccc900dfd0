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

// F2: only refusals that a verified identity caused count, the limit recovers at its rate, and its memory is bounded.
func TestIdentityLimit(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	p := newIdentityLimit(func() time.Time { return now })
	of := func(subject string) *oidc.Decision {
		return &oidc.Decision{Identity: identity.Identity{Issuer: "i", Subject: subject}, Entry: "e", ProviderKey: "k"}
	}
	alice, bob := of("alice"), of("bob")
	for range 2 * identityRefusalBurst {
		// failures of the server, or no failure
		for _, reason := range []fault.Reason{fault.LogUnavailable, fault.InternalError, fault.RateLimited} {
			p.count(alice, fault.New(reason, errors.New("x")))
		}
		// the token was not verified
		p.count(&oidc.Decision{Identity: alice.Identity}, fault.New(fault.TokenExpired, nil))
	}
	p.count(nil, fault.New(fault.KeyMissing, nil))
	if p.limiter.Len() != 0 || p.check(alice) != nil {
		t.Fatal("a refusal counts that the identity did not cause")
	}
	for range identityRefusalBurst {
		if err := p.check(alice); err != nil {
			t.Fatal(err)
		}
		p.count(alice, fault.New(fault.KeyMissing, nil))
	}
	err := p.check(alice)
	if f := fault.From(err); f.Reason != fault.RateLimited || f.RetryAfter < time.Second ||
		!errors.Is(err, errIdentityLimit) {
		t.Errorf("%v", err)
	}
	if p.check(bob) != nil || p.check(&oidc.Decision{Entry: "e", ProviderKey: "k"}) != nil {
		t.Error("others are refused")
	}
	now = now.Add(time.Second)
	for n := range identityRefusalRate {
		if p.check(alice) != nil {
			t.Fatalf("after a second %d are admitted", n)
		}
		p.count(alice, fault.New(fault.KeyMissing, nil))
	}
	if p.check(alice) == nil {
		t.Error("more than the rate")
	}
	for n := range 2 * maxLimitedIdentities {
		p.count(of(fmt.Sprint(n)), fault.New(fault.KeyMissing, nil))
	}
	if p.limiter.Len() > maxLimitedIdentities || p.check(alice) == nil {
		t.Errorf("%d identities are kept", p.limiter.Len())
	}
	now = now.Add(time.Hour)
	if p.count(of("another"), fault.New(fault.KeyMissing, nil)); p.limiter.Len() != 1 || p.check(alice) != nil {
		t.Errorf("%d identities are kept after an hour", p.limiter.Len())
	}
}

// A request of an identity that was not refused allocates nothing.
func TestIdentityLimitAllocates(t *testing.T) { //nolint:paralleltest // it counts allocations
	p := newIdentityLimit(time.Now)
	d := &oidc.Decision{Identity: identity.Identity{Issuer: "i", Subject: "alice"}, Entry: "e", ProviderKey: "k"}
	p.count(d, fault.New(fault.KeyMissing, nil))
	if n := testing.AllocsPerRun(100, func() { _ = p.check(d) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
