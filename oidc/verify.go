package oidc

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// tokenCheck is one rule on the claims of a token.
type tokenCheck struct {
	name string
	run  func(*row, *token, time.Time) error
}

// tokenChecks are the rules, in the order in which they are looked at. Claims may not be verified yet then: what a refusal
// says tells the caller nothing but what the caller's own token says.
var tokenChecks = []tokenCheck{
	{"claim names", (*row).checkNames},
	{"audience", func(r *row, t *token, _ time.Time) error { return r.checkAudience(t.claims) }},
	{"expiry", (*row).checkExpiry},
	{"not before", (*row).checkNotBefore},
	{"issued at", (*row).checkIssuedAt},
	{"algorithm", (*row).checkAlgorithm},
}

// check holds a token's claims against the rules of its row.
func (r *row) check(t *token, now time.Time) error {
	for _, c := range tokenChecks {
		if err := c.run(r, t, now); err != nil {
			return err
		}
	}
	return nil
}

// checkAlgorithm: an asymmetric one (RFC 7518 §3.1) that the row allows. What the provider announces comes with its keys.
func (r *row) checkAlgorithm(t *token, _ time.Time) error {
	allowed := r.config.TokenAlgorithms
	if len(allowed) == 0 {
		allowed = algorithms
	}
	if !slices.Contains(allowed, t.alg) {
		return fault.New(fault.AlgorithmNotAllowed, nil, "alg", t.alg)
	}
	return nil
}

func (r *row) checkNames(t *token, _ time.Time) error {
	if t.unclean != nil && !r.lenient {
		return fault.New(fault.TokenMalformed, t.unclean)
	}
	// the texts that go-oidc reads (OpenID Connect Core 1.0 §2)
	for _, name := range []string{"sub", "nonce", "at_hash"} {
		if v := t.claims[name]; v != nil {
			if _, isText := v.(string); !isText {
				return fault.New(fault.ClaimInvalid, errors.New("not a text"), "claim", name)
			}
		}
	}
	return nil
}

func (r *row) checkExpiry(t *token, now time.Time) error {
	exp, ok, err := t.claims.at("exp")
	switch {
	case err != nil:
		return err
	case !ok:
		return fault.New(fault.ClaimMissing, nil, "claim", "exp")
	case !now.Before(exp):
		return fault.New(fault.TokenExpired, nil, "seconds", seconds(now.Sub(exp)))
	}
	return nil
}

func (r *row) checkNotBefore(t *token, now time.Time) error {
	slack := leeway
	if r.lenient {
		slack = lenientLeeway
	}
	nbf, ok, err := t.claims.at("nbf")
	if err == nil && ok && nbf.After(now.Add(slack)) {
		return fault.New(fault.TokenNotYetValid, nil, "seconds", seconds(nbf.Sub(now)))
	}
	return err
}

// checkIssuedAt: made not in the future, not too long ago, and not for too long.
func (r *row) checkIssuedAt(t *token, now time.Time) error {
	iat, ok, err := t.claims.at("iat")
	if err != nil || r.lenient && r.config.MaxAge == 0 && r.config.MaxLifetime == 0 {
		return err
	}
	exp, _, err := t.claims.at("exp")
	switch {
	case err != nil:
		return err
	case !ok:
		return fault.New(fault.ClaimMissing, nil, "claim", "iat")
	case r.config.MaxAge > 0 && now.Sub(iat) > r.config.MaxAge:
		return fault.New(fault.TokenTooLongLived, fmt.Errorf("made %s ago", now.Sub(iat)), "max", r.config.MaxAge.String())
	case iat.After(now.Add(leeway)) && (!r.lenient || r.config.MaxAge > 0):
		return fault.New(fault.TokenNotYetValid, nil, "seconds", seconds(iat.Sub(now)))
	case exp.Sub(iat) > r.lifetime && (!r.lenient || r.config.MaxLifetime > 0):
		return fault.New(fault.TokenTooLongLived, fmt.Errorf("lives %s", exp.Sub(iat)), "max", r.lifetime.String())
	}
	return nil
}

// checkAudience: one of the row's audiences is among the token's; who asked for the token (azp) is as the row says, or with
// several audiences is an accepted one (D9).
func (r *row) checkAudience(c claims) error {
	all := c.audiences()
	mismatch := func(want []string, got string) error {
		return fault.New(fault.AudienceMismatch, nil, "want", strings.Join(want, " "), "got", got)
	}
	if !slices.ContainsFunc(r.audiences, func(a string) bool { return slices.Contains(all, a) }) {
		return mismatch(r.audiences, strings.Join(all, " "))
	}
	azp, isText := c["azp"].(string)
	there := c["azp"] != nil
	if parties := r.config.AuthorizedParties; len(parties) > 0 {
		if !isText || !slices.Contains(parties, azp) {
			return mismatch(parties, "azp "+azp)
		}
		return nil
	}
	if there && len(all) > 1 && !slices.Contains(r.audiences, azp) && !r.lenient {
		return mismatch(r.audiences, "azp "+azp)
	}
	return nil
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }
