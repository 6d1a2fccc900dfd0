package oidc

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// check holds a token's claims against the rules of its row. It looks at claims that may not be verified yet: what it says
// tells the caller nothing but what the caller's own token says.
func (r *row) check(t *token, now time.Time) error {
	lenient := r.config.Compat == "fulcio"
	if t.unclean != nil && !lenient {
		return fault.New(fault.TokenMalformed, t.unclean)
	}
	if err := r.checkAudience(t.claims); err != nil {
		return err
	}
	exp, ok, err := t.claims.at("exp")
	if err != nil {
		return err
	}
	if !ok {
		return fault.New(fault.ClaimMissing, nil, "claim", "exp")
	}
	if !now.Before(exp) {
		return fault.New(fault.TokenExpired, nil, "seconds", seconds(now.Sub(exp)))
	}
	slack := leeway
	if lenient {
		slack = lenientLeeway
	}
	nbf, ok, err := t.claims.at("nbf")
	if err != nil {
		return err
	}
	if ok && nbf.After(now.Add(slack)) {
		return fault.New(fault.TokenNotYetValid, nil, "seconds", seconds(nbf.Sub(now)))
	}
	if lenient {
		return nil
	}
	iat, ok, err := t.claims.at("iat")
	switch {
	case err != nil:
		return err
	case !ok:
		return fault.New(fault.ClaimMissing, nil, "claim", "iat")
	case iat.After(now.Add(leeway)):
		return fault.New(fault.TokenNotYetValid, nil, "seconds", seconds(iat.Sub(now)))
	case exp.Sub(iat) > r.lifetime:
		return fault.New(fault.TokenTooLongLived, fmt.Errorf("lives %s", exp.Sub(iat)), "max", r.lifetime.String())
	}
	return nil
}

// checkAudience: the client ID is among the audiences; with several of them, azp names it when it is there (D9).
func (r *row) checkAudience(c claims) error {
	all := c.audiences()
	mismatch := func(got string) error {
		return fault.New(fault.AudienceMismatch, nil, "want", r.config.ClientID, "got", got)
	}
	if !slices.Contains(all, r.config.ClientID) {
		return mismatch(strings.Join(all, " "))
	}
	if azp, ok := c["azp"].(string); ok && len(all) > 1 && azp != r.config.ClientID && r.config.Compat != "fulcio" {
		return mismatch("azp " + azp)
	}
	return nil
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }
